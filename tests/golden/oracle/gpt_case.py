"""One GPT forward and backward, as the arrays of a golden file."""

import numpy as np
import torch
from numpy.typing import NDArray

from . import draw, gpt, npz
from .config import GPTConfig, MoEConfig, to_json
from .names import gpt_shapes

BATCH = 2
MIN_MARGIN = 1e-4

Arrays = dict[str, NDArray]


def float32(value: torch.Tensor) -> NDArray[np.float32]:
    return value.detach().numpy().astype(np.float32)


def inputs(config: GPTConfig, moe: MoEConfig | None, seq: int, seed: int) -> Arrays:
    """Parameters, tokens, and targets of which some are to be ignored."""
    rng = np.random.RandomState(seed)
    params = draw.parameters(rng, gpt_shapes(config, moe))
    arrays: Arrays = {f"param/{name}": value for name, value in params.items()}
    tokens, targets = rng.randint(0, config.vocab_size, size=(2, BATCH, seq)).astype(np.int32)
    ignored = rng.choice(BATCH * seq, size=BATCH * seq // 6, replace=False)
    targets.reshape(-1)[ignored] = gpt.IGNORE
    return arrays | {"tokens": tokens, "targets": targets}


def leaves(arrays: Arrays, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The parameters as leaves of the graph."""
    return {
        name.removeprefix("param/"): torch.tensor(value, dtype=dtype, requires_grad=True)
        for name, value in arrays.items()
        if name.startswith("param/")
    }


def int64(array: NDArray) -> torch.Tensor:
    return torch.tensor(array.astype(np.int64))


def gpt_case(
    config: GPTConfig, moe: MoEConfig | None, seed: int, seq: int | None = None
) -> tuple[Arrays, gpt.Output, dict[str, torch.Tensor]]:
    """The file's arrays; beside them the double results, for checks."""
    arrays = inputs(config, moe, seq or config.seq_len, seed)
    params = leaves(arrays)
    out = gpt.forward(params, config, moe, int64(arrays["tokens"]), int64(arrays["targets"]))
    out.loss.backward(retain_graph=True)
    for layer, routing in out.routing.items():
        if routing.margin < MIN_MARGIN:
            raise ValueError(f"layer {layer}: a near tie of {routing.margin:g}; take another seed")
        arrays[f"layers.{layer}.moe.indices"] = np.array(routing.indices, dtype=np.int32)
        arrays[f"layers.{layer}.moe.scores"] = np.array(routing.kept_scores(), dtype=np.float32)
    arrays |= {f"grad/{name}": float32(p.grad) for name, p in params.items()}
    arrays |= {
        "config": npz.text(to_json(gpt=config, moe=moe)),
        "logits": float32(out.logits),
        "lm_loss": float32(out.lm_loss),
        "loss": float32(out.loss),
        "balance_loss": float32(out.balance),
        "z_loss": float32(out.z),
    }
    return arrays, out, params
