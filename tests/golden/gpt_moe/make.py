"""Golden files of GPTs with MoE layers: routing, losses and every gradient. See README.md."""

import functools
import pathlib
import sys
from collections.abc import Callable

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import cross_check

from oracle.command import write_all
from oracle.config import GPTConfig, MoEConfig
from oracle.gpt import Output
from oracle.gpt_case import Arrays, gpt_case

GPT = functools.partial(GPTConfig, vocab_size=61, n_layer=2, d_model=24, n_head=3, seq_len=17)
MOE = functools.partial(
    MoEConfig, num_experts=5, d_hidden=28, aux_loss_weight=0.01, z_loss_weight=1e-3
)
MIXTRAL = GPT(
    n_kv_head=1,
    activation="swiglu",
    norm="rmsnorm",
    position="rope",
    bias=False,
    tie_embeddings=False,
)

# A test at rtol 1e-4 must notice a missing auxiliary loss: its share of a gate's gradient.
MIN_AUX_SHARE = 1e-3

CASES: dict[str, tuple[GPTConfig, MoEConfig]] = {
    "naive_every1": (GPT(), MOE(gate="naive", every=1)),
    "naive_every2": (GPT(), MOE(gate="naive", every=2)),
    "naive_swiglu": (MIXTRAL, MOE(gate="naive", every=1, activation="swiglu")),
    "switch_every1": (GPT(), MOE(gate="switch", every=1)),
    "switch_every2": (GPT(), MOE(gate="switch", every=2)),
    "switch_capacity_position": (GPT(), MOE(gate="switch", every=1, capacity_factor=1.0)),
    "switch_aux_sequence": (GPT(), MOE(gate="switch", every=2, aux_loss_scope="sequence")),
    "gshard_every1": (GPT(), MOE(gate="gshard", every=1)),
    "gshard_every2": (GPT(), MOE(gate="gshard", every=2)),
    "gshard_shared": (GPT(), MOE(gate="gshard", every=2, num_shared_experts=1, gate_bias=True)),
    "gshard_swiglu_shared2": (
        GPT(bias=False, norm="rmsnorm", position="rope"),
        MOE(gate="gshard", every=2, activation="swiglu", num_shared_experts=2),
    ),
    "gshard_capacity_position": (GPT(), MOE(gate="gshard", every=1, capacity_factor=1.0)),
    "gshard_capacity_score": (
        GPT(),
        MOE(
            gate="gshard",
            every=1,
            capacity_factor=1.0,
            drop_policy="score",
            capacity_scope="sequence",
        ),
    ),
}


def check_capacity(moe: MoEConfig, out: Output) -> None:
    """Where there is a capacity, copies are dropped; elsewhere none."""
    dropped = sum(e < 0 for r in out.routing.values() for row in r.indices for e in row)
    if (dropped > 0) != (moe.capacity_factor is not None):
        raise ValueError(f"{dropped} dropped copies at capacity_factor={moe.capacity_factor}")


def check_aux_visible(moe: MoEConfig, out: Output, params: dict[str, torch.Tensor]) -> None:
    weighted = {"z": moe.z_loss_weight * out.z}
    if moe.gate != "naive":
        weighted["balance"] = moe.aux_loss_weight * out.balance
    for name, param in params.items():
        if not name.endswith("gate.weight"):
            continue
        for term, loss in weighted.items():
            (grad,) = torch.autograd.grad(loss, param, retain_graph=True)
            share = (grad.abs().max() / param.grad.abs().max()).item()
            if share < MIN_AUX_SHARE:
                raise ValueError(f"{name}: the {term} loss is {share:g} of the gradient")


def make(name: str, seed: int) -> Arrays:
    config, moe = CASES[name]
    arrays, out, params = gpt_case(config, moe, seed)
    check_capacity(moe, out)
    check_aux_visible(moe, out, params)
    if name == "naive_swiglu":
        cross_check.mixtral(config, moe, arrays, out, params)
    return arrays


if __name__ == "__main__":
    makers: dict[str, Callable[[], Arrays]] = {
        name: functools.partial(make, name, 201 + i) for i, name in enumerate(CASES)
    }
    write_all(__doc__, makers)
