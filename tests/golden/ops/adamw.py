"""Five steps of AdamW on three tensors, with clipping on some of the steps."""

import dataclasses

import numpy as np
import torch

from oracle import draw, npz
from oracle import optimiser as ours
from oracle.config import to_json
from oracle.gpt_case import Arrays, float32

STEPS = 5
CONFIG = ours.AdamWConfig(
    lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip_grad_norm=4.0
)
SHAPES = {"layers.0.mlp.up.weight": (7, 5), "layers.0.mlp.up.bias": (7,), "norm.weight": (5,)}
GRAD_SCALE = (0.1, 2.0, 0.5, 4.0, 0.2)  # of which the second and fourth are clipped


def peer(params: dict[str, torch.Tensor], grads: list[dict[str, torch.Tensor]]) -> None:
    """The same steps by torch's own optimiser and its clipping, in place."""
    groups = [
        {"params": [p for n, p in params.items() if ours.decays(n)]},
        {"params": [p for n, p in params.items() if not ours.decays(n)], "weight_decay": 0.0},
    ]
    options = dataclasses.asdict(CONFIG)
    limit = options.pop("clip_grad_norm")
    optimiser = torch.optim.AdamW(groups, **options)
    for step in grads:
        for name, p in params.items():
            p.grad = step[name].clone()
        torch.nn.utils.clip_grad_norm_(params.values(), limit)
        optimiser.step()


def make() -> Arrays:
    rng = np.random.RandomState(408)
    initial = {name: draw.normal(rng, shape, std=0.5) for name, shape in SHAPES.items()}
    steps = [
        {name: draw.normal(rng, shape, std=scale) for name, shape in SHAPES.items()}
        for scale in GRAD_SCALE
    ]
    arrays: Arrays = {f"param/{name}": value for name, value in initial.items()}
    params = {n: torch.tensor(v, dtype=torch.float64) for n, v in initial.items()}
    state = ours.initial(params)
    norms = []
    for i, step in enumerate(steps, start=1):
        grads = {name: torch.tensor(g, dtype=torch.float64) for name, g in step.items()}
        norms.append(ours.update(params, grads, state, CONFIG, CONFIG.lr))
        for name in SHAPES:
            arrays[f"step{i}/grad/{name}"] = step[name]
            arrays[f"step{i}/param/{name}"] = float32(params[name])
    clipped = [norm > CONFIG.clip_grad_norm for norm in norms]
    if all(clipped) or not any(clipped):
        raise ValueError(f"norms {norms}: want some on each side of {CONFIG.clip_grad_norm}")
    twin = {n: torch.tensor(v, dtype=torch.float64) for n, v in initial.items()}
    peer(twin, [{n: torch.tensor(g, dtype=torch.float64) for n, g in s.items()} for s in steps])
    torch.testing.assert_close(twin, params, rtol=1e-12, atol=1e-12)
    arrays |= {f"m/{name}": float32(m) for name, m in state.m.items()}
    arrays |= {f"v/{name}": float32(v) for name, v in state.v.items()}
    return arrays | {
        "grad_norm": np.array(norms, dtype=np.float32),
        "config": npz.text(to_json(adamw=CONFIG)),
    }
