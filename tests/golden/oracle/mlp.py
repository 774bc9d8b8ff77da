"""Activations and the feed-forward network."""

import math

import torch
from torch import Tensor

from .config import GATED

Params = dict[str, Tensor]


def gelu(z: Tensor) -> Tensor:
    """The tanh form."""
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def gelu_erf(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))


def silu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(z)


PLAIN = {
    "gelu": gelu,
    "gelu_erf": gelu_erf,
    "relu": torch.relu,
    "relu2": lambda z: torch.relu(z) ** 2,
    "silu": silu,
    "swiglu": silu,
    "geglu": gelu,
}


def activate(name: str, z: Tensor) -> Tensor:
    """Gated forms split the last axis: act(first half) * second half."""
    if name in GATED:
        first, second = z.chunk(2, dim=-1)
        return PLAIN[name](first) * second
    return PLAIN[name](z)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x @ weight.T
    return y if bias is None else y + bias


def mlp(x: Tensor, params: Params, prefix: str, activation: str) -> Tensor:
    """x [..., d] -> [..., d]; parameters PREFIXup.*, PREFIXdown.*"""
    z = linear(x, params[prefix + "up.weight"], params.get(prefix + "up.bias"))
    hidden = activate(activation, z)
    return linear(hidden, params[prefix + "down.weight"], params.get(prefix + "down.bias"))
