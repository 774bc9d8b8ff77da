"""What a Trainer cannot work with, said before the first step."""

from __future__ import annotations

import math
from typing import Any

from _fmoe import DataLoader, Optimizer

from .checkpointer import Checkpointer


def check_trainer(
    model: Any,
    optimizer: Optimizer,
    loader: DataLoader,
    *,
    checkpointer: Checkpointer | None,
    eval_loader: DataLoader | None,
    eval_every: int | None,
    save_every: int | None,
    log_every: int,
    max_skipped_steps: int,
    max_seconds: float | None,
) -> None:
    """ValueError: the argument, its value, and what is wanted."""
    for name, value in (("eval_every", eval_every), ("save_every", save_every)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"Trainer: {name}={value!r} is not allowed: None or 1 and more is")
    if not isinstance(log_every, int) or log_every < 1:
        raise ValueError(f"Trainer: log_every={log_every!r} is not allowed: 1 and more is")
    if not isinstance(max_skipped_steps, int) or max_skipped_steps < 0:
        raise ValueError(
            f"Trainer: max_skipped_steps={max_skipped_steps!r} is not allowed: 0 and more is"
        )
    if max_seconds is not None and not (
        isinstance(max_seconds, (int, float)) and 0 < max_seconds < math.inf
    ):
        raise ValueError(
            f"Trainer: max_seconds={max_seconds!r} is not allowed: None or a number above 0 is"
        )
    if optimizer.micro_batches != loader.micro_batches:
        raise ValueError(
            f"Trainer: optimizer.micro_batches={optimizer.micro_batches} and "
            f"loader.micro_batches={loader.micro_batches}: the same is wanted"
        )
    if save_every is not None and checkpointer is None:
        raise ValueError(f"Trainer: save_every={save_every} and no checkpointer: one is wanted")
    if eval_every is not None and eval_loader is None:
        raise ValueError(f"Trainer: eval_every={eval_every} and no eval_loader: one is wanted")
    if not optimizer.trains(model):
        raise ValueError("Trainer: optimizer trains another model: the one of `model` is wanted")
    if loader.split != "train":
        raise ValueError(f"Trainer: loader has split={loader.split!r}: 'train' is wanted")
    if eval_loader is not None and eval_loader.split == "train":
        raise ValueError(
            "Trainer: eval_loader has split='train', which has no end: 'valid' or 'test' is wanted"
        )
    if eval_loader is not None and _overlap(loader, eval_loader):
        raise ValueError(
            f"Trainer: eval_loader reads {eval_loader.share} of the data that loader reads "
            f"{loader.share} of: give both the same split_ratio"
        )
    for name, data in (("loader", loader), ("eval_loader", eval_loader)):
        check_mesh(model, name, data)
    vocab = getattr(model, "vocab_size", None)
    if vocab is not None and vocab < loader.dataset.vocab_size:
        raise ValueError(
            f"Trainer: model.vocab_size={vocab} and the dataset's is "
            f"{loader.dataset.vocab_size}: at least as many are wanted"
        )


def check_mesh(model: Any, name: str, loader: DataLoader | None) -> None:
    """Ranks that share a model's layers (tp) need the same tokens, all others need others."""
    mesh = getattr(model, "mesh", None)
    if mesh is None or loader is None:
        return
    if (loader.mesh.dp, loader.mesh.dp_rank) != (mesh.dp, mesh.dp_rank):
        raise ValueError(
            f"Trainer: {name} has {loader.mesh!r} and the model {mesh!r}: give both the same mesh"
        )


def _overlap(a: DataLoader, b: DataLoader) -> bool:
    """Whether what is evaluated is trained on."""
    if a.dataset.identity != b.dataset.identity:
        return False
    return a.share[0] < b.share[1] - 1e-9 and b.share[0] < a.share[1] - 1e-9
