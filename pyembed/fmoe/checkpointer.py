"""Checkpoints: what goes into one, and the way back."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import _fmoe
from _fmoe import CheckpointError, CheckpointReader, DataLoader, Mesh, Optimizer

from . import model_config, ranks, run_lock
from .checkpoint_check import misfit
from .checkpoint_state import FORMAT, loader_state, optimizer_state, parse

_saving: set[Checkpointer] = set()  # kept alive, so that a failure has somebody to tell


class Checkpointer:
    """Writes sharded HDF5 checkpoints `root/step_N` and reads them back, whatever the layout.

    All ranks make it, save, load and wait together, and get the same result or exception; each
    writes and reads its own part. Rank 0 decides which step, and speaks for all.

    root          folder; made when needed
    keep_last     so many are kept, the newest; the last complete one is never deleted
    asynchronous  training stands still only for the copy to host memory; a thread writes
    compression   gzip level 0 to 9; 0: none
    mesh          layout to be noted for a model without parameters; else the model's own is

    After load(): `extra` is what save() was given.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        keep_last: int = 3,
        asynchronous: bool = True,
        compression: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self.extra: Any = None
        self._store = _fmoe.CheckpointStore(
            self.root,
            keep_last=keep_last,
            asynchronous=asynchronous,
            compression=compression,
            mesh=mesh,
        )

    def path(self, step: int) -> str:
        """The folder of a step."""
        return os.path.join(self.root, f"step_{step:08d}")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return _fmoe.checkpoint_list(self.root)

    def save(
        self,
        step: int,
        *,
        model: Any,
        optimizer: Optimizer | None = None,
        loader: DataLoader | None = None,
        extra: Any = None,
    ) -> None:
        """Saves parameters, moments, step, schedule, data position, seed and `extra` (any JSON).

        The background part of a save is completed by the next optimizer.step(), save or wait, or at
        exit; its failure is raised there (on several ranks by save or wait, on all of them; when it
        is found earlier rank 0 warns). A step that is not above the newest in the folder is a
        ValueError, unless this Checkpointer saved or loaded there: then the later ones of the run
        that is left are kept as step_N.abandoned. What goes wrong after a checkpoint is complete
        (an older one cannot be deleted) is a RuntimeWarning; another run in the folder is a
        RuntimeError.
        """
        _check_types("save", model, optimizer, loader)
        state = {
            "format": FORMAT,
            "step": step,
            "seed": _fmoe.seed(),
            "model": model_config.configs(model),
            "optimizer": optimizer_state(optimizer),
            "loader": None if loader is None else loader_state(loader),
            "extra": extra,
        }
        try:
            text = json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"save: extra={extra!r} is not allowed: JSON is ({error})") from None
        if _fmoe.dry_run():
            return
        run_lock.hold(self.root)
        self._wait_for_others()
        _saving.add(self)
        self._store.save(step, model=model, optimizer=optimizer, state=text)

    def load(
        self,
        *,
        model: Any,
        optimizer: Optimizer | None = None,
        loader: DataLoader | None = None,
        step: int | None = None,
        on_corrupt: Literal["raise", "older"] = "raise",
        allow_other_data: bool = False,
        allow_other_model: bool = False,
    ) -> int | None:
        """Loads the newest complete checkpoint and returns its step; None if there is none.

        step              this one instead; CheckpointError if it is not there. With an optimizer or
                          a loader the run goes on from it; without, it is only looked at
        on_corrupt        "raise": CheckpointError, and what was loaded so far is undefined;
                          "older": says so and takes the one before
        allow_other_data  go on although the loader reads other data, or in another order
        allow_other_model go on although the model computes something else with the same weights:
                          n_head, activation, rope_theta, the gate, ...

        A learning rate that was set by hand (optimizer.lr = ...) comes back, unless the script now
        gives another one itself.
        """
        if on_corrupt not in ("raise", "older"):
            raise ValueError(
                f"load: on_corrupt={on_corrupt!r} is not allowed: 'raise', 'older' are"
            )
        _check_types("load", model, optimizer, loader)
        if _fmoe.dry_run():
            return None
        goes_on = optimizer is not None or loader is not None  # else it is looked at only
        if goes_on and _fmoe.rank() == 0:
            user = run_lock.user_of(self.root)
            if user is not None:  # to start a fine-tune from it is fine
                _say(f"{self.root} is in use by {user}: this run cannot save there")
        self._wait_for_others()
        self.wait()
        steps = ranks.first(lambda: self._steps_with(step))
        failure: Exception | None = None
        for found in reversed(steps):
            if step is not None and found > step:
                continue
            path = self.path(found)
            reader, state, error = self._open(path)
            failure = ranks.worst(error)
            if failure is None and reader is not None and state is not None:
                other = misfit(
                    reader,
                    state,
                    model,
                    optimizer,
                    loader,
                    allow_other_data=allow_other_data,
                    allow_other_model=allow_other_model,
                )
                if other is not None:  # an older checkpoint would not help
                    raise CheckpointError(f"{path}: {other}")
                failure = ranks.worst(_failure_of(lambda r=reader: r.read(model, optimizer)))
                if failure is None:
                    self._apply(state, optimizer, loader)
                    if goes_on:
                        self._store.loaded(found, steps[-1])
                    return found
            assert failure is not None
            if on_corrupt == "raise" or not isinstance(failure, CheckpointError):
                raise failure
            _say(f"{failure}; trying an older checkpoint")
        if failure is not None:
            raise failure
        return None

    def _steps_with(self, step: int | None) -> list[int]:
        steps = self.steps()
        if step is not None and step not in steps:
            raise CheckpointError(
                f"{self.root} has no complete checkpoint of step {step!r}; it has {steps}"
            )
        return steps

    def _open(
        self, path: str
    ) -> tuple[CheckpointReader | None, dict[str, Any] | None, Exception | None]:
        try:
            if _fmoe.rank() > 0:
                ranks.wait_for_path(os.path.join(path, "manifest.json"))
            reader = CheckpointReader(path)
            return reader, parse(reader.state, path), None
        except Exception as error:
            return None, None, error

    def _apply(
        self, state: dict[str, Any], optimizer: Optimizer | None, loader: DataLoader | None
    ) -> None:
        _fmoe.manual_seed(state["seed"])
        if optimizer is not None and state["optimizer"] is not None:
            optimizer.steps = state["optimizer"]["step"]
            _restore_lr(optimizer, state["optimizer"])
        if loader is not None and state["loader"] is not None:
            loader.position = state["loader"]["position"]
        self.extra = state["extra"]

    def _wait_for_others(self) -> None:
        """One save into a folder at a time: other Checkpointers of this program finish theirs."""
        for other in list(_saving - {self}):
            if os.path.realpath(other.root) == os.path.realpath(self.root):
                other.wait()

    def wait(self) -> None:
        """Until an asynchronous save is on disk; raises its failure. Also done at exit."""
        _saving.discard(self)
        self._store.wait()

    def _end(self) -> None:
        """wait() for the end of the program, when other ranks may be gone: asks none of them."""
        _saving.discard(self)
        self._store.end()

    def poll(self) -> None:
        """Commits a finished background save without waiting; so does every optimiser's step()."""
        try:
            self._store.poll()
        finally:
            if not self._store.busy:
                _saving.discard(self)


def _check_types(call: str, model: object, optimizer: object, loader: object) -> None:
    if not hasattr(model, "named_parameters"):
        raise TypeError(
            f"{call}: model={model!r} ({type(model).__name__}) is of the wrong type: "
            f"an fmoe.GPT, Module or MoELayer is wanted"
        )
    for name, value, wanted in (
        ("optimizer", optimizer, Optimizer),
        ("loader", loader, DataLoader),
    ):
        if value is not None and not isinstance(value, wanted):
            raise TypeError(
                f"{call}: {name}={value!r} ({type(value).__name__}) is of the wrong type: "
                f"None or an fmoe.{wanted.__name__} is wanted"
            )


def _say(text: str) -> None:
    """Once for all ranks."""
    if _fmoe.rank() == 0:
        print(f"fmoe: {text}", file=sys.stderr, flush=True)


def _failure_of(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _restore_lr(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Says so where the script's learning rate or schedule are others than the saved run's."""
    if optimizer.lr == optimizer.initial_lr == saved.get("initial_lr"):
        optimizer.lr = saved["lr"]
    now = optimizer_state(optimizer)
    assert now is not None
    for key in ("lr", "schedule"):
        if saved.get(key) != now[key]:
            _say(
                f"the optimizer's {key} is {now[key]}; in the run that was saved it was "
                f"{saved.get(key)}"
            )


def checkpoint_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says about itself, without reading its arrays: a dict with `step`,
    `manifest` (layout, files), `state` (optimizer, loader, seed, extra) and `arrays` (a list of
    dicts: name, file, global_shape, numel)."""
    reader = _fmoe.CheckpointReader(path)
    return {
        "step": reader.step,
        "manifest": json.loads(reader.manifest),
        "state": json.loads(reader.state),
        "arrays": reader.arrays,
    }


def _between_steps() -> None:
    """A background save is complete when the main thread says so: it does at the next step."""
    for checkpointer in list(_saving):
        checkpointer.poll()


_fmoe.after_step(_between_steps)


@atexit.register
def _wait_for_all() -> None:
    for checkpointer in list(_saving):
        try:
            checkpointer._end()
        except Exception as error:
            of = f"rank {_fmoe.rank()}: " if _fmoe.world_size() > 1 else ""
            print(f"fmoe: {of}{error}", file=sys.stderr, flush=True)
            _fmoe.fail_at_exit()
