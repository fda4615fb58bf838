"""A report on any file of weights: what it says of itself, what is in it, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cmae_mm.checkpoints.backbone_file import HEADER_KEY, check_tensors
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.model_report import describe_model, shortened, shown
from cmae_mm.checkpoints.recognise import outline, recognise
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.checkpoints.tensor_health import Look
from cmae_mm.errors import UserError


def inspect_file(path: str | Path) -> str:
    """Describe a backbone file, another safetensors file, or a checkpoint (.pth).

    Nothing of the file is executed. Tensors of safetensors files are read one at a time.

    Args:
        path: The file.

    Returns:
        Lines of text: header or other content, and the families of the importer that it fits; for each model its
        tensors by block with shapes, the number of parameters and the norm of each block; warnings, each with a
        leading ``!``.

    Raises:
        UserError: If the file is missing, unreadable or refused.
    """
    if _is_safetensors(path):
        kind, lines = _safetensors(path)
    else:
        kind, lines = "checkpoint", _checkpoint(load_checkpoint(path))
    return "\n".join([f"{path}: {kind}, {Path(path).stat().st_size / 1e6:.1f} MB", *lines])


def _is_safetensors(path: str | Path) -> bool:
    """A length in eight bytes, then JSON; an archive starts otherwise, and a pickle has no brace there."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as handle:
        start = handle.read(9)
    return start[:4] != b"PK\x03\x04" and start[8:] == b"{"


def _safetensors(path: str | Path) -> tuple[str, list[str]]:
    outlines: dict[str, torch.Tensor] = {}

    def read(handle: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for key in handle.keys():  # noqa: SIM118
            tensor = handle.get_tensor(key)
            outlines.update(outline({key: tensor}))
            yield key, tensor

    with open_safetensors(path, "it may be damaged or cut short") as handle:
        metadata = handle.metadata() or {}
        model, looks = describe_model("", read(handle))
    if HEADER_KEY in metadata:
        return "backbone file", [*_header(metadata[HEADER_KEY], looks), *model]
    return "safetensors file", [*_content(metadata), *_families(outlines), *model]


def _header(text: str, looks: Sequence[Look]) -> list[str]:
    """The fields of a header that are set, and whether the tensors are what it says."""
    lines: list[str] = []
    try:
        header = BackboneHeader.from_json(text, "header")
        lines = [f"  {name}: {shown(value)}" for name, value in vars(header).items() if value not in ("", ())]
        check_tensors({look.name: (f"torch.{look.dtype}", look.shape) for look in looks}, header, "header")
    except UserError as error:
        lines.append(f"! {error}")
    return lines


def _checkpoint(loaded: Mapping[str, Any]) -> list[str]:
    """The dictionary itself and those right inside, as far as they hold tensors; optimizers nest deeper."""
    models = {"": _tensors(loaded)}
    models |= {str(k): _tensors(v) for k, v in loaded.items() if isinstance(v, Mapping)}
    described = [describe_model(name, tensors.items())[0] for name, tensors in models.items() if tensors]
    lines = _content({k: v for k, v in loaded.items() if not isinstance(v, torch.Tensor)})
    if not described:
        return [*lines, "! there are no tensors in it"]
    return [*lines, *_families(loaded), *(line for model in described for line in model)]


def _tensors(value: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def _content(values: Mapping[Any, Any]) -> list[str]:
    return shortened([f"  {shown(key)}: {shown(value)}" for key, value in values.items()])


def _families(state: Mapping[str, Any]) -> list[str]:
    """Which families of the importer the names and shapes fit."""
    try:
        names = recognise(state)
    except UserError:
        names = []
    return [f"  could be: {', '.join(names) or 'no family that can be imported'}"]
