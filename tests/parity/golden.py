"""Reads golden files and compares with them; shared by this folder's tests."""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import numpy as np  # noqa: E402

import cases  # noqa: E402  (found by the line above)
import fmoe  # noqa: E402

__all__ = ["close", "fmoe", "load", "main", "names", "np", "set_parameters"]
main = cases.main


def folder(name: str) -> str:
    return os.path.join(ROOT, "tests", "golden", name)


def names(name: str) -> list[str]:
    """The cases of a golden folder."""
    found = sorted(f[:-4] for f in os.listdir(folder(name)) if f.endswith(".npz"))
    assert found, f"no golden file in {folder(name)}"
    return found


def load(name: str, case: str) -> tuple[dict, dict]:
    """(config, arrays) of one case."""
    with np.load(os.path.join(folder(name), case + ".npz")) as archive:
        arrays = {k: archive[k] for k in archive.files}
    config = json.loads(arrays.pop("config").tobytes())
    if config.get("moe") and config["moe"]["gate"] != "gshard":
        del config["moe"]["second_policy"]  # every case stores every field; the others refuse it
    return config, arrays


def set_parameters(owner, arrays: dict) -> None:
    """Copies param/NAME into the parameter NAME; both sides must have the same names."""
    parameters = dict(owner.named_parameters())
    wanted = {k[len("param/") :] for k in arrays if k.startswith("param/")}
    assert set(parameters) == wanted, f"names differ: {sorted(set(parameters) ^ wanted)}"
    for name, p in parameters.items():
        p.copy_(np.ascontiguousarray(arrays["param/" + name]))


def close(got, want, what: str, rtol: float = 1e-4, of_largest: float = 1e-5) -> None:
    """|got - want| <= rtol |want| + of_largest max|want|, element by element; NaN fails."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    if want.size == 0:
        return
    allowed = rtol * np.abs(want) + of_largest * np.abs(want).max()
    off = np.abs(got - want)
    bad = ~(off <= allowed)
    if bad.any():
        at = np.unravel_index(np.argmax(np.where(bad, off / (allowed + 1e-300), -1)), want.shape)
        raise AssertionError(
            f"{what}: {bad.sum()} of {want.size} elements differ; "
            f"at {at} {got[at]!r} instead of {want[at]!r}"
        )
