"""Read a ``.pth`` file without ever executing anything from it.

Four gates, in this order:

1. The archive's directory, see `archive`.
2. The pickle's instructions, see `dry_run`: what they name and what they would cost.
3. The pickle itself, with ``weights_only=True``: only names that weights need, and those of `inert`, which are bound to
   empty shells. Nothing of the file is imported or called.
4. The tensors: dense, real memory, and no larger together than a file of this size can hold.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch

from cmae_mm.checkpoints.archive import read_pickle
from cmae_mm.checkpoints.dry_run import DryRun, Refused, UnknownName
from cmae_mm.checkpoints.inert import stand_ins
from cmae_mm.errors import UserError

SHARING = 8  # tensors that share memory may together be this many times the file
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of files from before torch 1.6
_LEGACY_PICKLES = 5  # a number, a version, the machine, the object, and keys of its storages


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True`` and inert stand-ins for known classes.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        The dictionary; tensors are on the CPU, objects of other classes are empty shells.

    Raises:
        UserError: If the file is missing, damaged, made to fill the memory, or names a global that is not on the list.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint file; check the path")
    try:
        with open(path, "rb") as handle:
            loaded = _load(handle, path)
            _check(loaded, handle, path)
    except UserError:
        raise
    except UnknownName as error:
        raise _unknown(path, str(error)) from None
    except Refused as error:
        raise UserError(
            f"{path}: refused, {error}{'' if ';' in str(error) else '; save the weights alone'}"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); it may be damaged or cut short"
        ) from None
    return loaded


def _load(handle: IO[bytes], path: str | Path) -> Any:
    run = DryRun()
    start = handle.read(len(_LEGACY))
    if start[:4] == b"PK\x03\x04":  # as torch tells the two formats apart
        run.follow(io.BytesIO(read_pickle(handle, path)))
    elif start == _LEGACY:
        handle.seek(0)
        for _ in range(_LEGACY_PICKLES):
            run.follow(handle)
    else:
        raise ValueError("it does not start as a file of torch.save does")
    handle.seek(0)
    # An open file, not its path: of some names torch would take another reader.
    with torch.serialization.safe_globals(stand_ins(run.names)):
        return torch.load(handle, map_location="cpu", weights_only=True, mmap=False)


def _unknown(path: str | Path, name: str) -> UserError:
    # torch leaves the module out where it is builtins
    short = ascii(name)[1:-1].removeprefix("builtins.")[:100]
    return UserError(
        f"{path}: refused, it asks to load {short}, which weights do not need; get the weights from a source you trust"
    )


def _check(loaded: Any, handle: IO[bytes], path: str | Path) -> None:
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of weights")
    total, size = 0, handle.seek(0, os.SEEK_END)
    stored: dict[int, int] = {}
    for tensor in _tensors_in(loaded):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise UserError(
                f"{path}: refused, it holds a tensor that is no plain array; save the weights as plain tensors"
            )
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        total += tensor.numel() * tensor.element_size()
        if total > SHARING * size:
            raise UserError(
                f"{path}: refused, its tensors would take more than {SHARING} times the file: one has the shape "
                f"{tuple(tensor.shape)}; it may be damaged"
            )
    if sum(stored.values()) > size:  # of old files, torch leaves memory as it was found
        raise UserError(
            f"{path}: not a readable checkpoint, it has fewer values than tensors; fetch it again"
        )


def _tensors_in(tree: Any) -> list[torch.Tensor]:
    """Every tensor in nested containers, once; without recursion, which a hostile file could exhaust.

    On the way, attributes are removed that a file could have set to hide methods.
    """
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            item._backward_hooks = None
            found.append(item)
        elif isinstance(item, dict):
            if isinstance(item, OrderedDict):
                waiting.append(_strip(item))
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)
    return found


def _strip(item: OrderedDict[Any, Any]) -> Any:
    """Leave no attribute but the versions of modules that ``state_dict()`` adds, and return these."""
    own = vars(item)
    versions = own.get("_metadata")
    own.clear()
    if isinstance(versions, dict):
        own["_metadata"] = versions
    return versions
