"""One rank or many: the same losses, the same weights.

parity_test.py --mesh ep2_tp2        the mesh with some of all options, so that each pair of
                                     options of any two kinds is met by some mesh
parity_test.py --mesh ep2_tp2 --all  with all of them
parity_test.py --only 'ep2_tp2 zero=1 gate=switch capacity=1.25 micro_batches=2 recompute=none'
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).absolute().parent))

import mpi_job
import shards

# Ranks, and what fmoe.Mesh is given.
MESHES: dict[str, tuple[int, dict[str, int]]] = {
    "dp2": (2, {}),
    "dp4": (4, {}),
    "ep2": (2, {"ep": 2}),
    "ep4": (4, {"ep": 4}),
    "ep8": (8, {"ep": 8}),
    "tp2": (2, {"tp": 2}),
    "tp4": (4, {"tp": 4}),
    "etp2": (2, {"etp": 2}),
    "dp2_ep2": (4, {"ep": 2}),
    "dp2_tp2": (4, {"tp": 2}),
    "ep2_tp2": (2, {"ep": 2, "tp": 2}),
    "dp2_ep2_tp2": (4, {"ep": 2, "tp": 2}),
    "ep2_etp2": (4, {"ep": 2, "etp": 2}),
    "ep4_tp2": (8, {"ep": 4, "tp": 2}),
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "zero": (0, 1),
    "gate": ("naive", "gshard", "switch"),
    "capacity": (None, 1.25),
    "micro_batches": (1, 2),
    "recompute": ("none", "block"),
}
SEED = 11
LOSS, WEIGHT = 1e-4, 1e-3  # largest difference; Frobenius norm of it over that of the weight
N_HEAD, D_MODEL = 4, 32

Row = dict[str, Any]


def every_row() -> list[Row]:
    return [dict(zip(OPTIONS, v, strict=True)) for v in itertools.product(*OPTIONS.values())]


def pairs(row: Row) -> set[tuple[tuple[str, Any], ...]]:
    return set(itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2))


def some_rows(mesh: str) -> list[Row]:
    """Few rows, in which each pair of options is met, another few for each mesh: greedily, the row
    that meets most pairs that are left; ties turn with the mesh."""
    rows = every_row()
    turn = list(MESHES).index(mesh) * 7 % len(rows)
    rows = rows[turn:] + rows[:turn]
    left = set().union(*map(pairs, rows))
    chosen = []
    while left:
        best = max(rows, key=lambda row: len(pairs(row) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def label(mesh: str, row: Row) -> str:
    return " ".join([mesh, *(f"{name}={value}" for name, value in row.items())])


def write_text(path: Path) -> None:
    """Words in an order that counted numbers give: something to learn, the same everywhere."""
    words = "the router sends each token to its experts and they answer in turn again ".split()
    state, text = 12345, []
    for _ in range(4000):
        state = (state * 1103515245 + 12345) % 2**31
        text.append(words[(state >> 16) % len(words)])
    path.write_text(" ".join(text))


class Comparison:
    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "text.txt"
        self.references: dict[str, tuple[list[float], dict[str, shards.Whole]]] = {}
        write_text(self.data)

    def result(
        self, ranks: int, mesh: dict[str, int], row: Row, **more: str
    ) -> tuple[list[float], dict[str, shards.Whole]]:
        """Losses and weights of a training. more: record= or replay= a folder of routing."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        sizes = {**mesh, "zero": row["zero"]}
        config = {**row, **more, "out": str(out), "data": str(self.data), "seed": SEED}
        script = str(Path(__file__).absolute().parent / "parity_run.py")
        mpi_job.run_script(ranks, [script, json.dumps({**config, "mesh": sizes})])
        return json.loads((out / "losses.json").read_text()), shards.gather(out, ranks)

    def reference(self, row: Row) -> tuple[list[float], dict[str, shards.Whole]]:
        """Of one rank; zero and recomputation make no difference there."""
        alone = {**row, "zero": 0, "recompute": "none"}
        key = label("alone", alone)
        if key not in self.references:
            self.references[key] = self.result(1, {}, alone)
        return self.references[key]

    def compare(self, mesh: str, row: Row, **more: str) -> None:
        """AssertionError: where they differ first."""
        ranks, sizes = MESHES[mesh]
        want, weights = self.reference(row)
        losses, found = self.result(ranks, sizes, row, **more)
        for step, (a, b) in enumerate(zip(losses, want, strict=True), 1):
            assert abs(a - b) <= LOSS, f"step {step}: the loss is {a:.7f}, alone {b:.7f}"
        assert found.keys() == weights.keys(), sorted(found.keys() ^ weights.keys())
        for name, weight in weights.items():
            far = shards.distance(found[name], weight, key_bias(name))
            assert far <= WEIGHT, f"{name} differs by {far:.1e} of its norm"

    def diagnose(self, mesh: str, row: Row) -> str:
        """Why: with the one rank's routing a flipped near-tie has no effect, an error has."""
        routing = str(Path(tempfile.mkdtemp(dir=self.folder)) / "routing")
        self.result(1, {}, {**row, "zero": 0, "recompute": "none"}, record=routing)
        try:
            self.compare(mesh, row, replay=routing)
        except AssertionError as error:
            return f"an error: with the one rank's routing too, {error}"
        return "a near-tie that rounding flipped: with the one rank's routing they agree"


def key_bias(name: str) -> range:
    """Its true gradient is zero, and Adam makes steps of what rounding leaves."""
    return range(D_MODEL, 2 * D_MODEL) if name.endswith("attn.qkv.bias") else range(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesh", choices=MESHES, action="append")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", metavar="LABEL")
    arguments = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder))
        for mesh in arguments.mesh or MESHES:
            for row in every_row() if arguments.all or arguments.only else some_rows(mesh):
                name = label(mesh, row)
                if arguments.only not in (None, name):
                    continue
                try:
                    comparison.compare(mesh, row)
                    passed += 1
                except AssertionError as error:
                    failed += 1
                    print(f"FAILED: parity_test.py --only '{name}' (seed {SEED})\n  {error}")
                    print(f"  It is {comparison.diagnose(mesh, row)}", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(failed > 0 or passed == 0)


main()
