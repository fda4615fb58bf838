"""ImageNet transfer: mmpretrain's ViT and Swin and the hybrid ViT, started from a backbone file."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS

import cmae_mm.compat  # noqa: F401  (before torchvision)
from cmae_mm.checkpoints import BackboneHeader, load_into
from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.errors import UserError
from cmae_mm.layers.conv_stages import CONV_EPS, ConvBlock
from cmae_mm.transfer.hybrid import CMAEHybridViTDet
from cmae_mm.transfer.partial import check_trainable_blocks, freeze, set_frozen_to_eval
from cmae_mm.transfer.relative_vit import drop_positions, parts_of, use_relative_positions
from cmae_mm.transfer.swin import StartsFromSwinFile


@MODELS.register_module()
class ImageNetViT(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` whose weights come from a backbone file.

    The norm after pooling (``ln2``, present with ``out_type="avg_featmap"``) is always new: no
    pretraining has it. The norm of all tokens (``ln1``) is used where ``final_norm`` is on.

    Args:
        backbone_file: Backbone file; None starts from random weights.
        trainable_blocks: Partial fine-tuning: only so many of the last blocks learn, and the norms after them. Half a
            block is its MLP. The frozen part is in evaluation mode and keeps no activations. None trains everything.
        relative_positions: A bias table in each block, and no bias of keys: BEiT, data2vec, SimMIM's ViT, CAE.
        positions: Whether there is a position table for the tokens; of those encoders CAE has one.
        **kwargs: See mmpretrain.

    Raises:
        UserError: If ``trainable_blocks`` is out of range, or given beside ``frozen_stages``.
    """

    def __init__(
        self,
        backbone_file: str | None = None,
        trainable_blocks: float | None = None,
        relative_positions: bool = False,
        positions: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if relative_positions:
            use_relative_positions(self)
        if not positions:
            drop_positions(self)
        if self.frozen_stages > 0:
            self._freeze_stages()  # what has come since
        self.backbone_file = backbone_file
        self.trainable_blocks = trainable_blocks
        if trainable_blocks is None:
            return
        check_trainable_blocks(trainable_blocks, self.num_layers)
        if self.frozen_stages > 0:
            raise UserError(
                "model.backbone: trainable_blocks and frozen_stages both say what is frozen; give one of them"
            )
        freeze(self, trainable_blocks)

    def train(self, mode: bool = True) -> ImageNetViT:
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.trainable_blocks is not None:
            set_frozen_to_eval(self, self.trainable_blocks)
        return self

    @staticmethod
    def parts_of(header: BackboneHeader) -> dict[str, Any]:
        """Returns: Options that an encoder needs beside its sizes; ``--backbone`` sets them."""
        return parts_of(header)

    @property
    def num_heads(self) -> int:
        """Attention heads, compared with the file's."""
        return int(self.arch_settings["num_heads"])

    def init_weights(self) -> None:
        """Initialise, then load the backbone file.

        Raises:
            UserError: If the file holds another architecture.
        """
        super().init_weights()
        if not isinstance(self.pos_embed, torch.nn.Parameter):
            self.pos_embed.zero_()  # drawn like the others
        self.load_backbone_file()

    def load_backbone_file(self) -> None:
        """Load the backbone file, if there is one, and log the report.

        Raises:
            UserError: If the file holds another architecture.
        """
        if self.backbone_file:
            report = load_into(self, self.backbone_file, rename=timm_name, optional=(r"^norm\.", r"^ln2\."))
            print_log(str(report), logger="current")


@MODELS.register_module()
class ImageNetHybrid(CMAEHybridViTDet):
    """The hybrid ViT as ConvMAE fine-tunes it: mean of all cells, without the encoder's norm, and a new norm.

    Attention is global, without relative positions, and epsilons are those of pretraining.

    Args:
        **kwargs: See :class:`~cmae_mm.transfer.hybrid.CMAEHybridViTDet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("img_size", 224)
        kwargs.setdefault("pretrain_img_size", kwargs["img_size"])
        super().__init__(**{"rel_pos": "none", "window_blocks": (), **kwargs})
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.norm1.eps = module.norm2.eps = CONV_EPS
        self.fc_norm = torch.nn.LayerNorm(self.patch_embed4.out_features, eps=1e-6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode images (B, 3, H, W), normalised, to one tensor (B, C)."""
        return (self.fc_norm(super().forward(x)[0].mean((2, 3))),)


@MODELS.register_module()
class ImageNetSwin(StartsFromSwinFile, SwinTransformer):
    """mmpretrain's ``SwinTransformer``, started from a backbone file; tables fit any window."""


@MODELS.register_module()
class PooledBatchNorm(torch.nn.BatchNorm1d):
    """Batch norm without scale and shift on pooled features, before a linear probe (MAE, A.1).

    It re-scales features that pretraining leaves at any scale, and adds no capacity.

    Args:
        in_channels: Feature width.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, affine=False, eps=1e-6)

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Normalise each tensor of the tuple.

        Args:
            inputs: Tensors of shape (N, C).

        Returns:
            Tensors of the same shapes.
        """
        return tuple(super(PooledBatchNorm, self).forward(x) for x in inputs)
