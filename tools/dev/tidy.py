"""./dev tidy [FILES]: clang-tidy on the C sources (see .clang-tidy)."""

import argparse
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

from dev import compdb
from dev.common import ROOT, tracked


def tidy(name: str) -> tuple[str, int, str]:
    command = ["clang-tidy", "--quiet", "--warnings-as-errors=*", "-p", str(ROOT), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return name, done.returncode, done.stdout


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev tidy", description=__doc__)
    parser.add_argument("files", nargs="*", help="default: every .c file that Bazel compiles")
    chosen = parser.parse_args(argv).files
    if not shutil.which("clang-tidy"):
        print("skipped: clang-tidy not installed")
        return 0
    compdb.main([])
    known = {entry["file"] for entry in compdb.entries(compdb.BAZEL_OPTIONS)}
    names = [name for name in chosen or tracked("*.c") if str(ROOT / name) in known]
    status = 0
    with ThreadPoolExecutor(cpu_count()) as pool:
        for name, code, output in pool.map(tidy, names):
            if code != 0:
                print(f"{name}:\n{output}", flush=True)
                status = 1
    print(f"tidy: {len(names)} files, {'bad' if status else 'good'}")
    return status
