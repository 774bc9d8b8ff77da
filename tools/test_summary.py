#!/usr/bin/env python3
"""Counts the cases of the last `bazel test` and prints one line:

    N passed, N failed, N skipped

usage: tools/test_summary.py [EVENTS...]

It reads what Bazel recorded of that run (bazel-events.json, see .bazelrc; several files
are summed up) and the log of each test, cached ones included. A test whose log ends with
such a line of its own counts as those cases; any other counts as one, and as skipped
where it printed `SKIP: reason` and did not fail. A test that this machine cannot run, or
that is disabled with a reason, counts as one skipped; one that was not built, as one
failed. Tests that the run's own filters left out are not part of it.
Exits with 1 where something failed, 2 where there is nothing to count.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
SKIP = re.compile(r"^SKIP: *(.*)$", re.MULTILINE)
DISABLED = "disabled: "
NOT_BUILT = "was not built, or not run"


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: "Count") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class Summary:
    total: Count = field(default_factory=Count)
    targets: int = 0
    left_out: int = 0  # tests that --test_tag_filters and the like kept out of the run
    skips: list[tuple[str, str]] = field(default_factory=list)  # test, reason
    failures: list[tuple[str, str]] = field(default_factory=list)  # test, what


def count_log(text: str, passed: bool) -> tuple[Count, list[str]]:
    """The cases of one test's log, and the reasons of its skips."""
    reasons = SKIP.findall(text)
    own = LINE.findall(text)
    if own:
        count = Count(*map(int, own[-1]))
        if not passed and count.failed == 0:
            count.failed = 1  # it died after its last case, or its time was up
        return count, reasons
    if not passed:
        return Count(failed=1), reasons
    if reasons:
        return Count(skipped=1), reasons
    return Count(passed=1), reasons


def log_of(result: dict) -> str:
    for output in result.get("testActionOutput", []):
        if output["name"] == "test.log" and "uri" in output:
            path = Path(unquote(urlparse(output["uri"]).path))
            return path.read_text(errors="replace") if path.exists() else ""
    return ""


def summarise(events: list[dict]) -> Summary:
    summary = Summary()
    tags: dict[str, list[str]] = {}
    tests: dict[str, str] = {}  # label -> what became of it, until a result says
    results: dict[tuple, dict] = {}  # a later attempt replaces an earlier one
    for event in events:
        kind, ident = next(iter(event["id"].items()))
        label = ident.get("label", "") if isinstance(ident, dict) else ""
        if kind == "targetConfigured":
            about = event.get("configured", {})
            tags[label] = about.get("tag", [])
            if about.get("targetKind", "").endswith("_test rule"):
                tests[label] = NOT_BUILT
        elif kind == "targetCompleted" and label in tests:
            runs = any("testSummary" in child for child in event.get("children", []))
            if event.get("aborted", {}).get("reason") == "SKIPPED":
                tests[label] = "not for this machine (`needs` in its BUILD file)"
            elif event.get("completed", {}).get("success") and not runs:
                del tests[label]
                summary.left_out += 1
        elif kind == "testResult":
            results[label, ident.get("run"), ident.get("shard")] = event["testResult"]

    run = {label for label, _, _ in results}
    for (label, _, _), result in sorted(results.items(), key=lambda kv: kv[0][0]):
        status = result.get("status", "NO_STATUS")
        count, reasons = count_log(log_of(result), status == "PASSED")
        summary.total.add(count)
        summary.skips += [(label, reason) for reason in reasons]
        if count.failed:
            summary.failures.append((label, f"{status}, {count.failed} failed"))
    for label in sorted(set(tests) - run):
        if tests[label] == NOT_BUILT:
            summary.total.failed += 1
            summary.failures.append((label, NOT_BUILT))
        else:
            disabled = [tag for tag in tags[label] if tag.startswith(DISABLED)]
            summary.total.skipped += 1
            summary.skips.append((label, (disabled or [tests[label]])[0]))
    summary.targets = len(set(tests) | run)
    return summary


def read_events(path: Path) -> list[dict]:
    """The events of a run, one JSON value a line."""
    events = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break  # the run was killed within a line
    return events


def report(*paths: Path) -> int:
    """Prints skips, failures and the line, all runs together; returns the exit status."""
    total = Count()
    targets = 0
    for path in paths:
        if not path.exists():
            print(f"test_summary: {path} is not there; run bazel test first", file=sys.stderr)
            continue
        summary = summarise(read_events(path))
        total.add(summary.total)
        targets += summary.targets
        for label, reason in summary.skips:
            print(f"skipped  {label}: {reason}")
        if summary.left_out:
            print(f"left out by this run's filters: {summary.left_out} test targets")
        for label, what in summary.failures:
            print(f"failed   {label}: {what}")
    if not targets:
        print("test_summary: no test was run; was the last command a bazel test?", file=sys.stderr)
        return 2
    print(total, flush=True)
    return 1 if total.failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=Path, nargs="*", default=[ROOT / "bazel-events.json"])
    return report(*parser.parse_args().events)


if __name__ == "__main__":
    sys.exit(main())
