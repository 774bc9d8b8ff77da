"""Measuring one setting in a process of its own, and the line that reports it."""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from others import Others
from setting import Setting
from shapes import SHAPES, flops_per_token

if TYPE_CHECKING:
    from trainer import Trainer

MIN_STEPS = 5
QUIET_CORES = 0.1  # a step beside which others use less than this counts as undisturbed
PATIENCE_S = 90.0  # waits at most so much longer for undisturbed steps
PAUSE_S = 1.0  # after a disturbed step
TIMEOUT_S = 900

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    seconds: float
    others: float  # cores that other processes kept busy meanwhile


def quiet_steps(steps: list[Step]) -> list[Step]:
    """The undisturbed ones; where there are too few, the MIN_STEPS least disturbed."""
    by_noise = sorted(steps, key=lambda step: step.others)
    quiet = [step for step in by_noise if step.others < QUIET_CORES]
    return quiet if len(quiet) >= MIN_STEPS else by_noise[:MIN_STEPS]


def report(model: str, moe: bool, steps: list[Step]) -> Report:
    """The median of the undisturbed steps, as rates; `others`: what still ran beside them."""
    used = quiet_steps(steps)
    shape, times = SHAPES[model], [step.seconds for step in used]
    rate = shape.tokens_per_step / statistics.median(times)
    return {
        "tokens_per_s": round(rate, 1),
        "gflop_per_s": round(rate * flops_per_token(shape, moe) / 1e9, 1),
        "step_s": round(statistics.median(times), 5),
        "fastest_step_s": round(min(times), 5),
        "steps": len(steps),
        "steps_used": len(used),
        "others": round(statistics.mean(step.others for step in used), 2),
    }


def timed_steps(trainer: "Trainer", seconds: float) -> list[Step]:
    """Enough for `seconds` of undisturbed steps, if they come before PATIENCE_S have been lost."""
    steps: list[Step] = []
    others = Others()
    start = time.perf_counter()
    while True:
        steps.append(Step(trainer.timed_step(), others.cores()))
        quiet = [step.seconds for step in steps if step.others < QUIET_CORES]
        lost = time.perf_counter() - start - sum(quiet)
        enough = len(quiet) >= MIN_STEPS and sum(quiet) >= seconds
        if enough or (len(steps) >= MIN_STEPS and lost > PATIENCE_S):
            return steps
        if steps[-1].others >= QUIET_CORES:
            time.sleep(PAUSE_S)
            others.cores()


def measure_here(model: str, setting: Setting, dtype: str, seconds: float) -> Report:
    """In this process, whose environment is the setting's."""
    from trainer import Trainer  # PyTorch comes in only where it is needed

    trainer = Trainer(SHAPES[model], setting, dtype)
    warmup = trainer.warm_up()
    steps = timed_steps(trainer, seconds)
    return report(model, setting.experts is not None, steps) | {"warmup_s": round(warmup, 2)}


def measure(model: str, setting: Setting, dtype: str, threads: int, seconds: float) -> Report:
    """In a child: another setting's compiled code and memory cannot help or harm."""
    main = pathlib.Path(__file__).with_name("main.py")
    command = [sys.executable, str(main), "--model", model, "--dtype", dtype]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    command += ["--moe", "dense" if setting.experts is None else "moe"]
    command += ["--measure", setting.to_json()]
    try:
        child = subprocess.run(
            command,
            env=setting.environment(threads),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        return json.loads(child.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {TIMEOUT_S} s"}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return {"error": lines[-1]}
