"""Line endings, trailing blanks, final newlines, tabs."""

from pathlib import Path

SUFFIXES = (
    ".c .h .cu .cuh .py .pyi .bzl .bazel .sh .md .toml .txt .yml .yaml .json .cfg .csv"
).split()
NAMES = "BUILD WORKSPACE dev run .bazelrc .clang-format .clang-tidy .editorconfig".split()


def is_text(name: str) -> bool:
    path = Path(name)
    return path.suffix in SUFFIXES or path.name in NAMES


def problems(name: str, data: bytes) -> list[str]:
    """What is wrong with the bytes of one file, a message each."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"{name}: not UTF-8: {error}"]
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{name}:{number}:"
        if line.endswith(b"\r"):
            found.append(f"{where} ends with a carriage return")
        elif line != line.rstrip():
            found.append(f"{where} trailing blanks")
        if line.startswith(b"\t"):
            found.append(f"{where} indented by a tab")
    if data and not data.endswith(b"\n"):
        found.append(f"{name}: no newline at the end")
    if data.endswith(b"\n\n"):
        found.append(f"{name}: empty lines at the end")
    return found


def check(root: Path, names: list[str]) -> list[str]:
    found = []
    for name in names:
        # Golden files are compared byte by byte; their layout is their maker's.
        if is_text(name) and not (name.startswith("tests/golden/") and not name.endswith(".py")):
            found += problems(name, (root / name).read_bytes())
    return found
