"""Load a backbone file into a model, strictly, and say what happened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cmae_mm.checkpoints.backbone_file import depth_of, load_backbone
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.errors import UserError


@dataclass
class LoadReport:
    """What a load did.

    Attributes:
        path: The backbone file.
        matched: Keys that were copied.
        initialised: Parameters of the model that the file does not hold (allowed ones).
        unused: Keys of the file that the model has no place for (allowed ones).
        notes: Things that were changed on the way, such as a resized position table.
    """

    path: str
    matched: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"backbone file {self.path}: {len(self.matched)} tensors loaded"]
        if self.initialised:
            parts.append(f"{len(self.initialised)} newly initialised ({self.initialised[0]}, ...)")
        if self.unused:
            parts.append(f"{len(self.unused)} unused ({', '.join(self.unused[:3])})")
        return "; ".join(parts + self.notes)


def load_into(
    module: nn.Module,
    path: str | Path,
    rename: Callable[[str], str] | None = None,
    optional: Iterable[str] = (),
) -> LoadReport:
    """Copy an encoder into a model; every encoder tensor must find its place.

    The stem is folded to RGB with ImageNet statistics, the position table is resized to the
    model's grid.

    Args:
        module: A ViT; may have an attribute ``num_heads`` that is then compared.
        path: Backbone file.
        rename: Turns a key of the module into its timm name; None if it has timm names.
        optional: Regular expressions: keys of the model that the file need not hold, and keys of
            the file that the model need not have.

    Returns:
        The report.

    Raises:
        UserError: If the architectures differ.
    """
    state, header = load_backbone(path)
    own = {(rename(k) if rename else k): v for k, v in module.state_dict(keep_vars=True).items()}
    _compare_architecture(own, header, getattr(module, "num_heads", None), path)
    report = LoadReport(str(path))
    folded = fold_input(state, header)
    if folded is not state:
        report.notes.append(f"stem folded from {header.channel_order} input to rgb")
    _fit_position_table(folded := dict(folded), own, header, report)
    patterns = [re.compile(p) for p in optional]
    _compare_keys(own, folded, patterns, report)
    with torch.no_grad():
        for key in report.matched:
            own[key].copy_(folded[key])
    return report


def _compare_architecture(
    own: dict[str, torch.Tensor], header: BackboneHeader, heads: int | None, path: str | Path
) -> None:
    if "patch_embed.proj.weight" not in own:
        raise UserError(f"{path}: cannot be loaded, the model has no patch_embed.proj: it is not a plain ViT")
    stem = own["patch_embed.proj.weight"].shape
    model = {"width": stem[0], "patch": stem[2], "depth": depth_of(set(own))}
    if heads is not None:
        model["heads"] = heads
    differing = [n for n, v in model.items() if v != getattr(header, n)]
    if differing:
        file_has = ", ".join(f"{n} {getattr(header, n)}" for n in differing)
        model_has = ", ".join(f"{n} {model[n]}" for n in differing)
        raise UserError(
            f"{path}: the file holds a ViT with {file_has}, the config builds one with {model_has}; "
            f"use the config of the same architecture"
        )


def _fit_position_table(
    state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], header: BackboneHeader, report: LoadReport
) -> None:
    if (
        "pos_embed" not in own
        or "pos_embed" not in state
        or own["pos_embed"].shape == state["pos_embed"].shape
    ):
        return
    rows = own["pos_embed"].shape[1]
    prefix = 1 if "cls_token" in own else 0
    file_prefix = int(header.position == "class_row" and header.class_token)
    side = int((rows - prefix) ** 0.5)
    if side * side != rows - prefix:  # a table that kept the class row although the model dropped the token
        prefix, side = 1, int((rows - 1) ** 0.5)
    table = resize_pos_embed(state["pos_embed"], (side, side), file_prefix)
    if prefix < file_prefix:
        table = table[:, file_prefix:]
    elif prefix > file_prefix:
        table = torch.cat((torch.zeros_like(table[:, :1]), table), dim=1)
    state["pos_embed"] = table
    report.notes.append(f"positions resized from {header.grid}x{header.grid} to {side}x{side}")


def _compare_keys(
    own: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    optional: list[re.Pattern[str]],
    report: LoadReport,
) -> None:
    def allowed(key: str) -> bool:
        return any(p.search(key) for p in optional)

    report.matched = sorted(k for k in own if k in state and own[k].shape == state[k].shape)
    report.initialised = sorted(set(own) - set(state))
    report.unused = sorted(set(state) - set(own))
    shapes = sorted(k for k in own if k in state and own[k].shape != state[k].shape)
    lost = [k for k in report.initialised + report.unused if not allowed(k)]
    if shapes or lost:
        detail = "; ".join(
            f"{k}: file {tuple(state[k].shape)}, model {tuple(own[k].shape)}" for k in shapes[:2]
        )
        raise UserError(
            f"{report.path}: does not fit the model: {len(shapes)} shapes differ ({detail or 'none'}), "
            f"{len(lost)} keys have no counterpart {lost[:3]}; use the config of the same architecture"
        )
