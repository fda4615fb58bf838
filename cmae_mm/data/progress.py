"""How far a long count is."""

from __future__ import annotations

import sys
import time


class CountLine:
    """Prints how much is done and the time left: rewritten on a terminal, a line every ten seconds elsewhere.

    Args:
        noun: What is counted.
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Tell the state, unless it was told a moment ago."""
        now = time.monotonic()
        live = sys.stdout.isatty()
        if now - self._last < (0.2 if live else 10) and done < total:
            return
        self._last = now
        left = (now - self._start) * (total - done) / max(done, 1)
        end = "\n" if not live or done == total else ""
        print(f"{chr(13) if live else ''}{done}/{total} {self._noun}, {left:.0f} s left", end=end, flush=True)
