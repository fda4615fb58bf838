"""Load a backbone file into a model, strictly, and say what happened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from cmae_mm.checkpoints.backbone_file import depth_of, load_backbone
from cmae_mm.checkpoints.fitting import (
    fit_positions,
    fit_relative_tables,
    model_grid,
    refuse_what_has_no_place,
)
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.load_report import LoadReport, shorten, write_to_log_file
from cmae_mm.errors import UserError

__all__ = ["LoadReport", "load_into"]

INDEX = ".relative_position_index"  # a buffer that a model computes from its window


def load_into(
    module: nn.Module,
    path: str | Path,
    rename: Callable[[str], str] | None = None,
    optional: Iterable[str] = (),
) -> LoadReport:
    """Copy an encoder into a model; every encoder tensor must find its place.

    The stem is folded to RGB with ImageNet statistics; position tables are resized to the model's grid.
    The report with every name goes to the log file. A refused load changes nothing.

    Args:
        module: An encoder of the file's kind. Heads are compared where it or a layer in it has an attribute
            ``num_heads``.
        path: Backbone file.
        rename: Turns a key of the module into its name in backbone files; None if it has these names.
        optional: Regular expressions: keys of the model (under either name) that the file need not hold, and
            keys of the file that the model need not have. Parts that other features depend on, such as layer scale
            or relative positions, cannot be left out of the file this way.

    Returns:
        The report.

    Raises:
        UserError: If the architectures differ, or below 100 % of the encoder's keys beside the optional ones.
    """
    state, header = load_backbone(path)
    names = {(rename(k) if rename else k): k for k in module.state_dict()}
    values = module.state_dict(keep_vars=True)
    own = {k: values[name] for k, name in names.items() if not k.endswith(INDEX)}
    if header.kind == "vit":
        _compare_architecture(own, header, _heads(module), path)
        refuse_what_has_no_place(own, header, str(path))
    else:
        _compare_kind(own, header, _heads(module), path)
    fitted, report = _fit(state, own, header, module, str(path))
    patterns = [re.compile(p) for p in optional]
    allowed = {k for k in {*own, *state} if any(p.search(n) for p in patterns for n in (k, names.get(k, k)))}
    _compare_keys(own, state, fitted, report)
    _refuse_below_all(own, fitted, allowed, report)
    with torch.no_grad():
        for key in fitted.keys() & own.keys():
            own[key].copy_(fitted[key])
    write_to_log_file(report.full())
    return report


_ONLY_THERE = {"swin": "layers.0.blocks.0.attn.qkv.weight", "hybrid": "patch_embed4.weight"}


def _compare_kind(
    own: dict[str, torch.Tensor], header: BackboneHeader, heads: int | None, path: str | Path
) -> None:
    """Make sure that a model has stages as the file's; its sizes show in the shapes, which are compared later."""
    if _ONLY_THERE[header.kind] not in own:
        elsewhere = {
            "swin": f"`cmae-mm export {path} --to LIBRARY` writes it for a library's own SwinTransformer",
            "hybrid": "docs/hybrid.md says how CMAEHybridViT reads it",
        }
        raise UserError(
            f"{path}: holds a {header.kind} encoder, which this model cannot read; {elsewhere[header.kind]}"
        )
    right = next(number for number in header.stage_heads if number)
    if heads is not None and heads != right:
        raise UserError(
            f"{path}: the file's first stage with attention has {right} heads, the model's {heads}; use the "
            f"config of the same architecture"
        )


def _heads(module: nn.Module) -> int | None:
    """Heads of the model or of its first attention layer: no shape shows them, yet features depend on them."""
    counts = (getattr(part, "num_heads", None) for part in module.modules())
    return next((count for count in counts if isinstance(count, int)), None)


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


def _fit(
    state: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    header: BackboneHeader,
    module: nn.Module,
    path: str,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """The file's tensors as the model wants them; the file's own dict stays as it is."""
    report, grid = LoadReport(path), model_grid(module)
    folded = fold_input(state, header)
    fitted = dict(folded)
    if folded is not state:
        report.notes.append(f"stem folded from {header.channel_order} input to rgb")
    resized, notes = fit_positions(fitted, own, header, grid)
    if header.kind == "vit":  # windows of a Swin have sizes of their own
        resized |= fit_relative_tables(fitted, own, header, grid)
    report.resized = resized
    report.notes += notes
    return fitted, report


def _compare_keys(
    own: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    fitted: dict[str, torch.Tensor],
    report: LoadReport,
) -> None:
    report.matched = sorted(
        k for k in state if k in own and own[k].shape == fitted[k].shape and k not in report.resized
    )
    report.missing = sorted(set(own) - set(fitted))
    report.unexpected = sorted(set(state) - set(own))


def _refuse_below_all(
    own: dict[str, torch.Tensor], fitted: dict[str, torch.Tensor], allowed: set[str], report: LoadReport
) -> None:
    shapes = sorted(k for k in own.keys() & fitted.keys() if own[k].shape != fitted[k].shape)
    report.resized = {k: v for k, v in report.resized.items() if k not in shapes}
    missing = [k for k in report.missing if k not in allowed]
    unexpected = [k for k in report.unexpected if k not in allowed]
    reasons = []
    if shapes:
        file, model = (tuple(tensors[shapes[0]].shape) for tensors in (fitted, own))
        reasons.append(
            f"{len(shapes)} shapes differ ({shorten(shapes)}; the first: file {file}, model {model})"
        )
    if unexpected:
        reasons.append(f"{len(unexpected)} of the file have no place ({shorten(unexpected)})")
    if missing:
        reasons.append(f"{len(missing)} of the model are not in the file ({shorten(missing)})")
    if reasons:
        total = report.total + len(shapes)
        write_to_log_file(report.full() + "\n".join(["", f"shapes differ: {len(shapes)}", *shapes]))
        raise UserError(
            f"{report.path}: does not fit the model, {report.loaded} of {total} encoder tensors do "
            f"({100 * report.loaded / total:.1f} %): {'; '.join(reasons)}; use the config of the same architecture"
        )
