"""Runs a script on several ranks under mpirun, and says how the job ended.

Every rank of it prints `pid N` first; a script prints `fault` by fault() where the trouble begins.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
# A job must be over so many seconds after one of its ranks is; and what a test waits for at most.
LIMIT, PATIENCE = 15.0, 50.0

PRELUDE = """
import os, signal, sys, time
print("pid", os.getpid(), flush=True)
import fmoe
rank, world = fmoe.rank(), fmoe.world_size()
mesh = fmoe.Mesh()
x = fmoe.tensor([1.0, 2.0])
def fault():
    print("fault", time.time(), flush=True)
def together(seconds=100.0):
    end = time.time() + seconds
    while time.time() < end:
        fmoe.all_reduce(x)
"""


def program(name: str, built: str) -> str:
    """In the runfiles of the test, or in the tree, where it was built."""
    path = ROOT / name
    return str(path if path.is_file() else ROOT / "bazel-bin" / built)


TRAIN = program("train", "train")
MPIRUN = program("bazel/mpirun_host", "bazel/mpirun_host")


@dataclass
class Ended:
    """status: of mpirun; after_fault: seconds from the last `fault` to the end of the job."""

    status: int
    output: str
    after_fault: float | None

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.output.splitlines() if re.search(pattern, line)]


def gone(pid: int) -> bool:
    """Whether this process of ours is over; a zombie is."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"


def survivors(output: str, seconds: float = 10.0) -> list[int]:
    """Ranks that are there still so long after their job's end."""
    pids = [int(n) for n in re.findall(r"^pid (\d+)$", output, re.MULTILINE)]
    end = time.time() + seconds
    while time.time() < end and not all(map(gone, pids)):
        time.sleep(0.1)
    return [pid for pid in pids if not gone(pid)]


def run(code: str, ranks: int = 3, mpirun: tuple[str, ...] = (), **variables: str) -> Ended:
    """PRELUDE and `code` on each rank; variables are added to the environment."""
    # A short name, for sockets; of its own, since sandboxes give each mpirun the same number.
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    folder = tempfile.mkdtemp(prefix="fmoe.", dir=shm)
    env = {
        **os.environ,
        "OMPI_MCA_btl_vader_backing_directory": folder,
        "OMPI_MCA_orte_tmpdir_base": folder,
        "OMPI_MCA_mpi_yield_when_idle": "1",
        **variables,
    }
    command = [MPIRUN, "-n", str(ranks), *mpirun, TRAIN, "--device", "cpu", "-c", PRELUDE + code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True
    ) as job:
        try:
            output, _ = job.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            job.terminate()  # mpirun ends its ranks
            output, _ = job.communicate()
            raise AssertionError(f"not over after {PATIENCE} s:\n{output}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    ended = time.time()
    left = survivors(output)
    if left:
        raise AssertionError(f"ranks outlived their job: {left}\n{output}")
    faults = [float(t) for t in re.findall(r"^fault ([\d.]+)$", output, re.MULTILINE)]
    return Ended(job.returncode, output, ended - max(faults) if faults else None)
