"""AdamW with decoupled weight decay, clipping by the global norm, the schedule."""

import dataclasses
import math

import torch
from torch import Tensor

from .names import NORMS


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_grad_norm: float


@dataclasses.dataclass
class State:
    step: int
    m: dict[str, Tensor]
    v: dict[str, Tensor]


def decays(name: str) -> bool:
    """Linear, expert and embedding weights do; biases and the gains of norms do not."""
    owner, _, kind = name.rpartition(".")
    if owner == "embed":
        return True
    return kind == "weight" and owner.rpartition(".")[2] not in NORMS


def cosine(step: int, base: float, warmup: int, total: int, final: float) -> float:
    """Linear to `base` over steps 1..warmup, then a half cosine to final * base at `total`."""
    if step <= warmup:
        return base * step / warmup
    turn = math.pi * (step - warmup) / (total - warmup)
    return base * (final + (1 - final) * 0.5 * (1 + math.cos(turn)))


def global_norm(grads: dict[str, Tensor]) -> float:
    return math.sqrt(sum((g.double() ** 2).sum().item() for g in grads.values()))


def clip_factor(norm: float, limit: float) -> float:
    return min(1.0, limit / (norm + 1e-6))


def initial(params: dict[str, Tensor]) -> State:
    def zeros() -> dict[str, Tensor]:
        return {name: torch.zeros_like(p, requires_grad=False) for name, p in params.items()}

    return State(0, zeros(), zeros())


def update(
    params: dict[str, Tensor],
    grads: dict[str, Tensor],
    state: State,
    config: AdamWConfig,
    lr: float,
) -> float:
    """One step in place, as the formulae stand in ops/README.md; returns the norm before it."""
    norm = global_norm(grads)
    factor = clip_factor(norm, config.clip_grad_norm)
    beta1, beta2 = config.betas
    state.step += 1
    correction1, correction2 = 1 - beta1**state.step, 1 - beta2**state.step
    with torch.no_grad():
        for name, p in params.items():
            g, m, v = grads[name] * factor, state.m[name], state.v[name]
            if decays(name):
                p.mul_(1 - lr * config.weight_decay)
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            p.sub_(lr * (m / correction1) / ((v / correction2).sqrt() + config.eps))
    return norm
