"""What the commands share: where the tree is, its files, Bazel."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "bazel-events.json"

# The options that CI builds with: another set would compile everything anew.
BAZEL_OPTIONS = ["--config=werror"]

CANNOT_BUILD = 125  # git bisect run passes over a revision that ends so


def tracked(*patterns: str, root: Path = ROOT) -> list[str]:
    """Files that git knows, or would add, and that are there; `patterns` as git ls-files'."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    listed = subprocess.run([*command, *patterns], cwd=root, check=True, stdout=subprocess.PIPE)
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return [name for name in names if (root / name).is_file()]


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
