"""kill -9 of one rank of a job that saves for ever: the newest complete checkpoint is whole, and
the next job, of another number of ranks, goes on. The moments and the ranks come from a seed.

kill_ranks_test.py MPIRUN PROGRAM ROUNDS        (three kills each)
"""

import os
import random
import re
import signal
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "multirank"))

import mpi_job  # noqa: E402  (found by the lines above)

import cases  # noqa: E402

MPIRUN, PROGRAM = sys.argv[1:3]
ROUNDS = int(sys.argv[3])
del sys.argv[1:4]


def newest(root: str) -> int:
    """The newest complete step; -1: none."""
    steps = [-1]
    for name in os.listdir(root) if os.path.isdir(root) else ():
        whole = os.path.exists(os.path.join(root, name, "manifest.json"))
        if whole and re.fullmatch(r"step_\d{8}(\.old)?", name):
            steps.append(int(name[5:13]))
    return max(steps)


class KillRanks(unittest.TestCase):
    def test_kills(self):
        for seed in range(ROUNDS):
            with self.subTest(seed=seed), tempfile.TemporaryDirectory() as folder:
                self.kill_three_times(os.path.join(folder, "run"), random.Random(seed))

    def kill_three_times(self, root: str, dice: random.Random) -> None:
        last = -1
        for job in range(3):
            ranks = dice.choice([2, 3, 4])
            process = mpi_job.start(MPIRUN, ranks, [PROGRAM, "--for-ever", root])
            found = mpi_job.read_until(process, r"pid (\d+) newest (-?\d+)", ranks)
            began = {int(m[2]) for m in found}
            self.assertEqual(len(began), 1, found)  # it was read whole there, by all
            self.assertGreaterEqual(began.pop(), last)
            until = time.monotonic() + 20
            before = newest(root)
            while newest(root) <= before and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(dice.random() * 0.5)
            os.kill(int(dice.choice(found)[1]), signal.SIGKILL)
            out, _ = process.communicate(timeout=30)
            self.assertNotEqual(process.returncode, 0)
            self.assertNotIn("FAILED", out)
            self.assertGreater(newest(root), last, f"job {job}: {os.listdir(root)}\n{out}")
            last = newest(root)
        again = mpi_job.start(MPIRUN, 1, [PROGRAM, "--for-ever", root])
        (found,) = mpi_job.read_until(again, r"pid (\d+) newest (-?\d+)", 1)
        self.assertGreaterEqual(int(found[2]), last)
        os.kill(int(found[1]), signal.SIGKILL)
        again.communicate(timeout=30)


if __name__ == "__main__":
    cases.main()
