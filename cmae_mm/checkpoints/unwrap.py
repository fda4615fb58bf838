"""Find the tensors of one model in what a training program saved.

Outer keys, the first that holds tensors counts: ``teacher``, ``model``, ``state_dict``, ``model_state``, ``module``,
``backbone``. They are never merged. Then prefixes that wrappers leave are removed, at the start of keys only, and only
where most keys have them: ``module.``, ``_orig_mod.``, ``model.``. Names inside, such as
``momentum_encoder.module.0.``, stay.

A safetensors file has no dictionaries inside, so programs that record more than a model write outer keys in front of
names: ``state.`` or ``state_dict.``. Then everything beside is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cmae_mm.errors import UserError

OUTER_KEYS = ("teacher", "model", "state_dict", "model_state", "module", "backbone")
BRANCH_KEYS = ("teacher", "student", "model", "model_ema")
FLAT_KEYS = ("state_dict", "state")
WRAPPERS = ("module.", "_orig_mod.", "model.")
MAX_KEYS = 20_000  # tensors of one model; the largest that can be imported has about a thousand
MAX_KEY = 500  # characters


@dataclass
class Unwrapped:
    """The tensors of one model.

    Attributes:
        state: Key to tensor.
        outer: Outer key they were under; empty if there was none.
        wrappers: Prefixes that were removed from all keys, joined.
        branches: Outer keys of the file that hold tensors and can be asked for as a branch.
        beside: Patterns of tensors that were left out because they lie beside the model.
    """

    state: dict[str, torch.Tensor]
    outer: str = ""
    wrappers: str = ""
    branches: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def unwrap(loaded: Mapping[str, Any], branch: str | None = None, where: str = "checkpoint") -> Unwrapped:
    """Pick the tensors of one model.

    Args:
        loaded: A whole checkpoint, or tensors already.
        branch: Outer key to take where there are several, such as ``"student"``; other names are left to the
            family.
        where: Named in the error message.

    Returns:
        The tensors and where they were.

    Raises:
        UserError: If nothing there is a dictionary of tensors.
    """
    branches = tuple(key for key in BRANCH_KEYS if _tensors(loaded.get(key)))
    outer = ""
    state = _tensors(loaded)
    if branch in branches:
        outer, state = str(branch), _tensors(loaded[str(branch)])
    elif not state or _is_training_file(loaded):
        outer = next((key for key in OUTER_KEYS if _tensors(loaded.get(key))), "")
        state = _tensors(loaded.get(outer)) if outer else state
    if not state:
        raise UserError(
            f"{where}: holds no dictionary of tensors under {', '.join(OUTER_KEYS)} or at the top, only "
            f"{', '.join(map(str, list(loaded)[:5])) or 'nothing'}; give a file with the weights of a model"
        )
    if len(state) > MAX_KEYS or max(map(len, state)) > MAX_KEY:
        raise UserError(
            f"{where}: refused, it holds {len(state)} tensors with names of up to {max(map(len, state))} characters, "
            f"which no ViT has; give a file with the weights of one model"
        )
    beside: tuple[str, ...] = ()
    if not outer and (flat := next((k for k in FLAT_KEYS if any(n.startswith(k + ".") for n in state)), "")):
        beside = _groups(name for name in state if not name.startswith(flat + "."))
        outer, state = flat, {k[len(flat) + 1 :]: v for k, v in state.items() if k.startswith(flat + ".")}
    state, wrappers = _strip_wrappers(state, where)
    return Unwrapped(state, outer, wrappers, branches if len(branches) > 1 else (), beside)


def _groups(names: Iterable[str]) -> tuple[str, ...]:
    """Returns: Names up to their first dot, each once."""
    return tuple(dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in names))


def _tensors(value: Any) -> dict[str, torch.Tensor]:
    """Returns: The tensors of a mapping with their keys; empty if it is no mapping or holds none."""
    if not isinstance(value, Mapping):
        return {}
    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def _is_training_file(loaded: Mapping[str, Any]) -> bool:
    """Returns: Whether lone tensors, such as a step counter, stand beside a dictionary of many more."""
    most = max((len(_tensors(value)) for value in loaded.values()), default=0)
    return most > len(_tensors(loaded))


def _strip_wrappers(state: dict[str, torch.Tensor], where: str) -> tuple[dict[str, torch.Tensor], str]:
    removed = ""
    while True:
        wrapper = next((w for w in WRAPPERS if 2 * sum(k.startswith(w) for k in state) > len(state)), None)
        if wrapper is None:
            return state, removed
        stripped = {k.removeprefix(wrapper): v for k, v in state.items()}
        if len(stripped) < len(state):
            raise UserError(
                f"{where}: has keys both with and without {wrapper!r} that mean the same tensor; save one model alone"
            )
        state, removed = stripped, removed + wrapper
