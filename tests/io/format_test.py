"""The reader printed in docs/checkpoint-format.md reads what the C test wrote, with h5py."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import numpy as np  # noqa: E402

import cases  # noqa: E402  (found by the line above)


def documented_reader():
    with open(os.path.join(ROOT, "docs", "checkpoint-format.md"), encoding="utf-8") as f:
        block = re.search(r"```python\n(.*?)```", f.read(), re.DOTALL).group(1)
    scope: dict = {}
    exec(block, scope)  # our own document
    return scope["read"]


class Format(unittest.TestCase):
    def test_reader(self):
        read = documented_reader()
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(ROOT, "tests", "io", "write_sharded")
            subprocess.run([program, folder], check=True)
            w = read(folder + "/step_00000001", "w")
            m = read(folder + "/step_00000001", "adamw.m/w")
        np.testing.assert_array_equal(w, np.arange(72, dtype=np.float32).reshape(12, 6))
        np.testing.assert_array_equal(m, -np.arange(72, dtype=np.float32).reshape(12, 6))


if __name__ == "__main__":
    cases.main()
