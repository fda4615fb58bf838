"""A report on any file of weights: what it says of itself, what is in it, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmae_mm.checkpoints.backbone_file import HEADER_KEY, check_tensors
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.model_report import ModelReport, describe_model, shortened, shown
from cmae_mm.checkpoints.recognise import outline, recognise
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.checkpoints.tensor_health import Look
from cmae_mm.checkpoints.training_checkpoint import is_training_checkpoint
from cmae_mm.errors import UserError


@dataclass
class FileReport:
    """What is in a file of weights.

    Attributes:
        kind: ``"backbone file"``, ``"safetensors file"`` or ``"checkpoint"``.
        header: Fields of the header of a backbone file that are set.
        content: What is there beside tensors, in words.
        families: Families of the importer that it fits; None for a backbone file.
        models: Its models.
        warnings: What is odd beside the models.
    """

    kind: str
    header: dict[str, Any] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)
    families: list[str] | None = None
    models: list[ModelReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    report = _look(path)
    lines = [f"{path}: {report.kind}, {Path(path).stat().st_size / 1e6:.1f} MB"]
    lines += [f"  {name}: {shown(value)}" for name, value in report.header.items()]
    lines += shortened([f"  {key}: {value}" for key, value in report.content.items()])
    lines += [f"! {sentence}" for sentence in report.warnings]
    if report.families is not None:
        lines.append(f"  could be: {', '.join(report.families) or 'no family that can be imported'}")
    return "\n".join([*lines, *(line for model in report.models for line in model.text())])


def inspect_json(path: str | Path) -> dict[str, Any]:
    """What :func:`inspect_file` says, and every tensor, as JSON has it.

    Args:
        path: The file.

    Returns:
        ``path``, ``bytes``, and the fields of `FileReport`; each model with ``name``, ``parameters``, ``positions``,
        ``block_norms``, ``warnings`` and ``tensors``.

    Raises:
        UserError: If the file is missing, unreadable or refused.
    """
    report = _look(path)
    models = [model.plain() for model in report.models]
    return {"path": str(path), "bytes": Path(path).stat().st_size, **vars(report), "models": models}


def _look(path: str | Path) -> FileReport:
    return _safetensors(path) if _is_safetensors(path) else _checkpoint(load_checkpoint(path))


def _is_safetensors(path: str | Path) -> bool:
    """A length in eight bytes, then JSON; an archive starts otherwise, and a pickle has no brace there."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as handle:
        start = handle.read(9)
    return start[:4] != b"PK\x03\x04" and start[8:] == b"{"


def _safetensors(path: str | Path) -> FileReport:
    outlines: dict[str, torch.Tensor] = {}

    def read(handle: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for key in handle.keys():  # noqa: SIM118
            tensor = handle.get_tensor(key)
            outlines.update(outline({key: tensor}))
            yield key, tensor

    with open_safetensors(path, "it may be damaged or cut short") as handle:
        metadata = handle.metadata() or {}
        model = describe_model("", read(handle))
    if HEADER_KEY not in metadata:
        return FileReport("safetensors file", {}, _content(metadata), _families(outlines), [model])
    header, faults = _header(metadata[HEADER_KEY], model.looks)
    return FileReport("backbone file", header, models=[model], warnings=faults)


def _header(text: str, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a header that are set, and whether the tensors are what it says."""
    fields: dict[str, Any] = {}
    try:
        header = BackboneHeader.from_json(text, "header")
        fields = {name: value for name, value in vars(header).items() if value not in ("", ())}
        check_tensors({look.name: (f"torch.{look.dtype}", look.shape) for look in looks}, header, "header")
    except UserError as error:
        return fields, [str(error)]
    return fields, []


def _checkpoint(loaded: Mapping[str, Any]) -> FileReport:
    """The dictionary itself and those right inside, as far as they hold tensors; optimizers nest deeper."""
    models = {"": _tensors(loaded)}
    models |= {str(k): _tensors(v) for k, v in loaded.items() if isinstance(v, Mapping)}
    described = [describe_model(name, tensors.items()) for name, tensors in models.items() if tensors]
    content = _content({k: v for k, v in loaded.items() if not isinstance(v, torch.Tensor)})
    if not described:
        return FileReport("checkpoint", content=content, warnings=["there are no tensors in it"])
    return FileReport("checkpoint", {}, content, _families(loaded), described)


def _tensors(value: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def _content(values: Mapping[Any, Any]) -> dict[str, str]:
    return {shown(key): shown(value) for key, value in values.items()}


def _families(state: Mapping[str, Any]) -> list[str]:
    """Which families of the importer the names and shapes fit."""
    if is_training_checkpoint(state):
        return ["a training checkpoint of this suite"]
    try:
        return recognise(state)
    except UserError:
        return []
