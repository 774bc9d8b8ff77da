"""kill -9 of a random rank at a random moment: what is left is always a restart, on another mesh,
that equals the unbroken run. Moments, ranks and meshes come from a seed.

checkpoint_kill.py MPIRUN TRAIN KILLS
"""

import os
import random
import signal
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import checkpoint_job as job  # noqa: E402  (found by the lines above)
import mpi_job  # noqa: E402

import cases  # noqa: E402

KILLS = int(sys.argv[3])
del sys.argv[1:4]

STEPS = 24
TOLERANCE = 1e-4
SEED = 4


class Kill(unittest.TestCase):
    def test_killed_again_and_again(self):
        dice = random.Random(SEED)
        several = [name for name, (ranks, _) in job.MESHES.items() if ranks > 1]
        with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as folder:
            straight = os.path.join(folder, "straight")
            os.mkdir(straight)
            job.write_text(straight)
            want = job.run("one", straight, STEPS)
            done = moved = 0
            while done < KILLS:
                path = os.path.join(folder, f"run{done}")
                os.mkdir(path)
                job.write_text(path)
                seen: dict[int, float] = {}
                for _ in range(min(3, KILLS - done)):
                    mesh = dice.choice(several)
                    text = self.kill(mesh, path, dice)
                    self.compare(job.losses(text), want, mesh)
                    seen.update(job.losses(text))
                    done += 1
                mesh = dice.choice(several)
                rest = job.run(mesh, path, STEPS)
                self.compare(rest, want, mesh)
                begin = min(rest, default=STEPS + 1)  # a kill may have come too late
                self.assertEqual(list(rest), list(range(begin, STEPS + 1)))
                # before step s is announced the save of s - 2 is complete
                self.assertGreaterEqual(begin, max(seen, default=0) - 1)
                moved += begin > 1
            self.assertGreater(moved, 0, "no restart had a checkpoint to go on from")

    def kill(self, mesh: str, path: str, dice: random.Random) -> str:
        """Starts a job that saves at every step, and kills one of its ranks; what it had said."""
        ranks = job.MESHES[mesh][0]
        process = job.start(mesh, path, STEPS, "--save-every", "1", "--sleep", "0.02")
        pids = [int(m[1]) for m in mpi_job.read_until(process, r"pid (\d+)", ranks)]
        time.sleep(dice.random() * 2.5)  # from the start, loading included, to the middle
        try:
            os.kill(dice.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            self.assertEqual(process.wait(60), 0)  # it was done before
        text, _ = process.communicate(timeout=60)
        self.assertNotIn("CheckpointError", text)
        return text

    def compare(self, got: dict[int, float], want: dict[int, float], mesh: str) -> None:
        if got:
            far, step = job.furthest(got, want)
            self.assertLess(far, TOLERANCE, f"{mesh}, step {step}, seed {SEED}")


if __name__ == "__main__":
    cases.main()
