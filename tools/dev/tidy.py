"""./dev tidy [FILES]: clang-tidy on the C sources (see .clang-tidy)."""

import argparse
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import cpu_count
from pathlib import Path

from dev import compdb, llvm
from dev.common import BAZEL_OPTIONS, CANNOT_BUILD, ROOT, bazel, tracked

DEFINES_FM_FAIL = "tensor/status.c"


def tidy(program: str, name: str) -> tuple[str, int, str]:
    # Named, for the sources' real paths lie in Bazel's folders, where none is found.
    config = f"--config-file={ROOT / '.clang-tidy'}"
    command = [program, "--quiet", "--warnings-as-errors=*", config, "-p", str(ROOT), name]
    if name != DEFINES_FM_FAIL:
        command += [f"--extra-arg=-include{ROOT / 'tools' / 'dev' / 'analyzer.h'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return name, done.returncode, done.stdout


def has_omp_header(program: str) -> bool:
    """Whether clang's own headers, beside the program, have one."""
    real = Path(shutil.which(program) or program).resolve()
    return any(real.parent.parent.glob("lib/clang/*/include/omp.h"))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev tidy", description=__doc__)
    parser.add_argument("files", nargs="*", help="default: every .c file that Bazel compiles")
    chosen = parser.parse_args(argv).files
    program, why = llvm.find("clang-tidy")
    if program and not has_omp_header(program):
        program, why = None, f"no omp.h of clang's (libomp-{llvm.VERSION}-dev); gcc's is not for it"
    if not program:
        print(f"tidy: skipped: {why}")
        return 0
    # The sources lie where the build put them, and a generated header is read there.
    if bazel("build", *BAZEL_OPTIONS, "--config=quiet", "//...") != 0:
        return CANNOT_BUILD
    known = {entry["file"] for entry in compdb.write([])}
    names = [name for name in chosen or tracked("*.c") if str(ROOT / name) in known]
    status = 0
    with ThreadPoolExecutor(cpu_count()) as pool:
        for name, code, output in pool.map(partial(tidy, program), names):
            if code != 0:
                print(f"{name}:\n{output}", flush=True)
                status = 1
    print(f"tidy: {len(names)} files, {'bad' if status else 'good'}")
    return status
