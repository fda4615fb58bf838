"""Take the encoder out of a checkpoint by the rules of one layout; every key must be accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from cmae_mm.checkpoints.geometry import describe
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.misfit import Misfit
from cmae_mm.checkpoints.position_tables import table_kind
from cmae_mm.checkpoints.sources.layout import Layout, State


@dataclass
class Extracted:
    """An encoder under timm names.

    Attributes:
        state: Its tensors.
        architecture: Its architecture, see `describe`.
        layout: The layout that fitted.
        dropped: Patterns of keys that were left out.
        transforms: What was done beside renaming.
        table: Kind of its position table, see `table_kind`.
    """

    state: State
    architecture: BackboneHeader
    layout: Layout
    dropped: list[str]
    transforms: list[str]
    table: str


def extract(tensors: Mapping[str, torch.Tensor], layout: Layout) -> Extracted:
    """Apply a layout.

    Args:
        tensors: Tensors of one model, without outer keys and wrappers.
        layout: What is renamed, dropped and required.

    Returns:
        The encoder; tensors that no step changed share their memory with the input.

    Raises:
        Misfit: If a key is not accounted for, or the encoder is not one that the layout allows.
    """
    prefix = _prefix(tensors, layout)
    for pattern in layout.needs:
        if not _any(tensors, pattern):
            raise Misfit(f"no key is called {pattern}")
    for pattern in layout.lacks:
        if _any(tensors, pattern):
            raise Misfit(f"keys are called {pattern}")
    if layout.test is not None and not layout.test(tensors):
        raise Misfit("a tensor has another shape")
    state, dropped = _take(tensors, layout, prefix)
    transforms = [said for step in layout.steps if (said := step(state))]
    architecture = describe(state, layout.kind)
    for name, allowed in layout.architecture.items():
        if not _is(getattr(architecture, name), allowed):
            raise Misfit(f"{name} is {getattr(architecture, name)}, not {allowed}", 1)
    return Extracted(state, architecture, layout, dropped, transforms, table_kind(state.get("pos_embed")))


def claimed(found: Extracted) -> bool:
    """Whether a layout may name the encoder as its own, which also depends on values and on other families.

    Args:
        found: What `extract` returned.

    Returns:
        False if the position table is of another kind, or another family recognises the encoder.
    """
    if found.layout.tables and found.table not in found.layout.tables:
        return False
    return not any(
        all(_is(getattr(found.architecture, name), value) for name, value in other.items())
        for other in found.layout.elsewhere
    )


def _take(tensors: Mapping[str, torch.Tensor], layout: Layout, prefix: str) -> tuple[State, list[str]]:
    drop = layout.drop if prefix else layout.drop + layout.beside
    state: State = {}
    dropped: dict[str, None] = {}
    strange = []
    for key, tensor in tensors.items():
        inside = key.startswith(prefix)
        name = key[len(prefix) :] if inside else key
        hit = next((p for p in (drop if inside else layout.beside) if fnmatchcase(name, p)), None)
        if hit is not None:
            dropped[prefix + hit if inside else hit] = None
        elif not inside and not any(fnmatchcase(name, p) for p in layout.adopt):
            strange.append(key)
        elif (new := _rename(name, layout)) in state:
            raise Misfit(f"two keys mean {new}")
        else:
            state[new] = tensor
    if strange:
        more = "is" if len(strange) == 1 else "are"
        raise Misfit(
            f"{len(strange)} keys beside it {more} not known ({', '.join(strange[:3])})", len(strange)
        )
    return state, list(dropped)


def _prefix(tensors: Mapping[str, torch.Tensor], layout: Layout) -> str:
    for prefix in layout.prefixes:
        if prefix + layout.stem in tensors:
            return prefix
    raise Misfit(f"there is no {layout.prefixes[0]}{layout.stem}")


def _rename(key: str, layout: Layout) -> str:
    for pattern, replacement in layout.rules:
        key = pattern.sub(replacement, key)
    return key


def _any(tensors: Mapping[str, torch.Tensor], pattern: str) -> bool:
    return any(fnmatchcase(key, pattern) for key in tensors)


def _is(value: Any, allowed: Any) -> bool:
    return value in allowed if isinstance(allowed, tuple) else value == allowed
