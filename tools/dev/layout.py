"""./dev format [FILES]: lays out C and CUDA by clang-format, Python by ruff."""

import argparse
import shutil
import subprocess

from dev import llvm
from dev.common import ROOT, tracked

C_PATTERNS = ["*.c", "*.h", "*.cu", "*.cuh"]


def check_c(names: list[str]) -> tuple[list[str], str]:
    """Files that are not laid out, and why the check was skipped if it was."""
    program, why = llvm.find("clang-format")
    if not program or not names:
        return [], why
    done = subprocess.run(
        [program, "--dry-run", "--Werror", "-style=file", *names],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    wrong = {line.split(":")[0] for line in done.stderr.splitlines() if "error:" in line}
    if done.returncode != 0 and not wrong:
        return [f"clang-format failed: {done.stderr}"], ""
    return [f"{name}: not laid out; run ./dev format" for name in sorted(wrong)], ""


def check_python(names: list[str]) -> tuple[list[str], str]:
    """ruff's complaints about lint and layout, and why they were skipped if they were."""
    if not shutil.which("ruff"):
        return [], "ruff not installed"
    found = []
    for arguments in (["check", "--output-format=concise", "--quiet"], ["format", "--check"]):
        done = subprocess.run(
            ["ruff", *arguments, *names], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode != 0:
            found += (done.stdout + done.stderr).strip().splitlines()
    return found, ""


def python_files() -> list[str]:
    return tracked("*.py", "*.pyi", "dev")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev format", description=__doc__)
    parser.add_argument("files", nargs="*", help="default: all")
    chosen = parser.parse_args(argv).files
    c_names = [n for n in chosen or tracked(*C_PATTERNS) if n.endswith((".c", ".h", ".cu", ".cuh"))]
    python_names = [
        n for n in chosen or python_files() if n.endswith((".py", ".pyi")) or n == "dev"
    ]
    status = 0
    program, why = llvm.find("clang-format")
    if not program:
        print(f"skipped: {why}")
    elif c_names:
        status |= subprocess.run([program, "-i", "-style=file", *c_names], cwd=ROOT).returncode
    if not shutil.which("ruff"):
        print("skipped: ruff not installed")
    elif python_names:
        status |= subprocess.run(["ruff", "format", "--quiet", *python_names], cwd=ROOT).returncode
        fix = ["ruff", "check", "--fix", "--select=I", "--quiet", *python_names]
        status |= subprocess.run(fix, cwd=ROOT).returncode
    return status
