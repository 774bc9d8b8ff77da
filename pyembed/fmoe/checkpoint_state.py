"""What a checkpoint keeps beside arrays: one JSON object, written and read back with suspicion."""

from __future__ import annotations

import json
import math
from typing import Any

from _fmoe import CheckpointError, DataLoader, Optimizer

FORMAT = 1


def optimizer_state(optimizer: Optimizer | None) -> dict[str, Any] | None:
    if optimizer is None:
        return None
    schedule = optimizer.schedule
    return {
        "kind": optimizer.kind,
        "step": optimizer.steps,
        "lr": optimizer.lr,
        "initial_lr": optimizer.initial_lr,
        "schedule": {
            name: getattr(schedule, name)
            for name in ("kind", "warmup", "total", "decay", "final", "offset")
        },
    }


def loader_state(loader: DataLoader) -> dict[str, Any]:
    return {
        "position": loader.position,
        "seed": loader.seed,
        "seq_len": loader.seq_len,
        "split": loader.split,
        "num_samples": loader.num_samples,
        "identity": loader.dataset.identity,
    }


# What a state's members must be: (types, and of a dict its own members).
_FORM: dict[str, tuple[tuple[type, ...], dict[str, tuple[type, ...]]]] = {
    "format": ((int,), {}),
    "seed": ((int,), {}),
    "optimizer": (
        (dict, type(None)),
        {"kind": (str,), "step": (int,), "lr": (int, float), "schedule": (dict,)},
    ),
    "loader": ((dict, type(None)), {"position": (int,)}),
    "extra": ((object,), {}),
}


def parse(text: str, path: str) -> dict[str, Any]:
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its state is no JSON: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        seen = state.get("format") if isinstance(state, dict) else state
        raise CheckpointError(f"{path}: its state has format {seen!r}: {FORMAT} is wanted")
    for name, (types, inner) in _FORM.items():
        if name not in state or not isinstance(state[name], types):
            raise _malformed(path, name, state.get(name))
        for key, wanted in inner.items() if state[name] is not None else ():
            if not isinstance(state[name].get(key), wanted) or isinstance(state[name][key], bool):
                raise _malformed(path, f"{name}.{key}", state[name].get(key))
    if not _models_well_formed(state.get("model")):
        raise _malformed(path, "model", state["model"])
    optimizer, loader = state["optimizer"], state["loader"]
    if not 0 <= state["seed"] < 2**64:
        raise _malformed(path, "seed", state["seed"])
    if optimizer is not None and not 0 <= optimizer["step"] < 2**32:
        raise _malformed(path, "optimizer.step", optimizer["step"])
    if optimizer is not None and not 0 <= optimizer["lr"] < math.inf:
        raise _malformed(path, "optimizer.lr", optimizer["lr"])
    if loader is not None and not 0 <= loader["position"] < 2**63:
        raise _malformed(path, "loader.position", loader["position"])
    return state


def _models_well_formed(models: Any) -> bool:
    """None: an older checkpoint. Else configurations by name, with that of a MoE within."""
    if models is None:
        return True
    return isinstance(models, dict) and all(
        isinstance(config, dict) and isinstance(config.get("moe"), (dict, type(None)))
        for config in models.values()
    )


def _malformed(path: str, name: str, value: object) -> CheckpointError:
    return CheckpointError(f"{path}: its state's {name} is {value!r}, which fmoe does not write")
