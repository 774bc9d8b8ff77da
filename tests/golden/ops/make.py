"""Golden files of single operations and of AdamW. See README.md."""

import pathlib
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import adamw

from oracle import draw, gpt, npz
from oracle.command import write_all
from oracle.config import GATED, to_json
from oracle.gpt_case import Arrays, float32, int64
from oracle.mlp import PLAIN, activate

Floats = NDArray[np.float32]


def differentiate(
    inputs: dict[str, Floats], dy: Floats, mine: Callable[..., Tensor], other: Callable[..., Tensor]
) -> Arrays:
    """y = mine(*inputs) and the gradients of sum(y * dy); `other` must agree in both."""
    results = []
    for function in (mine, other):
        tensors = {n: torch.tensor(a, dtype=torch.float64) for n, a in inputs.items()}
        for tensor in tensors.values():
            tensor.requires_grad_()
        y = function(*tensors.values())
        (y * torch.tensor(dy, dtype=torch.float64)).sum().backward()
        results.append({"y": y} | {f"grad/{n}": t.grad for n, t in tensors.items()})
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    return {**inputs, "dy": dy} | {name: float32(value) for name, value in results[0].items()}


def attention(seed: int, heads: int, kv_heads: int, d_head: int, seq: int, theta: float) -> Arrays:
    """qkv [B, S, (H + 2G) D] -> y [B, S, H D]; theta 0: no rope."""
    rng = np.random.RandomState(seed)
    batch, counts = 2, (heads, kv_heads, kv_heads)
    qkv = draw.normal(rng, (batch, seq, sum(counts) * d_head), std=1.0)

    def with_core(core: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(qkv: Tensor) -> Tensor:
            parts = qkv.split([n * d_head for n in counts], dim=-1)
            q, k, v = (
                p.unflatten(-1, (n, d_head)).transpose(1, 2)
                for p, n in zip(parts, counts, strict=True)
            )
            if theta > 0:
                q, k = gpt.rope(q, theta), gpt.rope(k, theta)
            return core(q, k, v).transpose(1, 2).flatten(2)

        return run

    fused = with_core(
        lambda q, k, v: functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )
    )
    dy = draw.normal(rng, (batch, seq, heads * d_head), std=1.0)
    arrays = differentiate({"qkv": qkv}, dy, with_core(gpt.attention), fused)
    config = {"n_head": heads, "n_kv_head": kv_heads, "d_head": d_head, "rope_theta": theta}
    return arrays | {"config": npz.text(to_json(**config))}


def layer_norm() -> Arrays:
    rng = np.random.RandomState(404)
    inputs = {
        "x": draw.normal(rng, (7, 23), std=1.5, mean=0.5),
        "weight": draw.normal(rng, (23,), std=0.5, mean=1.0),
        "bias": draw.normal(rng, (23,), std=0.5),
    }
    dy, eps = draw.normal(rng, (7, 23), std=1.0), 1e-5
    arrays = differentiate(
        inputs,
        dy,
        lambda x, weight, bias: gpt.layer_norm(x, weight, bias, eps),
        lambda x, weight, bias: functional.layer_norm(x, (23,), weight, bias, eps),
    )
    return arrays | {"config": npz.text(to_json(eps=eps))}


def rms_norm() -> Arrays:
    rng = np.random.RandomState(405)
    inputs = {
        "x": draw.normal(rng, (7, 23), std=1.5, mean=0.5),
        "weight": draw.normal(rng, (23,), std=0.5, mean=1.0),
    }
    dy, eps = draw.normal(rng, (7, 23), std=1.0), 1e-5
    arrays = differentiate(
        inputs,
        dy,
        lambda x, weight: gpt.rms_norm(x, weight, eps),
        lambda x, weight: functional.rms_norm(x, (23,), weight, eps),
    )
    return arrays | {"config": npz.text(to_json(eps=eps))}


def cross_entropy() -> Arrays:
    """Row 3 is shifted by 200, where exp overflows float32; rows 2, 5 and 11 are ignored."""
    rng = np.random.RandomState(406)
    logits = draw.normal(rng, (13, 61), std=3.0)
    logits[3] += 200.0
    targets = rng.randint(0, 61, size=13).astype(np.int32)
    targets[[2, 5, 11]] = gpt.IGNORE
    labels = int64(targets)
    arrays = differentiate(
        {"logits": logits},
        np.ones((), dtype=np.float32),
        lambda logits: gpt.cross_entropy(logits, labels),
        lambda logits: functional.cross_entropy(logits, labels, ignore_index=gpt.IGNORE),
    )
    rows = functional.cross_entropy(
        torch.tensor(logits, dtype=torch.float64),
        labels,
        ignore_index=gpt.IGNORE,
        reduction="none",
    )
    return arrays | {"targets": targets, "rows": float32(rows)}


def gated(core: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: core(x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :]


def activations() -> Arrays:
    """Each as NAME/x, NAME/dy, NAME/y, NAME/grad/x; zero, far tails and both signs are in x."""
    rng = np.random.RandomState(407)

    def tanh_gelu(x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh")

    others: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": tanh_gelu,
        "gelu_erf": functional.gelu,
        "relu": functional.relu,
        "relu2": lambda x: functional.relu(x).square(),
        "silu": functional.silu,
        "swiglu": gated(functional.silu),
        "geglu": gated(tanh_gelu),
    }
    arrays: Arrays = {}
    for name in PLAIN:
        x = draw.normal(rng, (5, 14), std=2.0)
        x[0, :4] = (0.0, -0.0, 30.0, -30.0)
        dy = draw.normal(rng, (5, 7 if name in GATED else 14), std=1.0)
        case = differentiate({"x": x}, dy, lambda x, name=name: activate(name, x), others[name])
        arrays |= {f"{name}/{key}": value for key, value in case.items()}
    return arrays


if __name__ == "__main__":
    write_all(
        __doc__,
        {
            "attention": lambda: attention(401, 3, 3, d_head=8, seq=17, theta=0.0),
            "attention_rope_gqa": lambda: attention(402, 4, 2, d_head=6, seq=11, theta=100.0),
            "attention_rope_mqa": lambda: attention(403, 3, 1, d_head=8, seq=17, theta=1e4),
            "layer_norm": layer_norm,
            "rms_norm": rms_norm,
            "cross_entropy": cross_entropy,
            "activations": activations,
            "adamw": adamw.make,
        },
    )
