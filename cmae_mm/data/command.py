"""``cmae-mm data mini``: make the embedded data and say how far it is."""

from __future__ import annotations

from pathlib import Path

from cmae_mm.data.contact_sheet import contact_sheets
from cmae_mm.data.mini import make_mini
from cmae_mm.data.progress import CountLine


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
    manifest = make_mini(out, seed, progress=CountLine("pictures"))
    print(f"{out}: {'made' if manifest['made'] else 'was there already, nothing to do'} (seed {seed})")
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        print("contact sheets: " + ", ".join(str(path) for path in contact_sheets(out, sheets)))
    return 0
