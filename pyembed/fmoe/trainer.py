"""The training loop that most people want. It uses nothing that a script could not use itself."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import _fmoe
from _fmoe import DataLoader, Optimizer, StepInfo

from . import console, memory_check, run_lock
from .checkpointer import Checkpointer
from .metrics import Metrics
from .module import no_grad
from .stop_request import StopRequest
from .trainer_checks import check_trainer

Callback = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains, reports, evaluates, saves, and resumes by itself.

    model, optimizer, loader  what to train, how, on what
    checkpointer              saves here and resumes from here; None: neither
    eval_loader               evaluated over its whole split, each sample once
    eval_every, save_every    steps; None: only at the end of fit()
    log_every                 steps between lines
    metrics                   file of JSON lines, one a step; each log_every-th has speed, memory
                              and the MoE layers' statistics (of the last micro-batch) as well;
                              TensorBoard events go to a folder beside it
    max_skipped_steps         consecutive steps with a non-finite gradient that are borne
    max_seconds               fit() stops after the step that ends later than that; None: never
    on_step, on_eval, on_save called with a plain dict: step, loss, ...
    extra                     any JSON, kept in the checkpoints
    allow_other_data, allow_other_model  as Checkpointer.load takes them, for resuming

    SIGINT, SIGTERM and SIGUSR1 to any rank end fit() on all after the step, saved; `stopped` is
    then the signal's name, or 'max_seconds'. Rank 0 prints and writes metrics; callbacks are
    called on every rank.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Optimizer,
        loader: DataLoader,
        *,
        checkpointer: Checkpointer | None = None,
        eval_loader: DataLoader | None = None,
        eval_every: int | None = None,
        save_every: int | None = None,
        log_every: int = 10,
        metrics: str | os.PathLike[str] | None = None,
        max_skipped_steps: int = 0,
        max_seconds: float | None = None,
        on_step: Callback | None = None,
        on_eval: Callback | None = None,
        on_save: Callback | None = None,
        extra: Any = None,
        allow_other_data: bool = False,
        allow_other_model: bool = False,
    ) -> None:
        check_trainer(
            model,
            optimizer,
            loader,
            checkpointer=checkpointer,
            eval_loader=eval_loader,
            eval_every=eval_every,
            save_every=save_every,
            log_every=log_every,
            max_skipped_steps=max_skipped_steps,
            max_seconds=max_seconds,
        )
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.checkpointer, self.eval_loader = checkpointer, eval_loader
        self.eval_every, self.save_every, self.log_every = eval_every, save_every, log_every
        self.max_skipped_steps, self.max_seconds = max_skipped_steps, max_seconds
        self.on_step, self.on_eval, self.on_save = on_step, on_eval, on_save
        self.extra = extra
        self.allow_other_data, self.allow_other_model = allow_other_data, allow_other_model
        self._stop = StopRequest(None)
        writes = metrics is not None and _fmoe.rank() == 0 and not _fmoe.dry_run()
        self._metrics = Metrics(metrics) if writes else None
        self._saved_at: int | None = None
        self._skipped = 0
        self._console = console.Console(model, loader)

    # ---- the loop

    @property
    def stopped(self) -> str | None:
        """Why fit() ended early; None: it did not."""
        return self._stop.reason

    def fit(self, steps: int) -> dict[str, Any]:
        """Trains until `steps` optimiser steps are done in all, resumption included.

        Returns the last step's values and, where there is an eval_loader, `eval_loss` (nats).
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"fit: steps={steps!r} is not allowed: an int of at least 0 is")
        self._stop = StopRequest(self.max_seconds)
        self._resume()
        values: dict[str, Any] = {"step": self.optimizer.steps}
        if self.optimizer.steps >= steps:
            self._console.say(f"{self.optimizer.steps} of {steps} steps are done already")
        else:
            memory_check.check(self.model, self.loader, self.optimizer)
        with self._stop:
            self.model.train()
            self._console.begin(self.optimizer.steps, steps)
            while self.optimizer.steps < steps and not self._stop.known():
                values = self._step(steps)
                if values["skipped"]:
                    continue
                if _due(self.optimizer.steps, self.eval_every) and self.optimizer.steps < steps:
                    self.evaluate()
                if _due(self.optimizer.steps, self.save_every):
                    self.save()
            self._console.end()
            if not self._stop.agree() and self.eval_loader is not None:
                evaluated = self.evaluate()
                if evaluated:
                    values["eval_loss"] = evaluated["eval_loss"]
            self.save()
            if self.stopped is not None:
                self._console.say(f"stopped by {self.stopped} after step {self.optimizer.steps}")
        if self._metrics is not None:
            self._metrics.close()
        if self.checkpointer is not None:
            self.checkpointer.wait()
        return values

    def _step(self, steps: int) -> dict[str, Any]:
        """One optimiser step: fewer than 20 calls into C."""
        self._saved_at = None  # also where the script went back to an earlier step
        started = time.perf_counter()
        try:
            for _ in range(self.loader.micro_batches):
                tokens, targets = next(self.loader)
                out = self.model(tokens, targets)
                getattr(out, "loss", out).backward()
        except FloatingPointError as error:  # a router saw NaN: the weights are lost
            raise FloatingPointError(f"step {self.optimizer.steps + 1}: {error}") from None
        info = self.optimizer.step(stop=self._stop.wanted())
        self._stop.agree(info.stop)
        seconds = time.perf_counter() - started
        self._check_finite(info)
        step = self.optimizer.steps
        values: dict[str, Any] = {
            "step": step,
            "loss": info.loss,
            "lr": info.lr,
            "grad_norm": info.grad_norm,
            "skipped": info.skipped,
            "seconds": seconds,
        }
        self._console.step(values, steps)
        if _due(step, self.log_every) or step == steps:
            values.update(self._console.report(values, steps))
        self._write("train", values)
        if self.on_step is not None:
            self.on_step(dict(values))
        return values

    def _check_finite(self, info: StepInfo) -> None:
        if not info.skipped and math.isfinite(info.loss):
            self._skipped = 0
            return
        self._skipped += 1
        step = self.optimizer.steps + (1 if info.skipped else 0)
        if self._skipped > self.max_skipped_steps:
            raise FloatingPointError(
                f"step {step}: the loss is {info.loss} and the gradient norm {info.grad_norm}; "
                f"{self._skipped} such steps came one after another, max_skipped_steps="
                f"{self.max_skipped_steps} are borne. Lower the learning rate or look at the data."
            )
        self._console.say(
            f"step {step} is skipped: loss {info.loss}, gradient norm {info.grad_norm}"
        )

    # ---- evaluating and saving

    def evaluate(self) -> dict[str, Any]:
        """The mean loss, nats per token, over the whole split of eval_loader, each sample once, on
        all ranks together.

        Empty where a signal stopped it.
        """
        loader = self.eval_loader
        if loader is None:
            raise RuntimeError("evaluate: the Trainer has no eval_loader")
        started = time.perf_counter()
        was_training = getattr(self.model, "training", True)
        total, targets_seen, count = 0.0, 0, 0
        loader.reset()
        self.model.eval()
        try:
            with no_grad():
                for tokens, targets in loader:
                    if self._stop.agree():
                        return {}  # part of a split is no result, and the save is urgent
                    out = self.model(tokens, targets)
                    valid = getattr(out, "num_targets", loader.rows)
                    total += float(getattr(out, "lm_loss", out)) * valid
                    targets_seen += valid
                    count += loader.valid
                    self._console.tick(f"evaluating {count}/{loader.num_samples}")
        finally:
            if was_training:
                self.model.train()
        # ranks of the same data (tp) count their part more than once, above and below the line
        total, everything = _fmoe.agree([total, targets_seen])
        values: dict[str, Any] = {
            "step": self.optimizer.steps,
            "eval_loss": total / everything,
            "samples": count,
            "seconds": time.perf_counter() - started,
        }
        self._console.evaluation(values)
        self._write("eval", values)
        if self.on_eval is not None:
            self.on_eval(dict(values))
        return values

    def save(self) -> None:
        """Saves a checkpoint of this step, unless that was done already."""
        step = self.optimizer.steps
        if self.checkpointer is None or self._saved_at == step:
            return
        started = time.perf_counter()
        self.checkpointer.save(
            step,
            model=self.model,
            optimizer=self.optimizer,
            loader=self.loader,
            extra=self.extra,
        )
        self._saved_at = step
        values = {
            "step": step,
            "path": self.checkpointer.path(step),
            "seconds": time.perf_counter() - started,
        }
        self._console.say(f"saved {values['path']} ({values['seconds']:.2f} s)")
        self._write("save", values)
        if self.on_save is not None:
            self.on_save(dict(values))

    def _resume(self) -> None:
        """Goes on where the newest checkpoint stands; only a run that has not begun does."""
        step = None
        if _fmoe.dry_run():
            return
        if self.checkpointer is not None:
            run_lock.hold(self.checkpointer.root)  # before the metrics of another run are touched
        if self.checkpointer is not None and self.optimizer.steps == 0:
            step = self.checkpointer.load(
                model=self.model,
                optimizer=self.optimizer,
                loader=self.loader,
                on_corrupt="older",
                allow_other_data=self.allow_other_data,
                allow_other_model=self.allow_other_model,
            )
            self._saved_at = step
        if self._metrics is not None:
            aside = self._metrics.begin(self.optimizer.steps)
            if aside is not None:
                self._console.say(f"{self._metrics.path} was of another run: it is now {aside}")
        if step is not None and self.checkpointer is not None:
            self._console.say(f"resumed from {self.checkpointer.path(step)}")

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write({"kind": kind, "time": time.time(), **values})


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
