"""Batches of bytes: the source of the Python standard library."""

import pathlib
import sysconfig

import torch
from torch import Tensor

from shapes import Shape

MAX_BYTES = 4_000_000


def library_bytes() -> Tensor:
    """The first MAX_BYTES of the top-level modules, in the order of their names."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    data = bytearray()
    for path in sorted(folder.glob("*.py")):
        data += path.read_bytes()
        if len(data) >= MAX_BYTES:
            break
    return torch.frombuffer(data, dtype=torch.uint8)


class Batches:
    """Windows at random places, the same for every run."""

    def __init__(self, shape: Shape) -> None:
        self.text = library_bytes()
        self.shape = shape
        self.random = torch.Generator().manual_seed(1234)

    def next(self) -> tuple[Tensor, Tensor]:
        """tokens, targets: int64 [B, S]"""
        last = len(self.text) - self.shape.seq_len - 1
        starts = torch.randint(last, (self.shape.batch_size, 1), generator=self.random)
        window = self.text[starts + torch.arange(self.shape.seq_len + 1)].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()
