"""multiprocessing's "spawn" and "forkserver" start `train`, where `import fmoe` works, and not the
Python that sys.executable names."""

import os
from multiprocessing import spawn, util


def _no_arguments() -> list[str]:
    return []


def start_train() -> None:
    spawn.set_executable(os.readlink("/proc/self/exe"))
    # Python's own flags: `train` takes none, they are the environment's, and a child has that too.
    util._args_from_interpreter_flags = _no_arguments  # type: ignore[attr-defined]
