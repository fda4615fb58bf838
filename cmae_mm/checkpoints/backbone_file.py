"""Read and write the canonical backbone file: safetensors, timm key names, a JSON header.

It is the one thing that crosses from pretraining to transfer. Nothing in it can be executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.errors import UserError

HEADER_KEY = "cmae_mm"
_BLOCK_KEYS = tuple(
    f"{part}.{leaf}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for leaf in ("weight", "bias")
)


def expected_keys(header: BackboneHeader) -> set[str]:
    """The exact keys of an encoder of this architecture (a plain ViT: 12 per block plus 6).

    Args:
        header: Architecture.

    Returns:
        timm key names.
    """
    leaves = list(_BLOCK_KEYS)
    if header.layer_scale:
        leaves += ["ls1.gamma", "ls2.gamma"]
    if header.relative_position:
        leaves.append("attn.relative_position_bias_table")
    keys = {f"blocks.{i}.{leaf}" for i in range(header.depth) for leaf in leaves}
    keys |= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    if header.final_norm != "none":
        keys |= {f"{header.final_norm}.weight", f"{header.final_norm}.bias"}
    if header.position != "none":
        keys.add("pos_embed")
    if header.class_token:
        keys.add("cls_token")
    if header.registers:
        keys.add("reg_token")
    return keys


def save_backbone(path: str | Path, state: dict[str, torch.Tensor], header: BackboneHeader) -> None:
    """Write a backbone file atomically (temporary file, then rename).

    Args:
        path: Target, usually ``*.safetensors``.
        state: Encoder tensors under timm names.
        header: What the tensors cannot tell.

    Raises:
        UserError: If keys are missing or unexpected, a value is not finite, or the file cannot be written.
    """
    _check_keys(set(state), header, str(path))
    if bad := [k for k, v in state.items() if not torch.isfinite(v).all()]:
        raise UserError(f"{path}: not written, {bad[0]} holds values that are not finite: training diverged")
    target = Path(path)
    temporary = target.with_name(target.name + ".part")
    tensors = {k: v.detach().to("cpu", torch.float32).clone().contiguous() for k, v in state.items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(temporary), metadata={HEADER_KEY: header.to_json()})
        os.replace(temporary, target)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error}); choose another place") from None


def load_backbone(path: str | Path) -> tuple[dict[str, torch.Tensor], BackboneHeader]:
    """Read a backbone file and check that it holds exactly one whole encoder.

    Args:
        path: A file that :func:`save_backbone` wrote.

    Returns:
        Tensors under timm names (float32, CPU) and the header.

    Raises:
        UserError: If the file is missing, damaged, not a backbone file, or incomplete.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such backbone file; make one with `cmae-mm export CHECKPOINT --out FILE`"
        )
    try:
        with safe_open(str(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}); a training checkpoint (.pth) becomes one with "
            f"`cmae-mm export CHECKPOINT --out FILE`"
        ) from None
    if HEADER_KEY not in metadata:
        raise UserError(f"{path}: has no {HEADER_KEY} header, so it is not a backbone file; export it again")
    header = BackboneHeader.from_json(metadata[HEADER_KEY], str(path))
    _check_keys(set(state), header, str(path))
    return state, header


def sha256_of(path: str | Path) -> str:
    """Returns: The SHA-256 of a file in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def depth_of(keys: set[str]) -> int:
    """Returns: The number of blocks that a set of timm keys names."""
    numbers = {int(m.group(1)) for k in keys if (m := re.match(r"blocks\.(\d+)\.", k))}
    return max(numbers) + 1 if numbers else 0


def _check_keys(keys: set[str], header: BackboneHeader, where: str) -> None:
    expected = expected_keys(header)
    missing, unexpected = sorted(expected - keys), sorted(keys - expected)
    if missing or unexpected:
        raise UserError(
            f"{where}: not a whole encoder of {header.depth} blocks: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}; export it again from the full checkpoint"
        )
