"""``cmae-mm data mini``: make the embedded data and say how far it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cmae_mm.data.contact_sheet import contact_sheets
from cmae_mm.data.mini import make_mini


class _Counter:
    """Prints pictures made and the time left: rewritten on a terminal, now and then elsewhere."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        live = sys.stdout.isatty()
        if now - self._last < (0.2 if live else 10) and done < total:
            return
        self._last = now
        left = (now - self._start) * (total - done) / max(done, 1)
        end = "\n" if not live or done == total else ""
        print(f"{chr(13) if live else ''}{done}/{total} pictures, {left:.0f} s left", end=end, flush=True)


def make_with_progress(out: Path, seed: int, sheets: Path | None) -> int:
    """Make the mini data with progress on standard output.

    Args:
        out: Folder to make.
        seed: Random seed.
        sheets: Folder for contact sheets; None for none.

    Returns:
        Exit code 0.

    Raises:
        UserError: If the folder holds something else or cannot be written.
    """
    manifest = make_mini(out, seed, progress=_Counter())
    print(f"{out}: {'made' if manifest['made'] else 'was there already, nothing to do'} (seed {seed})")
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        print("contact sheets: " + ", ".join(str(path) for path in contact_sheets(out, sheets)))
    return 0
