"""Random inputs: seeded, exact in float32, and the same for every version of numpy.

RandomState's stream is frozen by numpy's policy; default_rng's is not. Values are rounded to
multiples of a power of two, so that they are exact in float32 and compress well.
"""

import numpy as np
from numpy.typing import NDArray

from .names import NORMS, Shapes

GRID = 2.0**-10


def normal(
    rng: np.random.RandomState,
    shape: tuple[int, ...],
    std: float,
    mean: float = 0.0,
    grid: float = GRID,
) -> NDArray[np.float32]:
    values = mean + std * rng.standard_normal(shape)
    return (np.round(values / grid) * grid).astype(np.float32)


def parameters(
    rng: np.random.RandomState, shapes: Shapes, std: float = 0.2
) -> dict[str, NDArray[np.float32]]:
    """N(0, std), large enough that every path carries a visible gradient; gains around 1."""
    values = {}
    for name, shape in shapes.items():
        owner, _, kind = name.rpartition(".")
        is_gain = kind == "weight" and owner.rpartition(".")[2] in NORMS
        values[name] = normal(rng, shape, std, mean=1.0 if is_gain else 0.0)
    return values
