"""An .npz in double, and the assertions that every check uses."""

import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class BrokenError(Exception):
    """What is wrong with a file, the value seen, the value wanted."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenError(message)


def expect_close(what: str, seen: NDArray, wanted: NDArray | float, tolerance: float) -> None:
    """Relative to the largest wanted value; NaN fails."""
    wanted = np.asarray(wanted)
    expect(seen.shape == wanted.shape, f"{what}: shape {seen.shape}, want {wanted.shape}")
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
    error = float(np.abs(seen - wanted).max(initial=0.0)) / scale
    expect(error <= tolerance, f"{what}: relative difference {error:.2g}, want <= {tolerance:g}")


class Archive:
    """Every array is checked on loading: dtype, finiteness. Floats become double."""

    def __init__(self, path: pathlib.Path) -> None:
        self.arrays: dict[str, NDArray] = {}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            for name in data.files:
                array = data[name]
                expect(
                    array.dtype in (np.float32, np.int32, np.uint8),
                    f"{name}: dtype {array.dtype}, want float32, int32 or uint8",
                )
                expect(bool(np.isfinite(array).all()), f"{name}: not finite")
                wide = array.dtype == np.float32
                self.arrays[name] = array.astype(np.float64) if wide else array

    def __getitem__(self, name: str) -> NDArray:
        expect(name in self.arrays, f"{name}: missing")
        return self.arrays[name]

    def config(self) -> dict[str, Any]:
        return json.loads(self["config"].tobytes())

    def expect_keys(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Exactly these arrays, with these shapes."""
        missing, extra = shapes.keys() - self.arrays.keys(), self.arrays.keys() - shapes.keys()
        expect(not missing, f"missing {sorted(missing)}")
        expect(not extra, f"unexpected {sorted(extra)}")
        for name, shape in shapes.items():
            seen = self.arrays[name].shape
            expect(seen == shape, f"{name}: shape {seen}, want {shape}")

    def group(self, prefix: str) -> dict[str, NDArray]:
        """The arrays below PREFIX/, by the rest of their name."""
        return {
            name.removeprefix(prefix + "/"): array
            for name, array in self.arrays.items()
            if name.startswith(prefix + "/")
        }

    def text_shape(self) -> dict[str, tuple[int, ...]]:
        """The config's own entry, whatever its length."""
        return {"config": self["config"].shape}


def with_grads(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """param/NAME and grad/NAME for each."""
    return {f"{kind}/{n}": shape for n, shape in shapes.items() for kind in ("param", "grad")}
