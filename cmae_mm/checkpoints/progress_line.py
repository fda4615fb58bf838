"""One line that says how far a download is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

SCREEN_S, LOG_S = 0.2, 30.0  # seconds between two lines on a terminal, and in a file


class ProgressLine:
    """Writes bytes done, rate and remaining time to a stream.

    A terminal shows one line that changes, a file or pipe gets a new line now and then.

    Args:
        name: What is downloaded.
        stream: Where to; None is standard error at this moment.
        clock: Returns seconds.
    """

    def __init__(
        self, name: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._clock = name, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._begun: tuple[float, int] | None = None
        self._last, self._width = clock(), 0

    def __call__(self, done: int, total: int | None) -> None:
        """Tell the state, unless it was told a moment ago.

        Args:
            done: Bytes on disk.
            total: Bytes of the whole file; None if the server does not say.
        """
        now = self._clock()
        if self._begun is None or done < self._begun[1]:  # also when the server makes us start again
            self._begun = (now, done)
        if now - self._last >= (SCREEN_S if self._terminal else LOG_S):
            self._last = now
            self._write(self._text(done, total, now))

    def close(self) -> None:
        """End the line."""
        if self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def _text(self, done: int, total: int | None, now: float) -> str:
        start, first = self._begun or (now, done)
        rate = (done - first) / (now - start) if now > start else 0.0
        if total is None:
            return f"{self._name}: {done / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s"
        left = _minutes((total - done) / rate) if rate else "?"
        share = 100 * done // total if total else 100
        return f"{self._name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB ({share} %), {rate / 1e6:.1f} MB/s, {left} left"

    def _write(self, text: str) -> None:
        shorter = " " * max(self._width - len(text), 0)  # overwrites what the longer line before left
        self._stream.write(f"\r{text}{shorter}" if self._terminal else f"{text}\n")
        self._stream.flush()
        self._width = len(text)


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
