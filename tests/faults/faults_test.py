"""One rank fails: the whole job ends, soon, and says which rank it was and where all stood."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).absolute().parent))

import job

import cases

HOST = os.uname().nodename.split("\n", maxsplit=1)[0][:63]


class Case(unittest.TestCase):
    def ends(self, ended: job.Ended, status: int | None = None) -> job.Ended:
        """With a status that is not 0, in time."""
        text = ended.output
        if status is None:
            self.assertNotEqual(ended.status, 0, text)
        else:
            self.assertEqual(ended.status, status, text)
        self.assertIsNotNone(ended.after_fault, text)
        self.assertLess(ended.after_fault or 0.0, job.LIMIT, text)
        return ended

    def says(self, ended: job.Ended, rank: int, *words: str) -> None:
        """One line of this rank has all words."""
        mine = ended.lines(rf"^\[rank {rank} {HOST}\] ")
        found = [line for line in mine if all(word in line for word in words)]
        self.assertEqual(len(found), 1, f"{words} of rank {rank} in:\n{ended.output}")


class Ends(Case):
    def test_well(self) -> None:
        """Objects alive, meshes let go of at each rank's own time, ends at different times."""
        for end in ("", "sys.exit(0)", "sys.exit()"):
            ended = job.run(f"kept = fmoe.Mesh(ep=3)\ntime.sleep(0.5 * rank)\n{end}")
            self.assertEqual(ended.status, 0, ended.output)
            self.assertEqual(ended.lines("rank|MPI"), [], ended.output)

    def test_all_end_with_a_status(self) -> None:
        """In peace: each does at its exit what it has to do."""
        code = """
import atexit
def last():
    time.sleep(rank)
    print("last words", flush=True)
atexit.register(last)
fault(); sys.exit(143)
"""
        ended = self.ends(job.run(code), status=143)
        self.assertEqual(len(ended.lines("^last words$")), 3, ended.output)
        self.assertNotIn("MPI_ABORT", ended.output)

    def test_exit_status(self) -> None:
        self.ends(job.run("if rank == 2: fault(); sys.exit(3)\ntogether()"), status=3)

    def test_exit_status_while_others_have_ended(self) -> None:
        self.ends(job.run("if rank == 0: time.sleep(1); fault(); sys.exit(4)"), status=4)

    def test_exception(self) -> None:
        ended = self.ends(
            job.run("def g(): raise ValueError('oh 17')\nif rank == 1: fault(); g()\ntogether()"),
            status=1,
        )
        self.says(ended, 1, "Traceback (most recent call last):")
        self.assertEqual(len(ended.lines("^ValueError: oh 17$")), 1, ended.output)
        self.assertEqual(len(ended.lines("Traceback")), 1, ended.output)

    def test_the_same_exception_once(self) -> None:
        ended = self.ends(job.run("fault(); raise ValueError('oh 17')"), status=1)
        self.assertEqual(len(ended.lines("Traceback")), 1, ended.output)
        same = ended.lines(r"^\[rank \d .*\] the same as rank \d: ValueError: oh 17$")
        self.assertEqual(len(same), 2, ended.output)

    def test_different_exceptions(self) -> None:
        ended = self.ends(job.run("fault(); raise ValueError(f'oh {rank}')"), status=1)
        for rank in range(3):
            self.assertEqual(len(ended.lines(f"^ValueError: oh {rank}$")), 1, ended.output)
            self.says(ended, rank, "Traceback")

    def test_syntax_error(self) -> None:
        ended = self.ends(job.run("fault()\nexec('1 +')"), status=1)
        self.assertEqual(len(ended.lines("^SyntaxError")), 1, ended.output)

    def test_exception_and_a_hanging_exit(self) -> None:
        """What is run at exit may wait for other ranks, which do not come."""
        code = "import atexit; atexit.register(time.sleep, 100)\nfault(); raise ValueError('oh')"
        self.ends(job.run(code), status=1)

    def test_kill(self) -> None:
        code = """
w = fmoe.tensor([[0.5] * 64] * 64)
for step in range(10**9):
    y = fmoe.matmul(w, w)
    fmoe.all_gather(fmoe.all_reduce(y))
    if rank == 1 and step == 20: fault(); os.kill(os.getpid(), signal.SIGKILL)
"""
        self.ends(job.run(code))

    def test_exit_without_a_word(self) -> None:
        self.ends(job.run("if rank == 1: fault(); os._exit(0)\ntogether()"))

    def test_thread_left_behind(self) -> None:
        code = """
import threading
if rank == 0:
    threading.Thread(target=together, daemon=True).start()
    time.sleep(1)
fault()
"""
        ended = self.ends(job.run(code), status=1)
        self.assertTrue(ended.lines("the script has ended while a thread"), ended.output)


class Watchdog(Case):
    def test_slow_is_not_late(self) -> None:
        code = "fmoe.all_reduce(x)\nif rank == 1: time.sleep(3)\nfmoe.all_reduce(x)"
        ended = job.run(code, FMOE_COMM_TIMEOUT="30")
        self.assertEqual(ended.status, 0, ended.output)
        self.assertEqual(ended.lines("rank"), [], ended.output)

    def test_asleep_in_python(self) -> None:
        code = (
            "together(0.5)\nfmoe.all_reduce(x)\nif rank == 1: fault(); time.sleep(100)\ntogether()"
        )
        ended = self.ends(job.run(code, FMOE_COMM_TIMEOUT="3"))
        for rank in (0, 2):
            self.says(ended, rank, "waits for all_reduce number", "of dp (3 ranks)", "s so far")
        self.says(ended, 1, "in no collective", "the script's own code", "all_reduce number")
        self.assertTrue(ended.lines("CommError: all_reduce number .* the time limit"), ended.output)
        self.assertEqual(len(ended.lines("all ranks answered")), 1, ended.output)

    def test_caught(self) -> None:
        """Who catches the error cannot go on: the others are told to say where they stand."""
        code = """
if rank == 1: fault(); time.sleep(100)
try:
    together()
except fmoe.CommError:
    time.sleep(100)
"""
        ended = self.ends(job.run(code, FMOE_COMM_TIMEOUT="2"))
        self.says(ended, 1, "the script's own code")

    def test_stopped(self) -> None:
        code = "if rank == 1: fault(); os.kill(os.getpid(), signal.SIGSTOP)\ntogether()"
        ended = self.ends(job.run(code, FMOE_COMM_TIMEOUT="2"))
        self.assertTrue(ended.lines(f"rank 1 on {HOST} does not answer"), ended.output)

    def test_ended_too_early(self) -> None:
        ended = self.ends(
            job.run("if rank == 1: fault(); sys.exit(0)\ntogether()", FMOE_COMM_TIMEOUT="2")
        )
        self.says(ended, 1, "the script has ended")

    def test_a_mesh_that_not_all_make(self) -> None:
        code = "if rank == 1: fault(); together()\nfmoe.Mesh(ep=3)"
        ended = self.ends(job.run(code, FMOE_COMM_TIMEOUT="2"))
        self.says(ended, 0, "waits for barrier number", "of world")
        self.says(ended, 1, "waits for all_reduce number", "of dp")

    def test_bad_limits(self) -> None:
        for name, value in (("TIMEOUT", "soon"), ("TIMEOUT", "-1"), ("CHECK", "yes")):
            ended = job.run("", ranks=2, **{f"FMOE_COMM_{name}": value})
            self.assertEqual(ended.status, 2, ended.output)
            self.assertTrue(ended.lines(f"FMOE_COMM_{name}={value} is not allowed"), ended.output)


class Checked(Case):
    def test_other_collectives(self) -> None:
        code = "if rank == 1: fault(); fmoe.all_gather(x)\nfmoe.all_reduce(x)"
        ended = self.ends(job.run(code, FMOE_COMM_CHECK="1"), status=1)
        words = (
            "rank 0 of dp starts all_reduce number 1 of 2 float32, rank 1 of it starts all_gather"
        )
        self.assertTrue(ended.lines(words), ended.output)

    def test_other_sizes(self) -> None:
        code = "fault(); fmoe.all_reduce(fmoe.tensor([1.0] * (5 + (rank == 2))))"
        ended = self.ends(job.run(code, FMOE_COMM_CHECK="1"), status=1)
        words = "starts all_reduce number 1 of 5 float32, rank 2 of it starts .* of 6 float32"
        self.assertTrue(ended.lines(words), ended.output)
        self.assertEqual(len(ended.lines("the same as rank")), 2, ended.output)

    def test_alike(self) -> None:
        ended = job.run("for i in range(50): fmoe.all_reduce(x)", FMOE_COMM_CHECK="1")
        self.assertEqual(ended.status, 0, ended.output)


class Launch(Case):
    def test_threads(self) -> None:
        """The cores are shared out, unless the launcher did that or the user says how many."""
        code = "print('threads', fmoe.device_info()['threads'])"

        def threads(ranks: int, **variables: str) -> set[int]:
            found = job.run(code, ranks, **variables)
            self.assertEqual(found.status, 0, found.output)
            numbers = [int(line.split()[1]) for line in found.lines("^threads")]
            self.assertEqual(len(numbers), ranks, found.output)
            return set(numbers)

        os.environ.pop("OMP_NUM_THREADS", None)
        (cores,) = threads(1)
        self.assertEqual(threads(2), {max(1, cores // 2)})
        self.assertEqual(threads(3), {max(1, cores // 3)})
        self.assertEqual(threads(2, OMP_NUM_THREADS="3"), {3})

    def test_info(self) -> None:
        out = subprocess.run(
            [job.MPIRUN, "-n", "2", job.TRAIN, "--device", "cpu", "--info"],
            capture_output=True,
            text=True,
            timeout=job.PATIENCE,
            check=True,
        ).stdout
        self.assertEqual(out.count("ranks      2, 2 of them on this node"), 1, out)


cases.main()
