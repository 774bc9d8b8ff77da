"""A training step under one setting: forward, backward, clipping, AdamW."""

import contextlib
import time

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from corpus import Batches
from model import GPT
from setting import Setting
from shapes import Shape

WARMUP_STEPS = 3
ATTENTION = {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}


class Masters:
    """float32 copies of bfloat16 parameters, which the optimiser updates."""

    def __init__(self, model: nn.Module) -> None:
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []
        for name, p in model.named_parameters():
            if not name.endswith("gate"):  # routers stay in float32
                self.low.append(p)
                self.high.append(p.detach().clone().requires_grad_())
                self.high[-1].grad = torch.zeros_like(p)
                p.data = p.data.bfloat16()

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """What to optimise: each master, and each parameter that has none."""
        high = {id(low): high for low, high in zip(self.low, self.high, strict=True)}
        return [high.get(id(p), p) for p in model.parameters()]

    def take_gradients(self) -> None:
        torch._foreach_copy_([p.grad for p in self.high], [p.grad for p in self.low])

    @torch.no_grad()
    def give_weights(self) -> None:
        torch._foreach_copy_(self.low, self.high)


class Trainer:
    def __init__(self, shape: Shape, setting: Setting, dtype: str) -> None:
        torch.manual_seed(1234)
        self.batches = Batches(shape)
        self.model = GPT(shape, setting.experts)
        self.attention = ATTENTION[setting.attention]
        self.autocast = dtype == "bf16" and setting.bf16 == "autocast"
        self.masters = None
        self.parameters = list(self.model.parameters())
        if dtype == "bf16" and setting.bf16 == "weights":
            self.masters = Masters(self.model)
            self.parameters = self.masters.parameters(self.model)
        matrices = [p for p in self.parameters if p.dim() > 1]
        vectors = [p for p in self.parameters if p.dim() <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
        )
        self.call = self.model
        if setting.compile != "off":
            self.call = torch.compile(self.model, mode=setting.compile)

    def step(self) -> Tensor:
        tokens, targets = self.batches.next()
        lower = torch.autocast("cpu", dtype=torch.bfloat16)
        with sdpa_kernel(self.attention), lower if self.autocast else contextlib.nullcontext():
            loss = self.call(tokens, targets)
        loss.backward()
        if self.masters is not None:
            self.masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        if self.masters is not None:
            self.masters.give_weights()
        for p in self.model.parameters():
            p.grad = None
        return loss.detach()

    def timed_step(self) -> float:
        """Seconds; raises on a loss that is not a number."""
        start = time.perf_counter()
        loss = self.step()
        seconds = time.perf_counter() - start
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss {loss.item()}: not finite")
        return seconds

    def warm_up(self) -> float:
        """Compiles and fills caches; returns the seconds that it took."""
        start = time.perf_counter()
        for _ in range(WARMUP_STEPS):
            self.timed_step()
        return time.perf_counter() - start
