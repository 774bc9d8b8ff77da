"""Golden file of 100 training steps of a small byte-level GPT-MoE. See README.md."""

import functools
import math
import pathlib
import sys

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from corpus import pseudo_text
from oracle import draw, gpt, npz, optimiser
from oracle.command import write_all
from oracle.config import GPTConfig, MoEConfig, to_json
from oracle.gpt_case import Arrays, int64, leaves
from oracle.names import NORMS, gpt_shapes

BATCH, STEPS = 8, 100
TEXT_BYTES = 20_000
INIT_STD = 0.02
MODEL = GPTConfig(vocab_size=256, n_layer=2, d_model=32, n_head=4, seq_len=32)
OPTIMISER = optimiser.AdamWConfig(
    lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip_grad_norm=1.0
)
SERIES = ("lm_loss", "loss", "balance_loss", "z_loss", "grad_norm", "lr")
SCHEDULE = {"warmup": 10, "total": STEPS, "final": 0.1}
CASES = {
    "naive": MoEConfig(gate="naive", num_experts=4, d_hidden=64, z_loss_weight=1e-3),
    "switch": MoEConfig(gate="switch", num_experts=4, d_hidden=64, z_loss_weight=1e-3),
}


def initial_parameters(rng: np.random.RandomState, moe: MoEConfig) -> Arrays:
    """As fmoe.GPT starts: N(0, 0.02), the two residual projections smaller, gains 1, biases 0."""
    arrays: Arrays = {}
    for name, shape in gpt_shapes(MODEL, moe).items():
        owner, _, kind = name.rpartition(".")
        last = owner.rpartition(".")[2]
        if last in NORMS or kind == "bias":
            value = np.full(shape, float(kind == "weight"), dtype=np.float32)
        else:
            residual = last == "down" or owner.endswith("attn.out")
            std = INIT_STD / math.sqrt(2 * MODEL.n_layer) if residual else INIT_STD
            value = draw.normal(rng, shape, std, grid=2.0**-16)
        arrays[f"param/{name}"] = value
    return arrays


def batches(rng: np.random.RandomState) -> NDArray[np.uint8]:
    """[STEPS, BATCH, S + 1]: windows at random places of one text; inputs and shifted targets."""
    text = np.frombuffer(pseudo_text(rng, TEXT_BYTES), dtype=np.uint8)
    starts = rng.randint(0, len(text) - MODEL.seq_len, size=(STEPS, BATCH, 1))
    return text[starts + np.arange(MODEL.seq_len + 1)]


def train(arrays: Arrays, moe: MoEConfig, dtype: torch.dtype) -> dict[str, NDArray]:
    """What each step saw before its update."""
    params = leaves(arrays, dtype)
    state = optimiser.initial(params)
    record: dict[str, list[float]] = {name: [] for name in SERIES}
    for step in range(1, STEPS + 1):
        window = int64(arrays["tokens"][step - 1])
        out = gpt.forward(params, MODEL, moe, window[:, :-1], window[:, 1:].contiguous())
        grads = torch.autograd.grad(out.loss, list(params.values()))
        lr = optimiser.cosine(step, OPTIMISER.lr, **SCHEDULE)
        named = dict(zip(params, grads, strict=True))
        norm = optimiser.update(params, named, state, OPTIMISER, lr)
        losses = (out.lm_loss, out.loss, out.balance, out.z)
        row = [t.item() for t in losses] + [norm, lr]
        for series, value in zip(record.values(), row, strict=True):
            series.append(value)
    return {name: np.array(series) for name, series in record.items()} | {
        f"final/{name}": p.detach().numpy() for name, p in params.items() if is_determined(name)
    }


def is_determined(name: str) -> bool:
    """Not the bias of qkv: the gradient of a key's bias is 0 (softmax ignores a common shift), and
    Adam turns what rounding leaves of it into full steps. The losses do not depend on it.
    """
    return not name.endswith("attn.qkv.bias")


def make(moe: MoEConfig, seed: int) -> Arrays:
    rng = np.random.RandomState(seed)
    arrays = initial_parameters(rng, moe) | {"tokens": batches(rng)}
    single, double = (train(arrays, moe, dtype) for dtype in (torch.float32, torch.float64))
    drift = {
        name: np.abs(single[name] - double[name]).max() / np.abs(double[name]).max()
        for name in single
        if double[name].any()
    }
    worst = max((name for name in drift if name.startswith("final/")), key=drift.__getitem__)
    shown = [f"{drift[name]:.1e} ({name})" for name in drift if name in (*SERIES, worst)]
    print(f"  lm_loss {single['lm_loss'][0]:.4f} -> {single['lm_loss'][-1]:.4f}")
    print(f"  float32 differs from float64 by {', '.join(shown)}")
    arrays |= {name: value.astype(np.float32) for name, value in single.items()}
    config = {"gpt": MODEL, "moe": moe, "schedule": SCHEDULE, "adamw": OPTIMISER}
    return arrays | {"config": npz.text(to_json(**config))}


if __name__ == "__main__":
    write_all(
        __doc__,
        {name: functools.partial(make, moe, 501) for name, moe in CASES.items()},
    )
