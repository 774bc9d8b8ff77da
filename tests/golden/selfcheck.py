"""Checks every committed golden file with numpy alone; exit code 1 and a line per broken file.

    python tests/golden/selfcheck.py [FOLDER]

Keys and shapes follow from the configuration inside each file; values are finite, and what numpy
can recompute in a few lines is recomputed. Each folder has a make.py and a README.md, which names
its files, all of them and no other.
"""

import pathlib
import re
import sys
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from recheck import gpt, moe_layer, ops, train100  # noqa: E402
from recheck.archive import Archive, BrokenError  # noqa: E402

Check = Callable[[Archive, str], None]

CHECKS: dict[str, Check] = {
    "gpt_dense": lambda archive, _: gpt.check(archive),
    "gpt_moe": lambda archive, _: gpt.check(archive),
    "moe_layer": lambda archive, _: moe_layer.check(archive),
    "ops": ops.check,
    "train100": lambda archive, _: train100.check(archive),
}
MAX_TOTAL_BYTES = 6_000_000


def broken_file(path: pathlib.Path, check: Check) -> str | None:
    """What is wrong with the file, or None."""
    try:
        check(Archive(path), path.stem)
    except BrokenError as error:
        return str(error)
    except Exception as error:  # an unreadable file is a finding, not a crash
        return f"{type(error).__name__}: {error}"
    return None


def check_folder(folder: pathlib.Path, check: Check) -> list[str]:
    files = sorted(folder.glob("*.npz"))
    problems = [
        f"{folder.name}: no {name}"
        for name in ("make.py", "README.md")
        if not (folder / name).is_file()
    ]
    readme = folder / "README.md"
    named = set(re.findall(r"`(\w+\.npz)`", readme.read_text())) if readme.is_file() else set()
    for name in sorted(named ^ {path.name for path in files}):
        where = "README.md, but no such file" if name in named else "a file, but not in README.md"
        problems.append(f"{folder.name}/{name}: {where}")
    for path in files:
        problem = broken_file(path, check)
        if problem is not None:
            problems.append(f"{folder.name}/{path.name}: {problem}")
    print(f"{folder.name}: {len(files)} files")
    return problems


def check_all(root: pathlib.Path) -> list[str]:
    with_data = {path.parent.name for path in root.glob("*/*.npz")}
    problems = [f"{name}: no check is written" for name in sorted(with_data - CHECKS.keys())]
    problems += [f"{name}: no data" for name in sorted(CHECKS.keys() - with_data)]
    for name in sorted(with_data & CHECKS.keys()):
        problems += check_folder(root / name, CHECKS[name])
    total = sum(path.stat().st_size for path in root.glob("*/*.npz"))
    if total > MAX_TOTAL_BYTES:
        problems.append(f"{total} bytes of data, want at most {MAX_TOTAL_BYTES}")
    return problems


def main(arguments: list[str]) -> int:
    problems = check_all(pathlib.Path(arguments[0]) if arguments else HERE)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
