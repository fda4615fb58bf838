"""Read a ``.pth`` file without ever executing anything from it."""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cmae_mm.errors import UserError

# Globals that known training programs leave in their checkpoints. Each is bound to an inert class,
# so that nothing is imported or called. Any other global is refused by name.
_INERT = {
    "argparse.Namespace",
    "builtins.getattr",
    "builtins.int",
    "builtins.list",
    "builtins.slice",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
}
_DICTS = {"builtins.dict", "mmengine.config.config.ConfigDict", "yacs.config.CfgNode", "addict.addict.Dict"}


class _Inert:
    """Swallows what a pickle would have passed to the real class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True`` and inert stand-ins for known classes.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        The dictionary; tensors are on the CPU, objects of other classes are empty shells.

    Raises:
        UserError: If the file is missing, damaged, or names a global that is not on the list.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    try:
        for name in _globals_of(path):
            if name not in _INERT | _DICTS and not name.startswith("numpy.dtypes."):
                raise UserError(f"{path}: refused, it asks to load {name}, which weights do not need")
            stand_ins.append((OrderedDict if name in _DICTS else type("Inert", (_Inert,), {}), name))
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(str(path), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        if unsafe := re.search(r"GLOBAL (\S+) was not an allowed", str(error)):
            raise UserError(
                f"{path}: refused, it asks to load {unsafe[1]}, which weights do not need"
            ) from None
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); it may be damaged or cut short"
        ) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of weights")
    return loaded


def _globals_of(path: str | Path) -> list[str]:
    """Globals that need a stand-in; torch cannot list them in files from before torch 1.6: all of ours."""
    if zipfile.is_zipfile(path):
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return sorted(_INERT | _DICTS)
