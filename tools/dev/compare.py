"""./dev compare REV1 REV2 [-- SCRIPT ARGUMENTS]: one training run at two revisions.

Builds both in worktrees of their own ("." is this tree as it stands), runs the same
script by each one's `train`, in turns, and prints whether the losses are equal to the
last bit, at which step they first differ, and the time of REV2 as a ratio to REV1's.

In the arguments {metrics} stands for the file that the script writes its JSON lines to,
each with "step" and "loss". Default: examples/pretrain_gpt.py --steps 20 --metrics {metrics}
Exit status: 0 equal, 1 not, 125 where one cannot be built.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from dev.common import BAZEL_OPTIONS, CANNOT_BUILD, ROOT, bazel
from dev.losses import first_difference, read_losses
from dev.worktree import worktree

DEFAULT = ["examples/pretrain_gpt.py", "--steps", "20", "--metrics", "{metrics}"]


def build(tree: Path) -> bool:
    # What both trees have in common is compiled once.
    cache = f"--disk_cache={ROOT / '.cache' / 'bazel'}"
    return bazel("build", *BAZEL_OPTIONS, "--config=quiet", cache, "//:train", root=tree) == 0


def run(tree: Path, script: list[str]) -> tuple[float, dict[int, float]]:
    """Seconds of one run, and its loss by step."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        arguments = [a.replace("{metrics}", str(metrics)) for a in script]
        begin = time.monotonic()
        command = [str(tree / "bazel-bin" / "train"), *arguments]
        done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        seconds = time.monotonic() - begin
        if done.returncode != 0:
            print(done.stdout.decode(errors="replace"), file=sys.stderr)
            sys.exit(f"compare: {' '.join(command)} ended with {done.returncode} in {tree}")
        if not metrics.exists():
            sys.exit(f"compare: {' '.join(command)} wrote no {metrics.name}; use {{metrics}}")
        return seconds, read_losses(metrics)


def report(revisions: list[str], times: list[list[float]], losses: list[dict[int, float]]) -> int:
    a, b = losses
    name_a, name_b = revisions
    step = first_difference(a, b)
    if step is None:
        print(f"losses: equal to the last bit, {len(a)} steps")
    else:
        print(f"losses: first differ at step {step}: {a.get(step)!r} ({name_a}), "
              f"{b.get(step)!r} ({name_b})")  # fmt: skip
        both = a.keys() & b.keys()
        if both:
            worst = max(both, key=lambda s: abs(a[s] - b[s]))
            print(f"losses: furthest apart at step {worst}, by {abs(a[worst] - b[worst]):.3g}")
    ratio = median(y / x for x, y in zip(*times, strict=True))
    print(f"time: {name_b} / {name_a} = {ratio:.3f} (median of {len(times[0])} pairs; "
          f"{median(times[0]):.2f} s and {median(times[1]):.2f} s)")  # fmt: skip
    return 0 if step is None else 1


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("revisions", nargs=2, metavar="REV")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    script = argv[cut + 1 :] or DEFAULT
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; at least 1 is needed")

    with worktree(options.revisions[0]) as one, worktree(options.revisions[1]) as two:
        trees = [one, two]
        for tree, revision in zip(trees, options.revisions, strict=True):
            if not build(tree):
                print(f"compare: {revision} cannot be built", file=sys.stderr)
                return CANNOT_BUILD
        times: list[list[float]] = [[], []]
        losses: list[dict[int, float]] = [{}, {}]
        for turn in range(options.rounds):
            # Which one goes first alternates: a machine warms up and slows down.
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                seconds, seen = run(trees[which], script)
                times[which].append(seconds)
                if losses[which] and first_difference(losses[which], seen) is not None:
                    print(f"losses: {options.revisions[which]} differs from itself between runs")
                losses[which] = losses[which] or seen
        return report(options.revisions, times, losses)
