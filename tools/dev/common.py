"""What the commands share: where the tree is, its files, Bazel."""

import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "bazel-events.json"

# The options that CI builds with: another set would compile everything anew.
BAZEL_OPTIONS = ["--config=werror"]

CANNOT_BUILD = 125  # git bisect run passes over a revision that ends so


def tracked(*patterns: str, root: Path = ROOT) -> list[str]:
    """Files that git knows, or would add, and that are there; `*` in a pattern spans folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
        names = sorted(set(listed.decode().split("\0")) - {""})
    except (OSError, subprocess.CalledProcessError):
        names = sorted(_walk(root))  # no git, or an unpacked archive
    names = [name for name in names if (root / name).is_file()]
    return [n for n in names if not patterns or any(fnmatch(n, p) for p in patterns)]


def _walk(root: Path) -> Iterator[str]:
    """Every file but what .gitignore names: caches and Bazel's links."""
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in (".git", ".cache", "__pycache__", "runs")]
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), root)
            if not path.startswith(("bazel-", "user.bazelrc", "compile_commands.json")):
                yield path


def bazel(*arguments: str, root: Path = ROOT) -> int:
    """Runs bazel, its output where ours goes; returns its exit status."""
    print("+ bazel", *arguments, flush=True)
    return subprocess.run(["bazel", *arguments], cwd=root).returncode


def bazel_output(*arguments: str, root: Path = ROOT) -> str:
    """What bazel prints, or an exit with what it complained about."""
    done = subprocess.run(["bazel", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"dev: bazel {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def test_targets(expression: str) -> list[str]:
    """Labels of the tests of a query expression, sorted."""
    return sorted(bazel_output("query", expression).split())
