"""Does a checkpoint fit what it is loaded into? Damage is another matter: an older one may help."""

from __future__ import annotations

from typing import Any

from _fmoe import CheckpointReader, DataLoader, Optimizer

from . import model_config
from .checkpoint_state import loader_state


def misfit(
    reader: CheckpointReader,
    state: dict[str, Any],
    model: Any,
    optimizer: Optimizer | None,
    loader: DataLoader | None,
    *,
    allow_other_data: bool,
    allow_other_model: bool,
) -> str | None:
    """In words, the first thing that does not fit; None: all does."""
    shapes = {a["name"]: a["global_shape"] for a in reader.arrays}
    found = _arrays(shapes, model) or _moments(shapes, state, optimizer)
    if found is None and not allow_other_model:
        differs = model_config.difference(state.get("model") or {}, model_config.configs(model))
        if differs:
            found = f"it is of a model of {differs}: the same, or allow_other_model=True, is wanted"
    if found is None and loader is not None:
        found = _data(state["loader"], loader, allow_other_data)
    return found


Shapes = dict[str, tuple[int, ...]]  # by name; an optimiser's state has a '/' in its names


def _arrays(shapes: Shapes, model: Any) -> str | None:
    saved = {name: shape for name, shape in shapes.items() if "/" not in name}
    wanted = {name: p.global_shape for name, p in model.named_parameters()}
    for name, shape in wanted.items():
        if name not in saved:
            return f"the model has {name!r}, the checkpoint has not: it is of another model"
        if saved[name] != shape:
            return f"{name} is {list(saved[name])} there and {list(shape)} in the model"
    for name in saved:
        if name not in wanted:
            return f"it has {name!r}, which is no parameter of the model: it is of another model"
    return None


def _moments(shapes: Shapes, state: dict[str, Any], optimizer: Optimizer | None) -> str | None:
    if optimizer is None:
        return None
    if state["optimizer"] is None:
        return "it was saved without an optimizer: it has no moments; optimizer=None is wanted"
    kind = state["optimizer"]["kind"]
    if kind != optimizer.kind:
        return f"it was trained with {kind!r}, the optimizer is {optimizer.kind!r}"
    saved = sorted({name.split("/")[0] for name in shapes if "/" in name})
    if saved != sorted(optimizer.moments):
        return f"it has the moments {saved}, the optimizer keeps {list(optimizer.moments)}"
    return None


def _data(saved: dict[str, Any] | None, loader: DataLoader, allow_other_data: bool) -> str | None:
    if saved is None:
        if allow_other_data:
            return None  # the loader stays where it is
        return (
            "it was saved without a loader: it has no position; "
            "loader=None, or allow_other_data=True, is wanted"
        )
    now = loader_state(loader)
    for key in ("identity", "seed", "seq_len", "split", "num_samples"):
        if not allow_other_data and saved.get(key) != now[key]:
            return (
                f"it was trained on data of {key} {saved.get(key)!r}, the loader's is "
                f"{now[key]!r}: the same, or allow_other_data=True, is wanted"
            )
    return None
