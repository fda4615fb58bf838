"""What importers do to tensors beside renaming them; each step is exact.

A step changes a dictionary of tensors under timm names in place and returns what it did in words,
or an empty string if there was nothing to do.
"""

from __future__ import annotations

import re

import torch

from cmae_mm.checkpoints.sources.layout import State

_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"


def fuse_query_key_value(state: State) -> str:
    """Concatenate separate ``attn.q``, ``attn.k`` and ``attn.v`` into ``attn.qkv``.

    A missing key bias becomes zeros: the softmax over keys does not see a constant.
    """
    blocks = _blocks(state, "attn.q.weight")
    fused = 0
    for block in blocks:
        parts = {k: state.get(f"{block}.attn.{k}.weight") for k in "qkv"}
        if any(v is None for v in parts.values()):
            continue
        state[f"{block}.attn.qkv.weight"] = torch.cat([state.pop(f"{block}.attn.{k}.weight") for k in "qkv"])
        biases = [state.pop(f"{block}.attn.{k}.bias", None) for k in "qkv"]
        if (like := biases[0]) is not None and biases[2] is not None:
            key = torch.zeros_like(like) if biases[1] is None else biases[1]
            state[f"{block}.attn.qkv.bias"] = torch.cat([like, key, biases[2]])
        fused += 1
    return "query, key and value of each block concatenated" if fused else ""


def full_bias(state: State) -> str:
    """Turn ``q_bias`` and ``v_bias`` into a bias of all three, with zeros for the keys."""
    blocks = [b for b in _blocks(state, "attn.q_bias") if f"{b}.attn.v_bias" in state]
    blocks = [b for b in blocks if f"{b}.attn.qkv.bias" not in state]
    for block in blocks:
        query, value = state.pop(f"{block}.attn.q_bias"), state.pop(f"{block}.attn.v_bias")
        state[f"{block}.attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return "q_bias and v_bias became a full bias with zeros for the keys" if blocks else ""


def copy_shared_table(state: State) -> str:
    """Copy the one table of relative positions to every block."""
    if _SHARED_TABLE not in state:
        return ""
    table = state.pop(_SHARED_TABLE)
    for block in _blocks(state, "attn.proj.weight"):
        state[f"{block}.attn.relative_position_bias_table"] = table.clone()
    return "the shared table of relative positions was copied to every block"


def fold_class_position(state: State) -> str:
    """With registers: add the position of the class token to it, as timm stores such models.

    Registers have no position, so the table then has rows for patches only.
    """
    if not {"reg_token", "cls_token", "pos_embed"} <= set(state):
        return ""
    rows = state["pos_embed"].shape[1] - 1
    if round(rows**0.5) ** 2 != rows:
        return ""
    state["cls_token"] = (
        state["cls_token"].float() + state["pos_embed"][:, :1].float()
    )  # not in half precision
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return "the position of the class token was added to the class token"


def downsample_in_front(state: State) -> str:
    """Count the joining of places (Swin) to the stage behind it, as timm does; nothing else changes."""
    stages = sorted({int(m[1]) for k in state if (m := re.match(r"layers\.(\d+)\.downsample\.", k))})
    if not stages or stages[0] > 0:
        return ""
    for stage in reversed(stages):
        old, new = f"layers.{stage}.downsample.", f"layers.{stage + 1}.downsample."
        for key in [k for k in state if k.startswith(old)]:
            state[new + key.removeprefix(old)] = state.pop(key)
    return ""


def sort_joined_places(state: State) -> str:
    """Sort what Swin joins in 2 x 2 places from mmpretrain's order to the original's.

    mmpretrain lays out the four places of each channel (00, 01, 10, 11); the original all channels of each place, in
    the order 00, 10, 01, 11.
    """
    leaves = ("norm.weight", "norm.bias", "reduction.weight")
    keys = [k for k in state if re.fullmatch(r"layers\.\d+\.downsample\.(.+)", k) and k.endswith(leaves)]
    for key in keys:
        by_channel = state[key].unflatten(-1, (-1, 4))
        state[key] = by_channel[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
    return "channels of joined places sorted by place, as in the original Swin" if keys else ""


BEIT_STEPS = (full_bias, copy_shared_table)


def _blocks(state: State, leaf: str) -> list[str]:
    """Returns: ``blocks.N`` of every block that has the leaf."""
    return [m[1] for k in state if (m := re.fullmatch(r"(blocks\.\d+)\." + re.escape(leaf), k))]
