"""selfcheck accepts the committed files and finds each of these faults.

python tests/golden/selfcheck_test.py
"""

import contextlib
import io
import pathlib
import shutil
import sys
import tempfile
import unittest
from collections.abc import Callable

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

import cases  # noqa: E402
import selfcheck  # noqa: E402

Arrays = dict[str, np.ndarray]
Fault = Callable[[Arrays], None]


def scaled(name: str, factor: float) -> Fault:
    def fault(arrays: Arrays) -> None:
        arrays[name] = (arrays[name] * factor).astype(np.float32)

    return fault


def changed(name: str, value: float, at: int = 0) -> Fault:
    def fault(arrays: Arrays) -> None:
        arrays[name].reshape(-1)[at] = value

    return fault


def removed(name: str) -> Fault:
    def fault(arrays: Arrays) -> None:
        del arrays[name]

    return fault


def added(name: str) -> Fault:
    def fault(arrays: Arrays) -> None:
        arrays[name] = np.zeros(3, dtype=np.float32)

    return fault


def widened(name: str) -> Fault:
    def fault(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(np.float64)

    return fault


def crowded(arrays: Arrays) -> None:
    """All copies of the first choice on one expert: more than its capacity."""
    arrays["layers.0.moe.indices"][:, 0] = 0


def unbalanced(arrays: Arrays) -> None:
    """The wrong normalisation of a predecessor: E times too small."""
    arrays["balance_loss"] = arrays["balance_loss"] / np.float32(5)


# file, fault, a word that the report must have
FAULTS: list[tuple[str, Fault, str]] = [
    ("gpt_dense/layernorm_learned_gelu", scaled("logits", 1.001), "lm_loss"),
    ("gpt_dense/layernorm_learned_gelu", removed("grad/embed.position"), "missing"),
    ("gpt_dense/gelu_erf_short", changed("grad/norm.bias", np.nan), "not finite"),
    ("gpt_dense/gelu_erf_short", added("param/layers.2.norm1.weight"), "unexpected"),
    ("gpt_dense/rmsnorm_rope_swiglu_gqa", widened("logits"), "dtype"),
    ("gpt_moe/switch_every1", unbalanced, "loss"),
    ("gpt_moe/switch_capacity_position", crowded, "capacity"),
    ("gpt_moe/gshard_every2", changed("tokens", 61), "tokens"),
    ("gpt_moe/gshard_every2", changed("layers.1.moe.scores", 0.1), "scores"),
    ("moe_layer/naive_dropless", scaled("y", 1.0001), "y:"),
    ("moe_layer/gshard_dropless", scaled("scores", 1.0001), "scores"),
    ("moe_layer/switch_capacity_score", changed("indices", 2), "indices"),
    ("moe_layer/gshard_shared_relu2", scaled("grad/gate.weight", 1.0001), "gate.weight"),
    ("moe_layer/naive_swiglu_no_bias", scaled("grad/experts.up.weight", 1.0001), "up.weight"),
    ("moe_layer/switch_dropless", unbalanced, "balance_loss"),
    ("ops/adamw", scaled("step5/param/norm.weight", 1.0001), "step5/param"),
    ("ops/cross_entropy", changed("rows", 1.0, at=2), "rows"),
    ("ops/attention_rope_gqa", removed("grad/qkv"), "missing"),
    ("ops/rms_norm", scaled("y", 1.0001), "y"),
    ("train100/switch", scaled("lr", 1.01), "lr"),
    ("train100/naive", scaled("loss", 1.001), "loss"),
]


class SelfcheckTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name) / "golden"
        shutil.copytree(HERE, self.root, ignore=shutil.ignore_patterns("__pycache__"))

    def problems(self) -> list[str]:
        with contextlib.redirect_stdout(io.StringIO()):
            return selfcheck.check_all(self.root)

    def test_committed_files_are_good(self) -> None:
        self.assertEqual(self.problems(), [])

    def test_each_fault_is_found_in_its_file_only(self) -> None:
        for file, fault, word in FAULTS:
            path = self.root / f"{file}.npz"
            good = path.read_bytes()
            with np.load(path) as data:
                arrays = {name: data[name].copy() for name in data.files}
            fault(arrays)
            np.savez(path, **arrays)
            with self.subTest(file=file, word=word):
                problems = self.problems()
                self.assertEqual(len(problems), 1, problems)
                self.assertIn(f"{file}.npz: ", problems[0])
                self.assertIn(word, problems[0].partition(": ")[2])
            path.write_bytes(good)

    def test_truncated_file(self) -> None:
        path = self.root / "ops" / "layer_norm.npz"
        path.write_bytes(path.read_bytes()[:-100])
        self.assertEqual(len(self.problems()), 1)

    def test_file_that_the_readme_promises(self) -> None:
        (self.root / "ops" / "layer_norm.npz").unlink()
        self.assertIn("no such file", " ".join(self.problems()))

    def test_file_that_the_readme_does_not_name(self) -> None:
        shutil.copy(self.root / "ops" / "rms_norm.npz", self.root / "gpt_moe" / "other.npz")
        self.assertIn("gpt_moe/other.npz: a file, but not in README", " ".join(self.problems()))

    def test_folder_without_a_check(self) -> None:
        shutil.copytree(self.root / "ops", self.root / "opera")
        self.assertIn("opera: no check is written", self.problems())


if __name__ == "__main__":
    cases.main()
