"""Making MKL take its AVX-512 kernels on a processor that is not Intel's.

PyTorch's packages multiply float32 matrices with MKL, which asks who made the processor and gives
others its AVX2 kernels: half the speed on an AMD processor with AVX-512. A library of one function,
loaded first, answers yes. Nobody installs PyTorch like that, so the search leaves it out unless it
is asked; it shows what the same program could reach.
"""

import os
import pathlib
import shutil
import subprocess

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def library() -> pathlib.Path:
    """Built once, in the user's cache folder; raises where there is no C compiler."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    path = root / "fmoe-bench" / "mkl_takes_avx512.so"
    if not path.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise RuntimeError("mkl=avx512 needs a C compiler: found no cc, gcc or clang")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(partial)]
        subprocess.run(command, input=SOURCE, text=True, check=True)
        partial.replace(path)
    return path
