"""When a run has to stop early: a signal, or its time is over. All ranks do at the same step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import _fmoe

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TIME_IS_OVER = 1000  # above every signal's number


class StopRequest:
    """Inside, signals ask for a stop; a second one is not caught. What one rank is asked for,
    agreed() tells all."""

    def __init__(self, max_seconds: float | None) -> None:
        self._end = None if max_seconds is None else time.monotonic() + max_seconds
        self._signal = 0
        self._agreed = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            # Python delivers signals to the main thread only
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self.__exit__()

    def __exit__(self, *unused: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def wanted(self) -> int:
        """This rank's reason, for optimizer.step(stop=); 0: none."""
        late = self._end is not None and time.monotonic() >= self._end
        return max(self._signal, TIME_IS_OVER if late else 0)

    def agree(self, highest: int | None = None) -> bool:
        """Whether all stop now. Of a step that was taken: with info.stop. Else the ranks ask each
        other."""
        if highest is None:
            highest = int(_fmoe.agree([self.wanted()], "max")[0])
        self._agreed = max(self._agreed, highest)
        return self._agreed > 0

    def known(self) -> bool:
        """Whether all stop, without asking: what the last agreement said, or, alone, by now."""
        return self.agree(self.wanted() if _fmoe.world_size() == 1 else 0)

    @property
    def reason(self) -> str | None:
        """'SIGTERM', 'max_seconds', ...; None: nobody stops."""
        if self._agreed == 0:
            return None
        return "max_seconds" if self._agreed == TIME_IS_OVER else signal.Signals(self._agreed).name
