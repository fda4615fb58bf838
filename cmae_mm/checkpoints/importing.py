"""Import a checkpoint of this suite or of any known family as a backbone file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cmae_mm.checkpoints.backbone_file import HEADER_KEY, save_backbone, sha256_of
from cmae_mm.checkpoints.extraction import Extracted
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.import_report import ImportReport, notes_on
from cmae_mm.checkpoints.known import known_family
from cmae_mm.checkpoints.misfit import Misfit
from cmae_mm.checkpoints.recognise import closest_family, extract_family, recognise
from cmae_mm.checkpoints.refusals import refusal
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.checkpoints.sidecar import Sidecar, read_sidecar
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.sources.layout import NORMALIZATIONS, Family
from cmae_mm.checkpoints.training_checkpoint import is_training_checkpoint, online_encoder
from cmae_mm.checkpoints.unseen import branch_label, head_count, statistics
from cmae_mm.checkpoints.unwrap import Unwrapped, unwrap
from cmae_mm.errors import UserError

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Given:
    """What the user said of a checkpoint, see `import_checkpoint`.

    Attributes:
        source: Family, or ``"auto"``.
        channel_order: ``"rgb"``, ``"bgr"`` or None.
        normalization: A name of `NORMALIZATIONS`, or None.
        heads: Attention heads, or None.
        branch: Which encoder, or None.
    """

    source: str
    channel_order: str | None
    normalization: str | None
    heads: int | None
    branch: str | None

    def told(self) -> list[str]:
        """Returns: Options that were given, as the command line calls them."""
        values = {**vars(self), "source": None if self.source == "auto" else self.source}
        return [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]


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

    A training checkpoint of this suite says itself what it holds; nothing else may be given then.

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
    given = Given(source, channel_order, normalization, heads, branch)
    loaded = _read(path)
    sha256 = sha256_of(path)
    state, report = (_own if is_training_checkpoint(loaded) else _foreign)(loaded, path, sha256, given)
    del loaded  # so that tensors which are copied below can go
    report.header.check(str(path))
    state = _finished(state, path)
    if out is not None:
        save_backbone(out, state, report.header)
    report.parameters = sum(v.numel() for v in state.values())
    return Imported(state, report.header, report)


def _own(
    loaded: Mapping[str, Any], path: str | Path, sha256: str, given: Given
) -> tuple[State, ImportReport]:
    if told := given.told():
        raise UserError(
            f"{path}: is a training checkpoint of this suite, which says itself how it was trained; drop {told[0]}"
        )
    state, header = online_encoder(loaded, path, sha256)
    reason = "written by a pretraining run of this suite"
    return state, ImportReport(str(path), "training checkpoint, online encoder", header, reason)


def _foreign(
    loaded: Mapping[str, Any], path: str | Path, sha256: str, given: Given
) -> tuple[State, ImportReport]:
    unwrapped, family, reason = _recognised(loaded, given, sha256, path)
    branch = given.branch
    try:
        found = extract_family(unwrapped.state, family, branch if branch != unwrapped.outer else None)
    except Misfit as misfit:
        raise UserError(
            f"{path}: is no checkpoint of {family.name}: {misfit}; give another --source"
        ) from None
    beside = read_sidecar(path) if family.hub else Sidecar()
    header = replace(
        _described(found, family, beside, path, given),
        branch=branch_label(unwrapped, found, branch, path),
        source=Path(path).name,
        source_sha256=sha256,
        dropped=(*found.dropped, *unwrapped.beside),
    )
    report = ImportReport(str(path), found.layout.name, header, reason)
    report.notes = notes_on(found, unwrapped, beside, given.channel_order, path)
    return found.state, report


def _described(
    found: Extracted, family: Family, beside: Sidecar, path: str | Path, given: Given
) -> BackboneHeader:
    """The architecture, and what its family, a JSON file or the user say beside."""
    mean, std = statistics(found, family, beside, given.normalization, path)
    header, heads = found.architecture, head_count(found.architecture, family, beside, given.heads, path)
    return replace(
        header,
        method=family.method,
        family=family.name,
        licence=family.licence,
        heads=heads,
        stage_heads=(*header.stage_heads[:-1], heads) if header.stage_heads else (),
        ln_eps=beside.eps or family.eps,
        mean=mean,
        std=std,
        channel_order=given.channel_order or found.layout.channel_order,
        pooling=found.layout.pooling if header.class_token else "avg",
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
        return load_checkpoint(path)
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    with open_safetensors(path, "fetch it again") as handle:
        if HEADER_KEY in (handle.metadata() or {}):
            raise UserError(f"{path}: is a backbone file already; use it as it is, or `cmae-mm export` it")
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def _recognised(
    loaded: Mapping[str, Any], given: Given, sha256: str, path: str | Path
) -> tuple[Unwrapped, Family, str]:
    """The tensors of one model, the one family that they are taken for, and why."""
    _refuse(refusal({}, loaded), path)
    unwrapped = unwrap(loaded, given.branch, str(path))
    _refuse(refusal(unwrapped.state), path)
    if given.source != "auto":
        return unwrapped, FAMILIES[given.source], "taken for it as --source says; every key and shape fits"
    names, reason = recognise(unwrapped.state), "no other family has these keys, shapes and kind of positions"
    known = known_family(sha256)
    if known in names:
        names, reason = [known], "its SHA-256 is that of a published file, and every key and shape fits"
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
    return unwrapped, FAMILIES[names[0]], reason


def _refuse(reason: str, path: str | Path) -> None:
    if reason:
        raise UserError(f"{path}: refused, {reason}; give a checkpoint of a plain ViT")


def _finished(state: State, path: str | Path) -> State:
    """The tensors as float32, each in memory of its own; they leave the given dict, so that none is there twice."""
    finished: State = {}
    taken: set[int] = set()
    for key in list(state):
        tensor = state.pop(key).detach()
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            raise UserError(f"{path}: {key} is no plain tensor of real numbers; give the original weights")
        plain = tensor.to("cpu", torch.float32).contiguous()
        memory = plain.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        # NaN is the lowest and highest of what holds it; unlike isfinite() this takes no memory of its own
        if not all(math.isfinite(end) for end in plain.aminmax()):
            raise UserError(
                f"{path}: {key} holds values that are not finite; the file is damaged or training diverged"
            )
        finished[key] = plain
    return finished
