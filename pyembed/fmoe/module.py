"""Modules written in Python, and no_grad."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import _fmoe
from _fmoe import Mesh, Parameter


class Module:
    """A part of a model: attributes that are Parameters or modules (GPT and MoELayer too), and
    lists, tuples and dicts of them, are its parts. Define forward(); call the module."""

    training: bool = True
    mesh: Mesh | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """A list of (name, Parameter), in the order of assignment; a shared one appears once."""
        found: list[tuple[str, Parameter]] = []
        seen: set[int] = set()
        with _Visit(self) as first:
            for name, part in parts("", vars(self)) if first else ():
                pairs = [("", part)] if isinstance(part, Parameter) else part.named_parameters()
                for inner, parameter in pairs:
                    if id(parameter) in seen:
                        continue
                    seen.add(id(parameter))
                    found.append((f"{name}.{inner}" if inner else name, parameter))
        return found

    def num_parameters(self) -> int:
        """Elements of all parameters, over all ranks."""
        total = 0
        for _, parameter in self.named_parameters():
            size = 1
            for n in parameter.global_shape:
                size *= n
            total += size
        return total

    def train(self) -> Module:
        """Training mode for it and its parts; returns it."""
        return self._set_mode(True)

    def eval(self) -> Module:
        """Evaluation mode for it and its parts; returns it."""
        return self._set_mode(False)

    def _set_mode(self, training: bool) -> Module:
        self.training = training
        with _Visit(self) as first:
            for _, part in parts("", vars(self)) if first else ():
                if not isinstance(part, Parameter):
                    part.train() if training else part.eval()
        return self


class _Visit:
    """A walk over a module's parts: not the first where it came back to a module that refers to
    what it is a part of, a gate to its model."""

    _here = threading.local()

    def __init__(self, module: Module) -> None:
        self._id = id(module)

    def __enter__(self) -> bool:
        under_way: set[int] = self._here.__dict__.setdefault("modules", set())
        self._first = self._id not in under_way
        under_way.add(self._id)
        return self._first

    def __exit__(self, *unused: object) -> None:
        if self._first:
            self._here.modules.discard(self._id)


def parts(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The Parameters and modules among `values`, with their names."""
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Parameter) or hasattr(value, "named_parameters"):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from parts(name, {str(i): part for i, part in enumerate(value)})
        elif isinstance(value, dict):
            yield from parts(name, value)


class no_grad(contextlib.ContextDecorator):
    """`with fmoe.no_grad():` operations are not recorded, and cost no memory for a backward."""

    def __init__(self) -> None:
        self._before: list[bool] = []  # one object may be entered again: a recursive function's

    def __enter__(self) -> no_grad:
        self._before.append(_fmoe.grad_enable(False))
        return self

    def __exit__(self, *unused: object) -> None:
        _fmoe.grad_enable(self._before.pop())
