"""Pretraining components, registered in mmpretrain."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)
from cmae_mm.pretrain.backbone import CMAEViT
from cmae_mm.pretrain.cmae import CMAE, Reconstruction
from cmae_mm.pretrain.data_preprocessor import CMAEDataPreprocessor
from cmae_mm.pretrain.heads import CMAEPretrainHead
from cmae_mm.pretrain.masking import Mask, block_mask, random_mask
from cmae_mm.pretrain.necks import CMAEFeatureDecoder, CMAEPixelDecoder
from cmae_mm.pretrain.presets import PRESETS

__all__ = [
    "CMAE",
    "PRESETS",
    "CMAEDataPreprocessor",
    "CMAEFeatureDecoder",
    "CMAEPixelDecoder",
    "CMAEPretrainHead",
    "CMAEViT",
    "Mask",
    "Reconstruction",
    "block_mask",
    "random_mask",
]
