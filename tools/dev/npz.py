"""How two .npz archives differ, without numpy: the tools need no package."""

import ast
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

FORMATS = {"f4": "f", "f8": "d", "i4": "i", "i8": "q", "u1": "B", "i2": "h", "u2": "H"}


class Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> tuple | None:
        """Its numbers, or None for a dtype that is not listed."""
        code = FORMATS.get(self.dtype[1:])
        if self.dtype[0] not in "<|" or not code:
            return None
        return struct.unpack(f"<{len(self.data) // struct.calcsize(code)}{code}", self.data)


def read(path: Path) -> dict[str, Array]:
    """The arrays of an archive by name; NPY formats 1 and 2."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            raw = archive.read(name)
            if raw[:6] != b"\x93NUMPY":
                raise ValueError(f"{path.name}: {name} is no NPY file, it starts with {raw[:6]!r}")
            width = 2 if raw[6] == 1 else 4
            length = int.from_bytes(raw[8 : 8 + width], "little")
            start = 8 + width + length
            header = ast.literal_eval(raw[8 + width : start].decode("latin1"))
            arrays[name.removesuffix(".npy")] = Array(header["descr"], header["shape"], raw[start:])
    return arrays


def differences(old: Path, new: Path) -> list[str]:
    """A line for each array that is new, gone or different."""
    before, after = read(old), read(new)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            lines.append(f"{name}: gone")
        elif name not in before:
            lines.append(f"{name}: new, {after[name].dtype} {after[name].shape}")
        elif before[name] != after[name]:
            lines.append(f"{name}: {_difference(before[name], after[name])}")
    return lines or ["the same arrays, packed differently"]


def _difference(a: Array, b: Array) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype} {a.shape} before, {b.dtype} {b.shape} now"
    x, y = a.values(), b.values()
    if x is None or y is None:
        return f"other bytes ({a.dtype} {a.shape})"
    apart = [(abs(p - q), i) for i, (p, q) in enumerate(zip(x, y, strict=True)) if p != q]
    if not apart:
        return "only the signs of zeros, or the bits of NaNs, differ"
    worst, at = max(apart)
    return (
        f"{len(apart)} of {len(x)} differ, at most by {worst:.3g} ({x[at]!r} before, {y[at]!r} now)"
    )
