"""What a run prints."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import _fmoe
from _fmoe import GPT, DataLoader

from . import memory_check

BAR_WIDTH = 24
BAR_SECONDS = 0.1  # between two pictures of the bar


class Console:
    """Lines of rank 0, and a bar under them where the output is a terminal."""

    def __init__(self, model: Any, loader: DataLoader) -> None:
        self._model, self._loader = model, loader
        self._on = _fmoe.rank() == 0
        self._bar = self._on and sys.stdout.isatty()
        self._bar_shown = False
        self._last_bar = 0.0
        self._bits = loader.dataset.vocab_size == 256  # a token is a byte
        self._tokens = loader.batch_size * loader.seq_len
        self._peak: float | None = None
        self._seconds, self._steps, self._total_seconds, self._total_steps = 0.0, 0, 0.0, 0
        self._first = True

    # ---- lines

    def say(self, text: str) -> None:
        if not self._on:
            return
        if self._bar_shown:
            sys.stdout.write("\r\x1b[K")
            self._bar_shown = False
        print(text, flush=True)

    def begin(self, step: int, steps: int) -> None:
        """The line at the start: what runs where."""
        self._seconds, self._steps, self._total_seconds, self._total_steps = 0.0, 0, 0.0, 0
        self._first = True
        if step >= steps or not self._on:
            return
        info = _fmoe.device_info()
        model = self._model
        size = f"{count(model.num_parameters())} parameters"
        active = getattr(model, "num_active_parameters", None)
        if active is not None:
            size += f" ({count(active())} active)"
        files = self._loader.dataset.num_files
        self.say(
            f"fmoe {_fmoe.version} on {info['device']}: {info['model']}\n"
            f"{layers(model)}{size}\n"
            f"{count(self._loader.num_samples * self._loader.seq_len)} tokens of data in {files} "
            f"{'file' if files == 1 else 'files'}, {count(self._tokens)} a step; "
            f"{steps - step} steps to go"
        )
        self._forecast()
        if hasattr(model, "flops_per_token"):
            self._peak = self._measure_peak()

    def _measure_peak(self) -> float:
        return _fmoe.measure_peak(getattr(self._model, "dtype", "float32"))

    def _peak_share(self, flops: float) -> float:
        """Of one rank, of the fastest product that was seen. What a model reaches was possible: a
        peak below it was measured while the machine did something else."""
        assert self._peak is not None
        if flops > self._peak:
            self._peak = max(flops, self._measure_peak())
        return flops / self._peak

    def _forecast(self) -> None:
        parts = memory_check.predicted(self._model, self._loader)
        if parts is not None:
            roles = ", ".join(f"{name} {size(n)}" for name, n in parts.items())
            self.say(f"memory: {size(sum(parts.values()))} predicted ({roles})")

    def _memory(self) -> None:
        """Measured, after the first step."""
        self.say(f"memory: {size(_fmoe.memory()['peak'])} at its peak")

    def step(self, values: dict[str, Any], steps: int) -> None:
        """Counts a step, and moves the bar."""
        if self._first:
            self._first = False
            if self._on:
                self._memory()
        else:  # the first step allocates, and would spoil the speed
            self._total_seconds += values["seconds"]
            self._total_steps += 1
        self._seconds += values["seconds"]
        self._steps += 1
        if self._bar:
            done = values["step"] / steps
            filled = int(done * BAR_WIDTH)
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self.tick(f"[{bar}] {values['step']}/{steps}  loss {values['loss']:.4f}")

    def tick(self, text: str) -> None:
        now = time.perf_counter()
        if not self._bar or now - self._last_bar < BAR_SECONDS:
            return
        self._last_bar = now
        self._bar_shown = True
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()

    def report(self, values: dict[str, Any], steps: int) -> dict[str, Any]:
        """Prints the line of a step; returns what it adds to the step's values."""
        rate = self._tokens * self._steps / self._seconds
        more: dict[str, Any] = {"tokens_per_second": rate}
        text = (
            f"step {values['step']:>{len(str(steps))}}/{steps}  loss {values['loss']:.4f}  "
            f"{self._quality(values['loss'])}  lr {values['lr']:.2e}  "
            f"grad {values['grad_norm']:.3f}  {count(rate)} tokens/s"
        )
        if self._peak:
            measured = {"measured": True} if isinstance(self._model, GPT) else {}
            flops = self._model.flops_per_token(self._loader.seq_len, **measured)
            more["model_flops"] = flops * rate
            more["peak_share"] = self._peak_share(more["model_flops"] / _fmoe.world_size())
            text += f"  {more['model_flops'] / 1e12:.3f} TFLOP/s ({more['peak_share']:.0%} of peak)"
        layers = self._model.moe_stats() if hasattr(self._model, "moe_stats") else []
        if layers:
            more["load_max_over_mean"] = max(layer["load_max_over_mean"] for layer in layers)
            for name in ("dropped", "not_taken", "entropy"):
                more[name] = sum(layer[name] for layer in layers) / len(layers)
            more["layers"] = layers
            text += f"  load {more['load_max_over_mean']:.2f}  dropped {more['dropped']:.1%}"
            if more["not_taken"]:  # by the gate
                text += f"  not taken {more['not_taken']:.1%}"
        more["memory"] = _fmoe.memory()["peak"]
        text += f"  {size(more['memory'])}"
        if self._total_steps:
            left = (steps - values["step"]) * self._total_seconds / self._total_steps
            text += f"  {duration(left)} left"
        self.say(text)
        self._seconds, self._steps = 0.0, 0
        return more

    def evaluation(self, values: dict[str, Any]) -> None:
        self.say(
            f"evaluation after step {values['step']}: loss {values['eval_loss']:.4f}  "
            f"{self._quality(values['eval_loss'])}  ({values['samples']} samples, "
            f"{values['seconds']:.1f} s)"
        )

    def end(self) -> None:
        if self._bar_shown:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
            self._bar_shown = False

    def _quality(self, loss: float) -> str:
        if self._bits:
            return f"{loss / math.log(2):.3f} bits/byte"
        return f"perplexity {math.exp(min(loss, 700.0)):.2f}"


def layers(model: Any) -> str:
    """Which layers of a GPT have experts, and how they are chosen: '4 layers, dense; '."""
    if not isinstance(model, _fmoe.GPT):
        return ""
    text, moe = f"{model.n_layer} layers, ", model.moe
    if moe is None:
        return text + "dense; "
    numbers = ", ".join(str(layer["layer"]) for layer in model.moe_stats())
    gate = moe.gate if isinstance(moe.gate, str) else moe.gate.__name__
    top_k = moe.top_k or (1 if gate == "switch" else getattr(moe.gate, "default_top_k", 2))
    return text + f"of which {numbers}: {moe.num_experts} experts, gate {gate}, top {top_k}; "


def count(n: float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(n) >= limit:
            return f"{n / limit:.3g}{unit}"
    return f"{n:.3g}"


def size(n: float) -> str:
    """Bytes, in words."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n >= limit:
            return f"{n / limit:.1f} {unit}"
    return f"{n:.0f} B"


def duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
