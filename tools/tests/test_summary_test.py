"""The summary of a test run: what passes, fails, skips, hangs, or is never built."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cases
import test_summary
from test_summary import Count, count_log


def configured(label: str, *tags: str) -> dict:
    about = {"targetKind": "cc_test rule", "tag": list(tags)}
    return {"id": {"targetConfigured": {"label": label}}, "configured": about}


def completed(label: str, success: bool = True, runs: bool = True) -> dict:
    children = [{"testSummary": {"label": label}}] if runs else []
    return {
        "id": {"targetCompleted": {"label": label}},
        "children": children,
        "completed": {"success": success},
    }


def skipped(label: str) -> dict:
    return {"id": {"targetCompleted": {"label": label}}, "aborted": {"reason": "SKIPPED"}}


def result(label: str, status: str, log: Path, attempt: int = 1) -> dict:
    return {
        "id": {"testResult": {"label": label, "run": 1, "shard": 1, "attempt": attempt}},
        "testResult": {
            "status": status,
            "testActionOutput": [{"name": "test.log", "uri": log.as_uri()}],
        },
    }


class CountLog(unittest.TestCase):
    def test_own_line_counts(self) -> None:
        log = "ok a\nSKIP: b: no GPU\n3 passed, 0 failed, 1 skipped\n"
        self.assertEqual(count_log(log, passed=True), (Count(3, 0, 1), ["b: no GPU"]))

    def test_last_line_of_several(self) -> None:
        log = "1 passed, 0 failed, 0 skipped\n4 passed, 1 failed, 0 skipped\n"
        self.assertEqual(count_log(log, passed=False)[0], Count(4, 1, 0))

    def test_death_after_the_last_case(self) -> None:
        self.assertEqual(count_log("3 passed, 0 failed, 0 skipped\n", False)[0], Count(3, 1, 0))

    def test_without_a_line_a_target_is_one(self) -> None:
        self.assertEqual(count_log("hello\n", passed=True)[0], Count(1, 0, 0))
        self.assertEqual(count_log("hello\n", passed=False)[0], Count(0, 1, 0))
        self.assertEqual(count_log("SKIP: no moon\n", passed=True)[0], Count(0, 0, 1))
        self.assertEqual(count_log("SKIP: no moon\n", passed=False)[0], Count(0, 1, 0))

    def test_a_line_within_a_line_is_none(self) -> None:
        self.assertEqual(count_log("x 3 passed, 0 failed, 0 skipped\n", True)[0], Count(1, 0, 0))


class Summarise(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def log(self, text: str) -> Path:
        path = Path(self.folder.name) / f"{len(list(Path(self.folder.name).iterdir()))} x.log"
        path.write_text(text)
        return path

    def test_every_fate(self) -> None:
        events = [
            configured("//a:good"),
            configured("//a:hangs"),
            configured("//a:unbuilt"),
            configured("//a:elsewhere"),
            configured("//a:off", "disabled: a reason"),
            configured("//a:filtered"),
            completed("//a:good"),
            completed("//a:hangs"),
            completed("//a:unbuilt", success=False),
            skipped("//a:elsewhere"),
            skipped("//a:off"),
            completed("//a:filtered", runs=False),
            result("//a:good", "PASSED", self.log("2 passed, 0 failed, 0 skipped\n")),
            result("//a:hangs", "TIMEOUT", self.log("5 passed, 0 failed, 0 skipped\n")),
        ]
        summary = test_summary.summarise(events)
        self.assertEqual(summary.total, Count(passed=7, failed=2, skipped=2))
        self.assertEqual([label for label, _ in summary.failures], ["//a:hangs", "//a:unbuilt"])
        self.assertEqual(summary.left_out, 1)
        self.assertIn(("//a:off", "disabled: a reason"), summary.skips)

    def test_a_later_attempt_replaces_an_earlier(self) -> None:
        events = [
            configured("//a:flaky"),
            completed("//a:flaky"),
            result("//a:flaky", "FAILED", self.log("0 passed, 1 failed, 0 skipped\n"), attempt=1),
            result("//a:flaky", "PASSED", self.log("1 passed, 0 failed, 0 skipped\n"), attempt=2),
        ]
        self.assertEqual(test_summary.summarise(events).total, Count(1, 0, 0))

    def test_a_passed_test_that_counts_a_failure_fails(self) -> None:
        events = [
            configured("//a:liar"),
            completed("//a:liar"),
            result("//a:liar", "PASSED", self.log("1 passed, 1 failed, 0 skipped\n")),
        ]
        self.assertEqual(test_summary.summarise(events).total.failed, 1)


if __name__ == "__main__":
    cases.main()
