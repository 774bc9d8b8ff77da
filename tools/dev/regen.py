"""./dev regen NAME [--write] [--python PYTHON]: makes tests/golden/NAME anew.

Runs tests/golden/NAME/make.py --out FOLDER into a folder of its own and prints how its
files differ from the committed ones. Writes over those only with --write. The Python
needs what make.py imports (its README says): --python, or $FMOE_ORACLE_PYTHON.
Exit status: 0 same or written, 1 different, 2 could not be made.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dev.common import ROOT
from dev.npz import differences

GOLDEN = ROOT / "tests" / "golden"
SOURCES = {".py", ".md"}
SHOWN_LINES = 40


def describe(old: Path, new: Path) -> list[str]:
    """How two files differ: arrays by value, text by line, anything else by size."""
    if new.suffix == ".npz":
        return differences(old, new)
    before, after = old.read_bytes(), new.read_bytes()
    try:
        lines = list(
            difflib.unified_diff(
                before.decode().splitlines(),
                after.decode().splitlines(),
                "committed",
                "made now",
                lineterm="",
            )
        )
    except UnicodeDecodeError:
        return [f"{len(before)} bytes before, {len(after)} now"]
    if len(lines) > SHOWN_LINES:
        return [*lines[:SHOWN_LINES], f"... {len(lines) - SHOWN_LINES} more lines"]
    return lines


def compare(committed: Path, made: Path) -> bool:
    """Prints what differs; True where nothing does."""
    names = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    data = {
        str(p.relative_to(committed))
        for p in committed.rglob("*")
        if p.is_file() and p.suffix not in SOURCES and "__pycache__" not in p.parts
    }
    same = True
    for name in sorted(names | data):
        if name not in names:
            print(f"{name}: no longer made")
        elif name not in data:
            print(f"{name}: new, {(made / name).stat().st_size} bytes")
        elif (committed / name).read_bytes() == (made / name).read_bytes():
            print(f"{name}: same")
            continue
        else:
            print(f"{name}: different")
            for line in describe(committed / name, made / name):
                print(f"    {line}")
        same = False
    return same


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev regen", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = sorted(p.parent.name for p in GOLDEN.glob("*/make.py"))
    parser.add_argument("name", help=f"one of {', '.join(names) or '(there is none)'}")
    parser.add_argument("--write", action="store_true", help="replace the committed files")
    parser.add_argument("--python", default=os.environ.get("FMOE_ORACLE_PYTHON"))
    options = parser.parse_args(argv)
    if options.name not in names:
        parser.error(f"{options.name!r} is not one of {', '.join(names) or '(there is none)'}")
    if not options.python:
        parser.error("no Python: give --python, or set FMOE_ORACLE_PYTHON")
    committed = GOLDEN / options.name
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        command = [options.python, str(committed / "make.py"), "--out", folder]
        try:
            status = subprocess.run(command, cwd=ROOT).returncode
        except OSError as error:
            status = 2
            print(f"{options.python}: {error.strerror}", file=sys.stderr)
        if status != 0 or not any(made.iterdir()):
            print(f"regen: {' '.join(command)} failed or wrote nothing", file=sys.stderr)
            return 2
        same = compare(committed, made)
        if same or not options.write:
            print("same" if same else "different; ./dev regen --write replaces the files")
            return 0 if same else 1
        shutil.copytree(made, committed, dirs_exist_ok=True)
        print("written; files that are no longer made were left alone")
        return 0
