"""Finding the fastest setting, one choice after the other, and remembering it."""

import dataclasses
import itertools
import json
import pathlib
import platform
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version

from measure import Report
from setting import CORES, MEMORY, Setting

FORMS = ("sort", "sort_in_place", "loop", "grouped_mm")  # the keys of moe.EXPERTS
MODES = ("off", "default", "max-autotune-no-cudagraphs")
ATTENTION = ("flash", "math")
FINALISTS, CONFIRMATIONS = 4, 2  # measured again at the end, in turns

Measure = Callable[[Setting], Report]
Found = tuple[Setting, Report]


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def speed(report: Report) -> float:
    """Tokens per second; 0 for a setting that does not work."""
    return report.get("tokens_per_s", 0.0)


class Search:
    """Measures a setting once; `best` is the fastest so far. Failures are reported, not fatal."""

    def __init__(self, measure: Measure, tell: Callable[[Setting, Report], None]) -> None:
        self.measure, self.tell = measure, tell
        self.done: dict[Setting, Report] = {}

    def try_all(self, settings: list[Setting], again: bool = False) -> None:
        """Of a setting measured again the faster report stays: noise only slows."""
        for setting in settings:
            before = self.done.get(setting)
            if before is None or again:
                report = self.measure(setting)
                self.tell(setting, report)
                slower = before is not None and speed(report) < speed(before)
                self.done[setting] = before if slower else report

    @property
    def best(self) -> Found:
        best = self.ranked()[0]
        if speed(best[1]) == 0.0:
            raise RuntimeError("no setting works: " + json.dumps(list(self.done.values())))
        return best

    def ranked(self) -> list[Found]:
        return sorted(self.done.items(), key=lambda item: -speed(item[1]))

    def vary(self, **choices: Iterable[str]) -> None:
        """The best so far with every combination of these values of these fields."""
        for values in itertools.product(*choices.values()):
            changed = dict(zip(choices, values, strict=True))
            self.try_all([dataclasses.replace(self.best[0], **changed)])

    def run(self, moe: bool, dtype: str, mkl: tuple[str, ...]) -> Found:
        """`mkl`: the forms to try, the first one from the start."""
        self.try_all([Setting(experts=form, mkl=mkl[0]) for form in (FORMS if moe else (None,))])
        bf16 = ("autocast", "weights") if dtype == "bf16" else ("autocast",)
        self.vary(attention=ATTENTION, bf16=bf16)
        self.vary(mkl=mkl)
        self.vary(memory=MEMORY)
        self.vary(cores=CORES)
        if has_compiler():
            if moe:  # the one form that compiles as a whole
                whole = dataclasses.replace(self.best[0], experts="grouped_mm", compile="default")
                self.try_all([whole])
            self.vary(compile=MODES)
            self.vary(attention=ATTENTION)
        for _ in range(CONFIRMATIONS):
            self.try_all([setting for setting, _ in self.ranked()[:FINALISTS]], again=True)
        return self.best


def machine() -> str:
    """What a remembered setting depends on."""
    model = platform.processor()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"torch {version('torch')}, {model}"


def read_cache(path: pathlib.Path | None) -> dict[str, dict]:
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def write_cache(path: pathlib.Path | None, key: str, setting: Setting) -> None:
    if path is not None:
        entries = read_cache(path) | {key: dataclasses.asdict(setting)}
        path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
