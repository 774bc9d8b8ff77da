"""Golden files of the MoE layer alone: routing, output, losses, every gradient. See README.md."""

import functools
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cases import Case, cases
from oracle import draw, npz
from oracle.command import write_all
from oracle.config import to_json
from oracle.gpt_case import MIN_MARGIN, Arrays, float32, leaves
from oracle.moe import moe_layer
from oracle.names import moe_shapes
from oracle.routing import Routing

D_MODEL = 12


def inputs(case: Case, seed: int) -> Arrays:
    """Feature 0 of every token is 1, so that gate.weight[:, 0] is a common preference."""
    rng = np.random.RandomState(seed)
    x = draw.normal(rng, (*case.shape, D_MODEL), std=1.0)
    x[..., 0] = 1.0
    params = draw.parameters(rng, moe_shapes(case.moe, D_MODEL, case.bias), std=0.3)
    for e, logit in case.preferred.items():
        params["gate.weight"][e, 0] += logit
    if case.exact_ties:
        params["gate.weight"][:] = 0.0
    arrays: Arrays = {f"param/{name}": value for name, value in params.items()}
    return arrays | {"x": x, "dy": draw.normal(rng, x.shape, std=1.0)}


def check(case: Case, routing: Routing) -> None:
    """That the case shows what its name says."""
    moe = case.moe
    if not case.exact_ties and routing.margin < MIN_MARGIN:
        raise ValueError(f"a near tie of {routing.margin:g}; take another seed")
    used = [e for row in routing.indices for e in row]
    if (-1 in used) != (moe.capacity_factor is not None):
        raise ValueError(f"{used.count(-1)} dropped at capacity_factor={moe.capacity_factor}")
    if case.exact_ties and any(row != list(range(moe.k)) for row in routing.indices):
        raise ValueError("ties must go to the lower index")
    for e, logit in case.preferred.items():
        wanted = 0 if logit < 0 else len(routing.indices)
        first_k = sorted(case.preferred, key=lambda e: -case.preferred[e])[: moe.k]
        if (logit < 0 or e in first_k) and used.count(e) != wanted:
            raise ValueError(f"expert {e} has {used.count(e)} tokens, want {wanted}")


def make(case: Case, seed: int) -> Arrays:
    arrays = inputs(case, seed)
    params = leaves(arrays)
    x = torch.tensor(arrays["x"], dtype=torch.float64, requires_grad=True)
    flat, routing = moe_layer(x.view(-1, D_MODEL), params, "", case.moe, seq_len=case.shape[-1])
    check(case, routing)
    y = flat.view_as(x)
    aux = case.moe.aux_loss_weight * routing.balance + case.moe.z_loss_weight * routing.z
    objective = (y * torch.tensor(arrays["dy"], dtype=torch.float64)).sum() + aux
    objective.backward()
    arrays |= {f"grad/{name}": float32(p.grad) for name, p in params.items()}
    return arrays | {
        "config": npz.text(to_json(moe=case.moe, d_model=D_MODEL, bias=case.bias)),
        "y": float32(y),
        "indices": np.array(routing.indices, dtype=np.int32),
        "scores": np.array(routing.kept_scores(), dtype=np.float32),
        "balance_loss": float32(routing.balance),
        "z_loss": float32(routing.z),
        "aux_loss": float32(aux),
        "grad/x": float32(x.grad),
    }


if __name__ == "__main__":
    write_all(
        __doc__,
        {
            name: functools.partial(make, case, 301 + i)
            for i, (name, case) in enumerate(cases().items())
        },
    )
