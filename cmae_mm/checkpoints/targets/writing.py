"""Write an exported encoder in the form in which its library reads files, and say how."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.huggingface import hf_config, to_hf
from cmae_mm.checkpoints.targets.mmdet import to_mmdet
from cmae_mm.checkpoints.targets.mmpretrain import mmpretrain_config, to_mmpretrain
from cmae_mm.checkpoints.targets.mmseg import mmseg_config, to_mmseg
from cmae_mm.checkpoints.targets.parts import Tensors
from cmae_mm.checkpoints.targets.swin import swin_config
from cmae_mm.checkpoints.targets.timm import timm_call, to_timm
from cmae_mm.errors import UserError

# What a library's own loaders read: timm safetensors, mmengine only what torch.save wrote, transformers a folder.
SUFFIXES = {"timm": ".timm.safetensors", "mmpretrain": ".mmpretrain.pth", "mmseg": ".mmseg.pth"}
SUFFIXES |= {"mmdet": ".mmdet.pth", "hf": ".hf"}


def convert(state: Tensors, header: BackboneHeader, to: str, model: str = "MAE") -> Tensors:
    """Bring an encoder under the names of a library.

    Args:
        state: Tensors of a backbone file.
        header: Its header.
        to: A key of `SUFFIXES`.
        model: For mmseg and plain ViTs: the class of its backbone.

    Returns:
        State dict of the library's model.

    Raises:
        UserError: If the library has no model for this encoder.
    """
    convertors: dict[str, Callable[[], Tensors]] = {
        "timm": lambda: to_timm(state, header),
        "mmpretrain": lambda: to_mmpretrain(state, header),
        "mmseg": lambda: to_mmseg(state, header, model),  # type: ignore[arg-type]
        "mmdet": lambda: to_mmdet(state, header),
        "hf": lambda: to_hf(state, header),
    }
    return convertors[to]()


def write(state: Tensors, header: BackboneHeader, to: str, out: Path) -> None:
    """Write a state dict atomically: as safetensors if the name ends so, else for ``torch.load``; ``hf`` is a folder.

    Args:
        state: From `convert`.
        header: Of the encoder.
        to: A key of `SUFFIXES`.
        out: File or folder.

    Raises:
        UserError: If it cannot be written.
    """
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if to == "hf":
            _write_folder(state, header, part)
            if out.is_dir():
                for file in part.iterdir():
                    os.replace(file, out / file.name)
                part.rmdir()
                return
        elif out.suffix == ".safetensors":
            save_file(_apart(state), part, metadata={"format": "pt"})
        else:
            meta = {"cmae_mm": header.to_json()}
            # ViTDet's code looks under "model", mmengine under "state_dict"; the tensors are stored once
            torch.save({"meta": meta, "state_dict": state, "model": state}, part)
        os.replace(part, out)
    except (OSError, RuntimeError) as error:  # torch tells a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        raise UserError(
            f"{out}: cannot be written ({str(error).splitlines()[0][:150]}); choose another --out"
        ) from None


def _write_folder(state: Tensors, header: BackboneHeader, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_file(_apart(state), folder / "model.safetensors", metadata={"format": "pt"})
    processor = dict(
        image_processor_type="ViTImageProcessor",
        do_resize=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[value / 255 for value in header.mean],
        image_std=[value / 255 for value in header.std],
        size=dict(height=header.image_size, width=header.image_size),
    )
    for name, content in (("config.json", hf_config(header)), ("preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def _apart(state: Tensors) -> Tensors:
    """Contiguous tensors, no two in the same memory, as safetensors wants them; copied only where that needs it."""
    apart: Tensors = {}
    taken: set[int] = set()
    for key, value in state.items():
        tensor = value.contiguous()
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        apart[key] = tensor
    return apart


def how_to_load(header: BackboneHeader, to: str, out: Path, model: str = "MAE") -> list[str]:
    """Say how the library builds the model and reads the file.

    Args:
        header: Of the encoder.
        to: A key of `SUFFIXES`.
        out: What `write` wrote.
        model: See `convert`.

    Returns:
        Lines of code, and of what code does not show.
    """
    if to == "timm":
        name, words = timm_call(header)
        arguments = "".join(f", {key}={value!r}" for key, value in words.items())
        lines = [
            f"model = timm.create_model({name!r}, num_classes=0{arguments})",
            f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}))",
        ]
        usual = 1e-5 if header.kind == "swin" else 1e-6
        return lines + (
            [f"# its norms need an epsilon of {header.ln_eps:g}"] if header.ln_eps != usual else []
        )
    if to == "hf":
        return [f"model = transformers.{hf_config(header)['architectures'][0]}.from_pretrained({str(out)!r})"]
    config = _config(header, to, model)
    config["init_cfg"] = dict(type="Pretrained", checkpoint=str(out))
    lines = [f"backbone = dict({', '.join(f'{key}={value!r}' for key, value in config.items())})"]
    return lines + (
        ["# this is ViTDet's ViT; CMAEViTDet of this suite reads the backbone file itself"]
        if to == "mmdet" and header.kind == "vit"
        else []
    )


def _config(header: BackboneHeader, to: str, model: str) -> dict[str, Any]:
    if header.kind == "swin" and to != "mmpretrain":
        return swin_config(header, dense=True)
    if to == "mmpretrain":
        return mmpretrain_config(header)
    if to == "mmseg":
        return mmseg_config(header, model)  # type: ignore[arg-type]
    return dict(
        type="ViT",
        patch_size=header.patch,
        embed_dim=header.width,
        depth=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden / header.width,
        pretrain_img_size=header.image_size,
        norm_cfg=dict(type="LN", eps=header.ln_eps),
    )
