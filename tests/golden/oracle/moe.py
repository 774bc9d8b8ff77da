"""The MoE layer as a loop over tokens: the definition, not an algorithm."""

import torch
from torch import Tensor

from .config import MoEConfig
from .mlp import Params, linear, mlp
from .routing import Routing, route


def split_experts(params: Params, prefix: str, num_experts: int) -> list[Params]:
    """The stacked [E, ...] tensors as one dictionary per expert."""
    names = [name for name in params if name.startswith(prefix + "experts.")]
    parts = {name.removeprefix(prefix + "experts."): params[name].unbind(0) for name in names}
    return [{name: part[e] for name, part in parts.items()} for e in range(num_experts)]


def moe_layer(
    x: Tensor, params: Params, prefix: str, moe: MoEConfig, seq_len: int
) -> tuple[Tensor, Routing]:
    """x [T, d] -> y [T, d]:  y_t = sum_j score[t, j] * expert_{index[t, j]}(x_t) + shared(x_t)"""
    gate_bias = params.get(prefix + "gate.bias")
    routing = route(moe, linear(x, params[prefix + "gate.weight"], gate_bias), seq_len)
    experts = split_experts(params, prefix, moe.num_experts)
    rows = []
    for t in range(x.shape[0]):
        y = torch.zeros_like(x[t])
        for e, score in zip(routing.indices[t], routing.scores[t], strict=True):
            if e >= 0:
                y = y + score * mlp(x[t], experts[e], "", moe.activation)
        if moe.num_shared_experts > 0:
            y = y + mlp(x[t], params, prefix + "shared.", moe.activation)
        rows.append(y)
    return torch.stack(rows), routing
