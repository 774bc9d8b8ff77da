"""The MoE layer once more, in numpy and without a loop over tokens.

Letters: T tokens, E experts, k choices, d model width.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from oracle.config import GATED, MoEConfig

from .archive import Floats

Ints = NDArray[np.int64]
Params = Mapping[str, Floats]

# numpy has no erf; the MoE cases do not use gelu_erf.
ACTIVATIONS = {
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0),
    "relu2": lambda z: np.maximum(z, 0) ** 2,
}
GATES = {"swiglu": "silu", "geglu": "gelu"}


@dataclasses.dataclass
class Result:
    y: Floats  # [T, d]
    indices: Ints  # [T, k], -1 = dropped
    scores: Floats  # [T, k], 0 where dropped
    balance: float
    z: float


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def activate(name: str, z: Floats) -> Floats:
    if name in GATED:
        half = z.shape[-1] // 2
        return ACTIVATIONS[GATES[name]](z[..., :half]) * z[..., half:]
    return ACTIVATIONS[name](z)


def feed_forward(x: Floats, weights: Params, activation: str) -> Floats:
    hidden = activate(activation, x @ weights["up.weight"].T + weights.get("up.bias", 0.0))
    return hidden @ weights["down.weight"].T + weights.get("down.bias", 0.0)


def select(logits: Floats, moe: MoEConfig) -> tuple[Ints, Floats]:
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, : moe.k]
    if moe.gate == "naive":
        return chosen, softmax(np.take_along_axis(logits, chosen, axis=1))
    scores = np.take_along_axis(softmax(logits), chosen, axis=1)
    if moe.gate == "gshard":
        scores = scores / scores.sum(1, keepdims=True)
    return chosen, scores


def balance_loss(logits: Floats, chosen: Ints, moe: MoEConfig, seq_len: int) -> float:
    if moe.gate == "naive":
        return 0.0
    num = moe.num_experts
    scope = seq_len if moe.aux_loss_scope == "sequence" else len(logits)
    first = np.eye(num)[chosen[:, 0]].reshape(-1, scope, num).mean(1)
    mean_probability = softmax(logits).reshape(-1, scope, num).mean(1)
    return float(num * (first * mean_probability).sum(1).mean())


def survivors(chosen: Ints, scores: Floats, moe: MoEConfig, seq_len: int) -> NDArray[np.bool_]:
    """[T, k]: a copy's place in its expert's queue is below the capacity."""
    kept = np.ones(chosen.shape, dtype=bool)
    if moe.capacity_factor is None:
        return kept
    group = seq_len if moe.capacity_scope == "sequence" else len(chosen)
    capacity = math.ceil(moe.capacity_factor * moe.k * group / moe.num_experts)
    for start in range(0, len(chosen), group):
        rows = slice(start, start + group)
        flat = chosen[rows].ravel()
        by_score = moe.drop_policy == "score"
        order = np.argsort(-scores[rows].ravel() if by_score else 0.0 * flat, kind="stable")
        queue = np.cumsum(np.eye(moe.num_experts, dtype=int)[flat[order]], axis=0)
        place = np.empty_like(flat)
        place[order] = queue[np.arange(len(flat)), flat[order]] - 1
        kept[rows] = (place < capacity).reshape(-1, moe.k)
    return kept


def moe_layer(x: Floats, params: Params, moe: MoEConfig, seq_len: int) -> Result:
    """x [T, d]; params by their names inside the layer."""
    logits = x @ params["gate.weight"].T + params.get("gate.bias", 0.0)
    chosen, scores = select(logits, moe)
    kept = survivors(chosen, scores, moe, seq_len)
    indices, scores = np.where(kept, chosen, -1), np.where(kept, scores, 0.0)
    y = np.zeros_like(x)
    for e in range(moe.num_experts):
        expert = {n.removeprefix("experts."): p[e] for n, p in params.items() if "experts." in n}
        weight = np.where(indices == e, scores, 0.0).sum(1, keepdims=True)
        y += weight * feed_forward(x, expert, moe.activation)
    shared = {n.removeprefix("shared."): p for n, p in params.items() if n.startswith("shared.")}
    if shared:
        y += feed_forward(x, shared, moe.activation)
    z = float((np.log(np.exp(logits).sum(1)) ** 2).mean())
    return Result(y, indices, scores, balance_loss(logits, chosen, moe, seq_len), z)
