"""A revision in a folder of its own, for as long as a `with` block lasts."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.common import ROOT


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"dev: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Yields the folder; "." yields this tree, with what is not committed.

    It lies under .cache, which Bazel and git ignore, and has a Bazel server and output
    of its own, both gone afterwards.
    """
    if revision == ".":
        yield ROOT
        return
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}")
    parent = ROOT / ".cache" / "worktrees"
    parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while (path := parent / f"{commit[:12]}-{number}").exists():
        number += 1
    _git("worktree", "add", "--detach", "--quiet", str(path), commit)
    try:
        if (ROOT / "user.bazelrc").exists():
            shutil.copy(ROOT / "user.bazelrc", path)
        yield path
    finally:
        subprocess.run(["bazel", "clean", "--expunge"], cwd=path, capture_output=True)
        _git("worktree", "remove", "--force", str(path))
