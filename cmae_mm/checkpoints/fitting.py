"""Bring what an encoder knows of places and tokens into the shapes of a model, without changing what it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.resize import Grid, resize_pos_embed, resize_rel_pos_table
from cmae_mm.errors import UserError

Tensors = dict[str, torch.Tensor]
TABLE = "attn.relative_position_bias_table"


def refuse_what_has_no_place(own: Mapping[str, torch.Tensor], header: BackboneHeader, path: str) -> None:
    """Stop where the encoder has a part that the model cannot hold and that features depend on.

    Args:
        own: Tensors of the model under timm names.
        header: Of the encoder.
        path: Named in the error message.

    Raises:
        UserError: If such a part is found.
    """
    first, last = own.get("blocks.0.mlp.fc1.weight"), own.get("blocks.0.mlp.fc2.weight")
    packed = first is not None and last is not None and first.shape[0] == 2 * last.shape[1]
    norms = {norm for norm in ("norm", "fc_norm") if f"{norm}.weight" in own}
    lacking = {
        "position embeddings": header.position != "none" and "pos_embed" not in own,
        f"{header.registers} register tokens": header.registers and "reg_token" not in own,
        "layer scale": header.layer_scale and "blocks.0.ls1.gamma" not in own,
        "relative positions in every block": header.relative_position and f"blocks.0.{TABLE}" not in own,
        "a SwiGLU MLP": header.mlp == "swiglu" and not packed,
        "a norm after pooling (fc_norm), not on all tokens (norm)": (
            header.final_norm == "fc_norm" and norms == {"norm"}
        ),
    }
    if parts := [part for part, lacks in lacking.items() if lacks]:
        raise UserError(
            f"{path}: the encoder has {' and '.join(parts)}, which the model has no place for; configure the model "
            f"with the same parts, or take an encoder without them"
        )


def model_grid(module: nn.Module) -> Grid | None:
    """Rows and columns of patches that a model was built for.

    Args:
        module: A ViT of timm, mmpretrain or this suite.

    Returns:
        The grid; None if the model does not tell, as those for any image size.
    """
    stem: Any = getattr(module, "patch_embed", None)
    grid = getattr(module, "patch_resolution", None) or getattr(stem, "grid_size", None)
    return (int(grid[0]), int(grid[1])) if grid else None


def fit_positions(
    state: Tensors, own: Mapping[str, torch.Tensor], header: BackboneHeader, grid: Grid | None
) -> tuple[dict[str, str], list[str]]:
    """Fit ``pos_embed`` to a model: its grid, and its rows for the class and register tokens.

    A row that the model lacks is added to the class token, to which it would have been added in every
    forward; a row that the file lacks is zero. Neither changes a feature.

    Args:
        state: Tensors of the file, changed in place.
        own: Tensors of the model under timm names.
        header: Of the file.
        grid: Of the model, see :func:`model_grid`.

    Returns:
        Resized keys with their sizes, and notes.
    """
    if "pos_embed" not in own:
        return {}, []
    if "pos_embed" not in state:
        state["pos_embed"] = torch.zeros(own["pos_embed"].shape)
        return {}, ["no positions in the file: those of the model are zero"]
    tokens = int("cls_token" in own)
    registers = own["reg_token"].shape[1] if "reg_token" in own else 0
    rows = own["pos_embed"].shape[1]
    prefix, grid = _layout(rows, grid, (tokens, 1, 0, tokens + registers))
    if grid is None:
        return {}, []  # the shapes differ, which is told by name
    source, file_prefix = (
        (header.grid, header.grid),
        int(header.position == "class_row" and header.class_token),
    )
    table = resize_pos_embed(state["pos_embed"], grid, file_prefix, source)
    head, places, notes = table[:, :file_prefix], table[:, file_prefix:], []
    if prefix < file_prefix and tokens:
        state["cls_token"] = state["cls_token"] + head
        notes.append("the position of the class token is added to it")
    zeros = head.new_zeros(1, max(prefix - file_prefix, 0), head.shape[2])
    state["pos_embed"] = torch.cat((head[:, :prefix], zeros, places), dim=1)
    return ({} if grid == source else {"pos_embed": _sizes(source, grid)}), notes


def fit_relative_tables(
    state: Tensors, own: Mapping[str, torch.Tensor], header: BackboneHeader, grid: Grid | None
) -> dict[str, str]:
    """Resize the relative-position table of every block to the model's window.

    Args:
        state: Tensors of the file, changed in place.
        own: Tensors of the model under timm names.
        header: Of the file.
        grid: Of the model, see :func:`model_grid`.

    Returns:
        Resized keys with their sizes.
    """
    source, resized = (header.grid, header.grid), {}
    extra = 3 if header.class_token else 0
    for key in [k for k in state if k.endswith(TABLE) and k in own]:
        window = _window(own[key].shape[0] - extra, grid)
        if window is None or window == source:
            continue
        state[key] = resize_rel_pos_table(state[key], source, window, extra)
        resized[key] = _sizes(source, window)
    return resized


def _layout(rows: int, grid: Grid | None, prefixes: tuple[int, ...]) -> tuple[int, Grid | None]:
    """Split the rows of a position table into those of tokens and those of a grid."""
    if grid is not None:
        prefix = rows - grid[0] * grid[1]
        return (prefix, grid) if prefix in prefixes else (0, None)
    for prefix in prefixes:
        side = math.isqrt(max(rows - prefix, 0))
        if side and side * side == rows - prefix:
            return prefix, (side, side)
    return 0, None


def _window(offsets: int, grid: Grid | None) -> Grid | None:
    """The window whose relative-position table has that many offsets."""
    if grid is not None and (2 * grid[0] - 1) * (2 * grid[1] - 1) == offsets:
        return grid
    side = math.isqrt(max(offsets, 0))
    return ((side + 1) // 2,) * 2 if side * side == offsets and side % 2 else None


def _sizes(old: Grid, new: Grid) -> str:
    return f"{old[0]}x{old[1]} to {new[0]}x{new[1]}"
