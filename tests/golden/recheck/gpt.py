"""gpt_dense and gpt_moe: keys, shapes, losses from the logits, routing within its rules."""

import math
from collections import Counter

import numpy as np

from oracle.config import GPTConfig, MoEConfig, is_moe_layer
from oracle.names import gpt_shapes

from .archive import Archive, Floats, expect, expect_close, with_grads

STORED = 1e-6


def cross_entropy(logits: Floats, targets: np.ndarray) -> float:
    """The mean over targets that are not -1."""
    rows = logits.reshape(-1, logits.shape[-1])
    valid = np.flatnonzero(targets.ravel() >= 0)
    shifted = rows[valid] - rows[valid].max(1, keepdims=True)
    picked = shifted[np.arange(len(valid)), targets.ravel()[valid]]
    return float((np.log(np.exp(shifted).sum(1)) - picked).mean())


def check_tokens(archive: Archive, gpt: GPTConfig) -> None:
    tokens, targets = archive["tokens"], archive["targets"]
    expect(tokens.min() >= 0 and tokens.max() < gpt.vocab_size, "tokens: outside the vocabulary")
    expect(targets.min() >= -1 and targets.max() < gpt.vocab_size, "targets: out of range")
    expect((targets == -1).any(), "targets: none is ignored")
    expect_close("lm_loss", archive["lm_loss"], cross_entropy(archive["logits"], targets), STORED)


def check_routing(archive: Archive, layer: int, moe: MoEConfig, seq_len: int) -> None:
    """Distinct experts, scores between 0 and 1, the capacity kept, no gradient without tokens."""
    prefix = f"layers.{layer}.moe."
    indices, scores = archive[prefix + "indices"], archive[prefix + "scores"]
    expect(indices.min() >= -1 and indices.max() < moe.num_experts, f"{prefix}indices: range")
    for t, row in enumerate(indices.tolist()):
        kept = [e for e in row if e >= 0]
        expect(len(set(kept)) == len(kept), f"{prefix}indices[{t}]: {row} repeats an expert")
    expect(scores.min() >= 0 and scores.max() <= 1, f"{prefix}scores: outside [0, 1]")
    expect(not scores[indices < 0].any(), f"{prefix}scores: not 0 where dropped")
    sums = scores[(indices >= 0).all(1)].sum(1)
    if moe.gate != "switch":
        expect_close(f"{prefix}scores, summed", sums, np.ones(sums.shape), STORED)
    expect(moe.capacity_factor is not None or (indices >= 0).all(), f"{prefix}indices: dropped")
    if moe.capacity_factor is not None:
        group = seq_len if moe.capacity_scope == "sequence" else len(indices)
        capacity = math.ceil(moe.capacity_factor * moe.k * group / moe.num_experts)
        for start in range(0, len(indices), group):
            loads = Counter(indices[start : start + group].ravel().tolist())
            loads.pop(-1, None)
            most = max(loads.values())
            expect(most <= capacity, f"{prefix}: {most} tokens, capacity {capacity}")
    for e in set(range(moe.num_experts)) - set(indices.ravel().tolist()):
        grad = archive[f"grad/{prefix}experts.up.weight"][e]
        expect(not grad.any(), f"{prefix}experts[{e}]: a gradient without tokens")


def check(archive: Archive) -> None:
    config = archive.config()
    gpt = GPTConfig(**config["gpt"])
    moe = None if config["moe"] is None else MoEConfig(**config["moe"])
    tokens = archive["tokens"]
    expect(tokens.ndim == 2 and tokens.shape[1] <= gpt.seq_len, f"tokens: shape {tokens.shape}")
    shapes = archive.text_shape() | with_grads(gpt_shapes(gpt, moe))
    shapes |= {"tokens": tokens.shape, "targets": tokens.shape}
    shapes |= {"logits": (*tokens.shape, gpt.vocab_size)}
    shapes |= dict.fromkeys(("lm_loss", "loss", "balance_loss", "z_loss"), ())
    moe_layers = [i for i in range(gpt.n_layer) if is_moe_layer(moe, i)]
    for i in moe_layers:
        shapes[f"layers.{i}.moe.indices"] = shapes[f"layers.{i}.moe.scores"] = (
            tokens.size,
            1 if moe is None else moe.k,
        )
    archive.expect_keys(shapes)
    check_tokens(archive, gpt)
    total = archive["lm_loss"]
    if moe is not None:
        total = total + moe.aux_loss_weight * archive["balance_loss"]
        total = total + moe.z_loss_weight * archive["z_loss"]
        for i in moe_layers:
            check_routing(archive, i, moe, tokens.shape[1])
    expect_close("loss", archive["loss"], total, STORED)
    for name, grad in archive.group("grad").items():
        expect(grad.any(), f"grad/{name}: all zero")
