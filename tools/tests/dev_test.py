"""The pieces of ./dev that decide: layers, text, losses, archives."""

import math
import struct
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cases
from dev import common, layers, losses, npz, text


class Layers(unittest.TestCase):
    def test_allowed(self) -> None:
        for path, line in [
            ("tensor/ops.c", '#include "tensor/ops.h"'),
            ("io/checkpoint.c", '#include "parallel/param.h"'),
            ("io/checkpoint.c", "#include <hdf5.h>"),
            ("pyembed/module.c", "#include <Python.h>"),
            ("tests/io/x_test.c", "#include <hdf5.h>"),
            ("tensor/cpu/gemm.c", "#include <cblas.h>"),
            ("tensor/a.c", "// #include <Python.h>"),
        ]:
            self.assertEqual(layers.violations(path, line), [], path + line)

    def test_forbidden(self) -> None:
        for path, line in [
            ("tensor/ops.c", '#include "parallel/comm.h"'),
            ("io/checkpoint.c", '#include "model/gpt.h"'),
            ("fmoe/moe.c", '  #  include "model/gpt.h"'),
            ("fmoe/moe.c", "#include <hdf5.h>"),
            ("model/gpt.c", "#include <Python.h>"),
            ("io/checkpoint.c", "#include <numpy/arrayobject.h>"),
            ("model/gpt.c", "#include <mpi.h>"),
            ("model/gpt.c", '#include "../tensor/ops.h"'),
            ("model/gpt.c", '#include "gpt.h"'),
            ("model/gpt.c", '#include "tests/check.h"'),
        ]:
            self.assertEqual(len(layers.violations(path, "\n" + line)), 1, path + line)


class Text(unittest.TestCase):
    def test_good(self) -> None:
        self.assertEqual(text.problems("a.c", "int x; /* Σ */\n".encode()), [])
        self.assertEqual(text.problems("a.c", b""), [])

    def test_bad(self) -> None:
        for data in [b"x\r\n", b"x \n", b"\tx\n", b"x", b"x\n\n", b"\xff\n"]:
            self.assertEqual(len(text.problems("a.c", data)), 1, data)


class Tracked(unittest.TestCase):
    def test_without_git_the_tree_is_walked(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name in ["a.c", "x/b.c", "x/b.py", ".cache/c.c", "bazel-events.json", ".git/x.c"]:
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_text("")
            self.assertEqual(common.tracked(root=root), ["a.c", "x/b.c", "x/b.py"])
            self.assertEqual(common.tracked("*.c", root=root), ["a.c", "x/b.c"])


class Losses(unittest.TestCase):
    def test_first_difference(self) -> None:
        nan = math.nan
        self.assertIsNone(losses.first_difference({1: 0.1, 2: nan}, {1: 0.1, 2: nan}))
        self.assertEqual(losses.first_difference({1: 0.1, 2: 0.3}, {1: 0.1, 2: 0.1 + 0.2}), 2)
        self.assertEqual(losses.first_difference({1: 0.1}, {1: 0.1, 2: 0.2}), 2)

    def test_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.jsonl"
            path.write_text('{"step": 1, "loss": 5.25}\n{"event": "save"}\n')
            self.assertEqual(losses.read_losses(path), {1: 5.25})
            path.write_text("{}\n")
            with self.assertRaises(SystemExit):
                losses.read_losses(path)


class Npz(unittest.TestCase):
    def archive(self, folder: str, name: str, values: list[float]) -> Path:
        header = str({"descr": "<f4", "fortran_order": False, "shape": (len(values),)})
        header = header.ljust(117) + "\n"
        raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        path = Path(folder) / f"{name}.npz"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("x.npy", raw + struct.pack(f"<{len(values)}f", *values))
        return path

    def test_differences(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            a = self.archive(folder, "a", [1.0, 2.0, 3.0])
            b = self.archive(folder, "b", [1.0, 2.5, 3.0])
            c = self.archive(folder, "c", [1.0])
            self.assertEqual(npz.differences(a, a), ["the same arrays, packed differently"])
            self.assertIn("1 of 3 differ, at most by 0.5", npz.differences(a, b)[0])
            self.assertIn("(3,) before", npz.differences(a, c)[0])


if __name__ == "__main__":
    cases.main()
