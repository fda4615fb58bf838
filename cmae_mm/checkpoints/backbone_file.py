"""Read and write the canonical backbone file: safetensors, timm key names, a JSON header.

It is the one thing that crosses from pretraining to transfer. Nothing in it can be executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.checkpoints.staged import staged_shapes
from cmae_mm.errors import UserError

HEADER_KEY = "cmae_mm"
_REAL_TYPES = frozenset(  # as torch calls them, and as safetensors does
    ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "F16", "BF16", "F32", "F64")
)
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
    if header.kind != "vit":
        return set(staged_shapes(header))
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


def expected_shape(key: str, header: BackboneHeader) -> tuple[int, ...]:
    """The shape of one tensor of an encoder of this architecture.

    Args:
        key: One of :func:`expected_keys`.
        header: Architecture.

    Returns:
        The shape.
    """
    if header.kind != "vit":
        return staged_shapes(header)[key]
    width, leaf = header.width, key.split(".", 2)[-1] if key.startswith("blocks.") else key
    inner = header.hidden // 2 if header.mlp == "swiglu" else header.hidden
    rows = header.grid**2 + (header.class_token and header.position == "class_row")
    return {
        "pos_embed": (1, rows, width),
        "cls_token": (1, 1, width),
        "reg_token": (1, header.registers, width),
        "patch_embed.proj.weight": (width, 3, header.patch, header.patch),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.relative_position_bias_table": (
            (2 * header.grid - 1) ** 2 + 3 * header.class_token,
            header.heads,
        ),
        "mlp.fc1.weight": (header.hidden, width),
        "mlp.fc1.bias": (header.hidden,),
        "mlp.fc2.weight": (width, inner),
    }.get(leaf, (width,))


def save_backbone(path: str | Path, state: dict[str, torch.Tensor], header: BackboneHeader) -> None:
    """Write a backbone file atomically (temporary file, then rename).

    Tensors that are float32 on the CPU already are written from where they are.

    Args:
        path: Target, usually ``*.safetensors``.
        state: Encoder tensors of real numbers, under timm names.
        header: What the tensors cannot tell.

    Raises:
        UserError: If keys are missing or unexpected, a tensor has another shape or type than the header says, a
            value is not finite, or the file cannot be written.
    """
    header.check(str(path))
    check_tensors({k: (str(v.dtype), tuple(v.shape)) for k, v in state.items()}, header, str(path))
    target = Path(path)
    temporary = target.with_name(target.name + ".part")
    tensors = _plain(state, path)
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

    Names, types and shapes are compared with the header before any tensor is read.

    Args:
        path: A file that :func:`save_backbone` wrote.

    Returns:
        Tensors under timm names (float32, CPU) and the header.

    Raises:
        UserError: If the file is missing, damaged, not a backbone file, incomplete, or not what its header says.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such backbone file; make one with `cmae-mm import CHECKPOINT --out FILE`"
        )
    advice = "a training checkpoint (.pth) becomes one with `cmae-mm import CHECKPOINT --out FILE`"
    with open_safetensors(path, advice) as handle:
        text = (handle.metadata() or {}).get(HEADER_KEY)
        if text is None:
            raise UserError(
                f"{path}: has no {HEADER_KEY} header, so it is not a backbone file; export it again"
            )
        header = BackboneHeader.from_json(text, str(path))
        parts = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
        described = {k: (p.get_dtype(), tuple(p.get_shape())) for k, p in parts.items()}
        check_tensors(described, header, str(path))
        state = {key: handle.get_tensor(key).to(torch.float32) for key in parts}
    return state, header


def check_tensors(
    described: Mapping[str, tuple[str, tuple[int, ...]]], header: BackboneHeader, where: str
) -> None:
    """Compare names, types and shapes with the header.

    Args:
        described: Type (as torch or safetensors call it) and shape of each tensor.
        header: What they must be.
        where: Named in the error message.

    Raises:
        UserError: If a key is missing or unexpected, or a tensor has another shape or no real numbers.
    """
    expected = expected_keys(header)
    missing, unexpected = sorted(expected - set(described)), sorted(set(described) - expected)
    if missing or unexpected:
        raise UserError(
            f"{where}: not a whole encoder of {header.depth} blocks: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {[k[:60] for k in unexpected[:3]]}; export it again from the full checkpoint"
        )
    for key, (dtype, shape) in sorted(described.items()):
        if dtype not in _REAL_TYPES:
            raise UserError(
                f"{where}: {key} holds {dtype} values, but weights are real numbers; export it again from the full "
                f"checkpoint"
            )
        if shape != (right := expected_shape(key, header)):
            raise UserError(
                f"{where}: {key} has the shape {shape}, but the header describes {right}; export it again from the "
                f"full checkpoint"
            )


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


def _plain(state: dict[str, torch.Tensor], path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors as float32 on the CPU, contiguous, no two in the same memory; copied only where that needs it."""
    plain: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().to("cpu", torch.float32).contiguous()
        # NaN is the lowest and highest of what holds it; unlike isfinite() this takes no memory of its own
        if not all(math.isfinite(end) for end in tensor.aminmax()):
            raise UserError(f"{path}: not written, {key} holds values that are not finite: training diverged")
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        plain[key] = tensor
    return plain
