"""Let mmengine's own loader read checkpoints safely too.

`SuiteRunner` never uses it, but ``init_cfg=dict(type="Pretrained", ...)`` in a config of any library does. The
installed mmengine first tries ``weights_only=True`` and, where that fails, unpickles the file with code execution
allowed: the very file that must not be read so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError


def make_mmengine_load_safely() -> None:
    """Replace the function through which all of mmengine's schemes (file, URL, cloud) read a file.

    Calling it again changes nothing. Can go when mmengine has no fall-back to unpickling.
    """
    import mmengine.runner.checkpoint as library

    library._safe_torch_load = _load  # the one place, which callers look up by name


def _load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
    """What the library calls: tensors come on the CPU, the caller copies them into its model."""
    if not isinstance(file, (str, Path)):
        raise UserError(
            f"a checkpoint that mmengine has fetched into memory ({type(file).__name__}) is not read; download the "
            f"file and give its path"
        )
    return load_checkpoint(file)
