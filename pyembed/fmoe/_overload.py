"""fmoe.linear is the layer and the schedule: what it is given tells which."""

from __future__ import annotations

from typing import Any, overload

import _fmoe
from _fmoe import Schedule, Tensor

from . import schedules


@overload
def linear(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, activation: str = "none"
) -> Tensor: ...
@overload
def linear(warmup: int = 0, *, total: int, final: float = 0.0, offset: bool = True) -> Schedule: ...
def linear(*args: Any, **kwargs: Any) -> Any:
    """linear(x, w, b=None, *, activation='none'): activation(x wT + b), [..., out], of tensors
    x [..., in], w [out, in] and b [out].

    linear(warmup=0, *, total, final=0.0, offset=True): a learning-rate schedule, a straight line
    from 1 to `final` at step `total`.
    """
    if (args and isinstance(args[0], Tensor)) or "x" in kwargs:
        return _fmoe.linear(*args, **kwargs)
    return schedules.linear(*args, **kwargs)
