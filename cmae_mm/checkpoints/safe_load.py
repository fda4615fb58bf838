"""Read a ``.pth`` file without ever executing anything from it.

Three gates, in this order:

1. The archive's directory. ``torch.save`` compresses nothing, so a compressed entry, or entries that overlap, are there
   to fill the memory.
2. The pickle, with ``weights_only=True``: only names that torch knows, and those of `inert.STAND_INS`, which are bound
   to empty shells. Nothing of the file is imported or called.
3. The tensors: dense, real memory, and no larger together than a file of this size can hold.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from cmae_mm.checkpoints.inert import known_names, stand_ins
from cmae_mm.errors import UserError

MAX_PICKLE = 1 << 28  # bytes; histories of very long mmengine runs take some 100 MB
SHARING = 8  # tensors that share memory may together be this many times the file
_REFUSED_NAME = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True`` and inert stand-ins for known classes.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        The dictionary; tensors are on the CPU, objects of other classes are empty shells.

    Raises:
        UserError: If the file is missing, damaged, made to fill the memory, or names a global that is not on the list.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    try:
        with torch.serialization.safe_globals(stand_ins(_globals_of(path))):
            loaded = torch.load(str(path), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        if unsafe := _REFUSED_NAME.search(str(error)):
            raise _refusal(path, unsafe[1]) from None
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); it may be damaged or cut short"
        ) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of weights")
    _check_tensors(loaded, path)
    return loaded


def _globals_of(path: str | Path) -> list[str]:
    """Names that need a stand-in; torch cannot list them in files from before torch 1.6: all of ours."""
    with open(path, "rb") as handle:
        if handle.read(4) != b"PK\x03\x04":  # as torch tells the two formats apart
            return known_names()
    _check_archive(path)
    names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    known = set(known_names(names))
    if unsafe := [name for name in names if name not in known]:
        raise _refusal(path, unsafe[0])
    return names


def _refusal(path: str | Path, name: str) -> UserError:
    # torch leaves the module out where it is builtins
    short = ascii(name)[1:-1].removeprefix("builtins.")[:100]
    return UserError(
        f"{path}: refused, it asks to load {short}, which weights do not need; get the weights from a source you trust"
    )


def _check_archive(path: str | Path) -> None:
    """Refuse an archive that would unpack to more than it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UserError(
                f"{path}: refused, its entry {ascii(entry.filename)[:80]} is compressed, which no checkpoint is; "
                f"if you trust it, unpack the archive and pack it again uncompressed"
            )
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
            raise UserError(
                f"{path}: refused, it holds {entry.file_size >> 20} MiB beside its tensors; save the weights alone"
            )
    if sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
        raise UserError(
            f"{path}: refused, its entries overlap: it would unpack to more than it is; it may be damaged"
        )


def _check_tensors(loaded: dict[str, Any], path: str | Path) -> None:
    """Refuse tensors that are not plain memory, or more of it than the file can hold."""
    total, limit = 0, SHARING * Path(path).stat().st_size
    for tensor in _tensors_in(loaded):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantised" if tensor.is_quantized else f"{tensor.layout} on {tensor.device.type}"
            raise UserError(
                f"{path}: refused, it holds a tensor that is no plain array ({kind}); save the weights as plain tensors"
            )
        total += tensor.numel() * tensor.element_size()
        if total > limit:
            raise UserError(
                f"{path}: refused, its tensors would take more than {SHARING} times the file: one has the shape "
                f"{tuple(tensor.shape)}; it may be damaged"
            )


def _tensors_in(tree: Any) -> list[torch.Tensor]:
    """Every tensor in nested containers, once; without recursion, which a hostile file could exhaust."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)
    return found
