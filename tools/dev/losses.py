"""Losses of a run, from its metrics: JSON lines with "step" and "loss"."""

import json
import math
from pathlib import Path


def read_losses(path: Path) -> dict[int, float]:
    """Loss by step; lines without both are about something else."""
    losses = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise SystemExit(f"{path.name}:{number}: not JSON: {error}") from error
        if "step" in record and "loss" in record:
            losses[int(record["step"])] = float(record["loss"])
    if not losses:
        raise SystemExit(f'{path.name}: no line has both "step" and "loss"')
    return losses


def first_difference(a: dict[int, float], b: dict[int, float]) -> int | None:
    """The first step whose losses are not the same number (or that one of them lacks).

    NaN equals NaN here: two runs that diverge alike are alike.
    """
    for step in sorted(a.keys() | b.keys()):
        if step not in a or step not in b:
            return step
        x, y = a[step], b[step]
        if x != y and not (math.isnan(x) and math.isnan(y)):
            return step
    return None
