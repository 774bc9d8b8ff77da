"""Learning-rate schedules: a factor on the base rate for each step, counted from 1.

Each rises linearly to 1 in `warmup` steps. With offset=False the decay is measured from step 0
instead of the end of the warmup.
"""

from _fmoe import Schedule


def constant(warmup: int = 0) -> Schedule:
    """1 after the warmup."""
    return Schedule("constant", warmup=warmup)


def linear(warmup: int = 0, *, total: int, final: float = 0.0, offset: bool = True) -> Schedule:
    """A straight line from 1 to `final` at step `total`, and `final` from there on."""
    return Schedule("linear", warmup=warmup, total=total, final=final, offset=offset)


def cosine(warmup: int = 0, *, total: int, final: float = 0.0, offset: bool = True) -> Schedule:
    """Half a cosine from 1 to `final` at step `total`, and `final` from there on."""
    return Schedule("cosine", warmup=warmup, total=total, final=final, offset=offset)


def wsd(warmup: int = 0, *, total: int, decay: int, final: float = 0.0) -> Schedule:
    """Warmup, stable, decay: 1 until the last `decay` of `total` steps, then linear to `final`."""
    return Schedule("wsd", warmup=warmup, total=total, decay=decay, final=final)


def inverse_sqrt(warmup: int) -> Schedule:
    """sqrt(warmup / step) after the warmup."""
    return Schedule("inverse_sqrt", warmup=warmup)
