"""Import a checkpoint of any known family as a backbone file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cmae_mm.checkpoints.backbone_file import HEADER_KEY, save_backbone, sha256_of
from cmae_mm.checkpoints.export import META_KEY
from cmae_mm.checkpoints.extraction import Extracted
from cmae_mm.checkpoints.geometry import Misfit
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.import_report import ImportReport, notes_on
from cmae_mm.checkpoints.known import known_family
from cmae_mm.checkpoints.recognise import closest_family, extract_family, recognise
from cmae_mm.checkpoints.refusals import refusal
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.checkpoints.sidecar import Sidecar, read_sidecar
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.sources.layout import NORMALIZATIONS, Family
from cmae_mm.checkpoints.unseen import branch_label, head_count, statistics
from cmae_mm.checkpoints.unwrap import Unwrapped, unwrap
from cmae_mm.errors import UserError


@dataclass
class Imported:
    """An imported encoder.

    Attributes:
        state: Tensors under timm names, float32.
        header: Its header.
        report: What was done.
    """

    state: dict[str, torch.Tensor]
    header: BackboneHeader
    report: ImportReport


def import_checkpoint(
    path: str | Path,
    out: str | Path | None = None,
    source: str = "auto",
    channel_order: str | None = None,
    normalization: str | None = None,
    heads: int | None = None,
    branch: str | None = None,
) -> Imported:
    """Take the encoder out of a checkpoint and describe it.

    Args:
        path: ``.pth``, ``.pt``, ``.tar`` or ``.safetensors``.
        out: Backbone file to write; None writes nothing.
        source: A name of `FAMILIES`, or ``"auto"``.
        channel_order: ``"rgb"`` or ``"bgr"``; None takes the family's.
        normalization: A name of `NORMALIZATIONS`; None takes the family's.
        heads: Attention heads; None takes what the family has at that size.
        branch: Which encoder of a file with several, such as ``"student"``; None takes the one that papers evaluate.

    Returns:
        The encoder, its header and a report.

    Raises:
        UserError: If the file is refused, fits no family or several, or something has to be given.
    """
    _check_choices(source, channel_order, normalization)
    loaded = _read(path)
    sha256 = sha256_of(path)
    unwrapped, family = _recognised(loaded, source, branch, sha256, path)
    try:
        found = extract_family(unwrapped.state, family, branch if branch != unwrapped.outer else None)
    except Misfit as misfit:
        raise UserError(
            f"{path}: is no checkpoint of {family.name}: {misfit}; give another --source"
        ) from None
    beside = read_sidecar(path) if family.hub else Sidecar()
    header = replace(
        _described(found, family, beside, path, channel_order, normalization, heads),
        branch=branch_label(unwrapped, found, branch, path),
        source=Path(path).name,
        source_sha256=sha256,
    )
    header.check(str(path))
    state = _finished(found.state, path)
    if out is not None:
        save_backbone(out, state, header)
    report = ImportReport(str(path), found.layout.name, header, sum(v.numel() for v in state.values()))
    report.notes = notes_on(found, unwrapped, beside, channel_order, path)
    return Imported(state, header, report)


def _described(
    found: Extracted,
    family: Family,
    beside: Sidecar,
    path: str | Path,
    channel_order: str | None,
    normalization: str | None,
    heads: int | None,
) -> BackboneHeader:
    """The architecture, and what its family, a JSON file or the user say beside."""
    mean, std = statistics(found, family, beside, normalization, path)
    return replace(
        found.architecture,
        method=family.method,
        family=family.name,
        licence=family.licence,
        heads=head_count(found.architecture, family, beside, heads, path),
        ln_eps=beside.eps or family.eps,
        mean=mean,
        std=std,
        channel_order=channel_order or found.layout.channel_order,
        pooling=found.layout.pooling if found.architecture.class_token else "avg",
        dropped=tuple(found.dropped),
        transforms=tuple(found.transforms),
    )


def _check_choices(source: str, channel_order: str | None, normalization: str | None) -> None:
    choices: dict[str, tuple[str | None, Collection[str]]] = {
        "source": (source, ("auto", *FAMILIES)),
        "channel order": (channel_order, ("rgb", "bgr")),
        "normalization": (normalization, tuple(NORMALIZATIONS)),
    }
    for what, (value, allowed) in choices.items():
        if value is not None and value not in allowed:
            raise UserError(f"The {what} {value!r} is not known; give one of {', '.join(allowed)}")


def _read(path: str | Path) -> dict[str, Any]:
    """Read a whole checkpoint; nothing in it is executed."""
    if Path(path).suffix != ".safetensors":
        loaded = load_checkpoint(path)
        meta = loaded.get("meta")
        if isinstance(meta, Mapping) and META_KEY in meta:
            raise UserError(
                f"{path}: was written by a run of this suite; use `cmae-mm export {path} --out FILE`"
            )
        return loaded
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    with open_safetensors(path, "fetch it again") as handle:
        if HEADER_KEY in (handle.metadata() or {}):
            raise UserError(f"{path}: is a backbone file already; use it as it is")
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def _recognised(
    loaded: Mapping[str, Any], source: str, branch: str | None, sha256: str, path: str | Path
) -> tuple[Unwrapped, Family]:
    """The tensors of one model, and the one family that they are taken for."""
    _refuse(refusal({}, loaded), path)
    unwrapped = unwrap(loaded, branch, str(path))
    _refuse(refusal(unwrapped.state), path)
    if source != "auto":
        return unwrapped, FAMILIES[source]
    names = recognise(unwrapped.state)
    known = known_family(sha256)
    if known in names:
        names = [known]
    if len(names) > 1:
        raise UserError(
            f"{path}: fits {', '.join(names)}, and nothing in the file tells them apart; say which it is with "
            f"`--source NAME`"
        )
    if not names:
        name, misfit = closest_family(unwrapped.state)
        nearest = f"; the closest is {name}, but {misfit}" if name else f": {misfit}"
        raise UserError(
            f"{path}: fits no known family{nearest}; docs/checkpoints.md lists what can be imported"
        )
    return unwrapped, FAMILIES[names[0]]


def _refuse(reason: str, path: str | Path) -> None:
    if reason:
        raise UserError(f"{path}: refused, {reason}; give a checkpoint of a plain ViT")


def _finished(state: Mapping[str, torch.Tensor], path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors as float32, each in memory of its own."""
    finished = {}
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            raise UserError(f"{path}: {key} is no plain tensor of real numbers; give the original weights")
        finished[key] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        if not torch.isfinite(finished[key]).all():
            raise UserError(
                f"{path}: {key} holds values that are not finite; the file is damaged or training diverged"
            )
    return finished
