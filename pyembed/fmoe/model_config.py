"""What a model is, in plain values: kept in checkpoints, and compared when one is loaded."""

from __future__ import annotations

from typing import Any

from _fmoe import GPT, MoE, MoELayer, Parameter

from .module import parts

# What decides the function that the same weights compute. Shapes are compared with the arrays;
# dropout, capacities, weights of losses, dtype, seq_len and recompute may change in mid-run.
_GPT = ("n_head", "n_kv_head", "activation", "norm", "norm_eps", "position", "rope_theta")
_MOE = ("gate", "top_k", "activation", "scale", "renormalize")

Config = dict[str, Any]


def configs(model: Any) -> dict[str, Config]:
    """The configurations of the model and of its parts, by name; the model itself has the name ''.
    Only GPT, MoELayer and their likes have one."""
    found: dict[str, Config] = {}
    _collect("", model, found, set())
    return found


def _collect(name: str, part: Any, found: dict[str, Config], seen: set[int]) -> None:
    if isinstance(part, Parameter) or id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, GPT):
        config = _values(part, GPT.options())
        config["moe"] = None if part.moe is None else _moe(part.moe)
        found[name] = config
    elif isinstance(part, MoELayer):
        found[name] = {"moe": _moe(part.moe)}
    else:
        for inner, value in parts(name, getattr(part, "__dict__", {})):
            _collect(inner, value, found, seen)


def _moe(moe: MoE) -> Config:
    config = _values(moe, MoE.options())
    gate, every = moe.gate, moe.every
    config["gate"] = gate if isinstance(gate, str) else gate.__qualname__
    config["every"] = every if isinstance(every, int) else list(every)
    return config


def _values(of: Any, options: tuple[dict[str, Any], ...]) -> Config:
    plain = (int, float, bool, str)
    values = {option["name"]: getattr(of, option["name"]) for option in options}
    return {key: x for key, x in values.items() if x is None or isinstance(x, plain)}


def _all_moe(config: Config) -> bool:
    """No layer is dense."""
    return bool(config.get("moe")) and config["moe"].get("every") == 1


def difference(saved: dict[str, Config], now: dict[str, Config]) -> str | None:
    """The first value in which two models compute something else with the same weights, in words;
    None where there is none."""
    for name, mine in now.items():
        theirs = saved.get(name)
        if theirs is None:
            continue
        pairs = [(theirs, mine, _GPT)]
        if theirs.get("moe") and mine.get("moe"):
            pairs.append((theirs["moe"], mine["moe"], _MOE))
        for old, new, keys in pairs:
            for key in keys:
                if keys is _GPT and key == "activation" and _all_moe(old) and _all_moe(new):
                    continue
                if key == "rope_theta" and "rope" not in (old.get("position"), new.get("position")):
                    continue
                if key in old and key in new and old[key] != new[key]:
                    return f"{name and name + ': '}{key}={old[key]!r}, not {new[key]!r}"
    return None
