"""An encoder under observation: attention of every head and tokens of every block, in one forward pass."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.checkpoints import load_backbone
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError
from cmae_mm.transfer.analysis.attention import (
    among_patches,
    attention_distance,
    attention_maps,
    attention_nmi,
    patch_distances,
)
from cmae_mm.transfer.attention import TableAttention
from cmae_mm.transfer.imagenet import ImageNetViT


class ObservedEncoder:
    """A ViT whose blocks are looked at.

    Args:
        name: For the record and the pictures.
        cfg: Config of a classifier with ``ImageNetViT``.
        file: Backbone file, or checkpoint (.pth) of a run of this config; None keeps random weights.

    Attributes:
        distance: For each batch, (B, layers, heads): mean attention distance in pixels.
        nmi: The same of the normalised mutual information.

    Raises:
        UserError: The config has another backbone, or the file does not fit.
    """

    def __init__(self, name: str, cfg: Any, file: str | None) -> None:
        self.name, self.file = name, file
        if cfg.model.get("backbone", {}).get("type") not in (ImageNetViT, "ImageNetViT"):
            raise UserError(
                f"{cfg.filename}: its backbone is no ImageNetViT; use a config of an ImageNet ViT"
            )
        self.vit = _build(cfg, file).to(get_device()).eval().requires_grad_(False)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            stats = cfg.model.get("data_preprocessor") or cfg.data_preprocessor
            self.preprocess = MODELS.build({"type": "ClsDataPreprocessor", **stats}).to(get_device())
        self.grid = tuple(self.vit.patch_resolution)
        self.patch = self.vit.patch_embed.projection.kernel_size[0]
        self._distances = patch_distances(self.grid, self.patch)
        self.distance: list[Tensor] = []
        self.nmi: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._heads: list[tuple[Tensor, Tensor]] = []
        for block in self.vit.layers:
            block.register_forward_hook(self._keep_tokens)
            block.attn.qkv.register_forward_hook(partial(self._keep_attention, block.attn))

    def observe(self, images: Tensor) -> list[Tensor]:
        """Run a batch.

        Args:
            images: (B, 3, H, W) uint8 BGR, as a test pipeline makes them.

        Returns:
            Tokens (B, 1 + patches, C) after each block; the last ones with the encoder's own norm if there is one.
        """
        self._tokens, self._heads = [], []
        with torch.no_grad():
            (last,) = self.vit(self.preprocess({"inputs": images}, False)["inputs"])
        self.distance.append(torch.stack([d for d, _ in self._heads], dim=1).cpu())
        self.nmi.append(torch.stack([n for _, n in self._heads], dim=1).cpu())
        return [*self._tokens[:-1], last]

    def _keep_tokens(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self._tokens.append(output)

    def _keep_attention(self, attention: nn.Module, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        bias = attention.bias_of(self.grid) if isinstance(attention, TableAttention) else 0.0
        maps = attention_maps(output, self.vit.num_heads, bias)
        weights = among_patches(maps, self.vit.num_extra_tokens)
        self._heads.append((attention_distance(weights, self._distances), attention_nmi(weights)))


def _build(cfg: Any, file: str | None) -> ImageNetViT:
    state = None
    if file is not None and Path(file).suffix != ".safetensors":
        whole = load_checkpoint(file).get("state_dict", {})
        state = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.")}
    options = {k: v for k, v in cfg.model.backbone.items() if k not in ("type", "frozen_stages", "init_cfg")}
    options |= {
        "out_type": "raw",
        "final_norm": state is None or "ln1.weight" in state,
        "drop_path_rate": 0.0,
        "trainable_blocks": None,
        "backbone_file": file if state is None else None,
    }
    if file is not None and state is None:
        options = {**ImageNetViT.parts_of(load_backbone(file)[1]), **options}
    vit = ImageNetViT(**options)
    if file is None:
        vit.init_weights()
    if state is None:
        vit.load_backbone_file()
        return vit
    own = vit.state_dict()
    fitting = {
        k: v for k, v in state.items() if not k.startswith("ln2.")
    }  # the norm after pooling is not looked at
    if fitting.keys() != own.keys() or any(fitting[k].shape != own[k].shape for k in own):
        raise UserError(
            f"{file}: its backbone does not fit {cfg.filename}; use the config that it was trained with"
        )
    vit.load_state_dict(fitting)
    return vit
