"""Asserts that the `transformers` package computes the same logits and gradients.

A cross-check for make.py only: without that package it prints that it was skipped.
"""

import importlib.util

import torch
from torch import Tensor

from . import gpt
from .gpt_case import Arrays, int64

# Another order of summation in double. Measured: 2e-15.
DOUBLE = 1e-12
# Models with rope and root-mean-square norms compute these two in float32 whatever their dtype.
# Measured: 9e-7.
SINGLE_INSIDE = 1e-5

Pieces = list[tuple[Tensor, Tensor]]  # (a parameter of theirs, our gradient in its shape)


def importable() -> bool:
    if importlib.util.find_spec("transformers") is None:
        print("  not compared: transformers is not installed")
        return False
    return True


def copy_into(pairs: list[tuple[Tensor, Tensor]], grads: list[Tensor]) -> Pieces:
    """Copies our values into their parameters; pairs the parameters with our gradients."""
    with torch.no_grad():
        for theirs, ours in pairs:
            if theirs.shape != ours.shape:
                raise ValueError(f"shape {tuple(theirs.shape)}, want {tuple(ours.shape)}")
            theirs.copy_(ours)
    return [(theirs, grad) for (theirs, _), grad in zip(pairs, grads, strict=True)]


def difference(what: str, theirs: Tensor, ours: Tensor, tolerance: float) -> float:
    """The largest difference, relative to the largest value."""
    error = ((theirs - ours).abs().max() / ours.abs().max()).item()
    if not error < tolerance:
        raise AssertionError(f"{what}: relative difference {error:g}, want < {tolerance:g}")
    return error


def compare(
    label: str,
    model: torch.nn.Module,
    pieces: Pieces,
    arrays: Arrays,
    out: gpt.Output,
    tolerance: float,
) -> None:
    """Runs `model` on the same tokens; our gradients must be those of the lm_loss alone."""
    names = {id(p): name for name, p in model.named_parameters()}
    if set(names) != {id(theirs) for theirs, _ in pieces}:
        raise AssertionError(f"{label}: not every parameter is compared")
    logits = model(int64(arrays["tokens"])).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), int64(arrays["targets"]).view(-1), ignore_index=gpt.IGNORE
    )
    loss.backward()
    pairs = [("logits", logits, out.logits), ("loss", loss, out.lm_loss)]
    pairs += [(names[id(theirs)], theirs.grad, ours) for theirs, ours in pieces]
    worst = max(difference(f"{label}: {what}", a, b, tolerance) for what, a, b in pairs)
    print(f"  equal to transformers' {type(model).__name__} within {worst:.1e}")
