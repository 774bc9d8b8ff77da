"""The reader printed in docs/checkpoint-format.md reads what several ranks wrote: the same arrays,
however many they were and whatever part each had.

format_ranks_test.py MPIRUN PROGRAM
"""

import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for folder in ("tools", "tests/multirank", "tests/io"):
    sys.path.insert(0, os.path.join(ROOT, folder))

import format_test  # noqa: E402
import mpi_job  # noqa: E402
import numpy as np  # noqa: E402

import cases  # noqa: E402  (found by the lines above)

MPIRUN, PROGRAM = sys.argv[1:3]
del sys.argv[1:3]

NAMES = (
    "layers.0.attn.qkv.weight",
    "norm.bias",
    "layers.1.moe.experts.down.weight",
    "adamw.m/layers.0.attn.qkv.weight",
    "adamw.v/layers.1.moe.experts.down.weight",
)


class FormatOfRanks(unittest.TestCase):
    def test_reader(self):
        read = format_test.documented_reader()
        with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as where:
            wanted = None
            # all of rank 0; columns; fragments; fragments of columns
            for ranks, kind in ((1, 0), (2, 3), (3, 4), (4, 5)):
                root = f"{where}/{ranks}-{kind}"
                job = mpi_job.start(MPIRUN, ranks, [PROGRAM, "--write", root, str(kind)])
                out, _ = job.communicate(timeout=50)
                self.assertEqual(job.returncode, 0, out)
                got = [read(root + "/step_00000001", name) for name in NAMES]
                wanted = wanted or got
                for name, a, b in zip(NAMES, got, wanted, strict=True):
                    np.testing.assert_array_equal(a, b, f"{name}, {ranks} ranks, kind {kind}")


if __name__ == "__main__":
    cases.main()
