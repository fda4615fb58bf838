"""Pretraining components, registered in mmpretrain."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)
from cmae_mm.pretrain.backbone import CMAEViT
from cmae_mm.pretrain.base import PretrainModel, Reconstruction
from cmae_mm.pretrain.cmae import CMAE
from cmae_mm.pretrain.data_preprocessor import (
    CMAEDataPreprocessor,
    MultiViewDataPreprocessor,
    SingleViewDataPreprocessor,
)
from cmae_mm.pretrain.heads import CMAEPretrainHead, HiddenPixelHead, MultiViewPretrainHead
from cmae_mm.pretrain.hybrid import CMAEHybridViT
from cmae_mm.pretrain.mae import PlainMAE
from cmae_mm.pretrain.masking import Mask, block_mask, random_mask
from cmae_mm.pretrain.multi_view_mae import MultiViewMAE
from cmae_mm.pretrain.necks import CMAEFeatureDecoder, CMAEPixelDecoder, SharedFeatureDecoder, VisibleMean
from cmae_mm.pretrain.presets import PRESETS

__all__ = [
    "CMAE",
    "PRESETS",
    "CMAEDataPreprocessor",
    "CMAEFeatureDecoder",
    "CMAEHybridViT",
    "CMAEPixelDecoder",
    "CMAEPretrainHead",
    "CMAEViT",
    "HiddenPixelHead",
    "Mask",
    "MultiViewDataPreprocessor",
    "MultiViewMAE",
    "MultiViewPretrainHead",
    "PlainMAE",
    "PretrainModel",
    "Reconstruction",
    "SharedFeatureDecoder",
    "SingleViewDataPreprocessor",
    "VisibleMean",
    "block_mask",
    "random_mask",
]
