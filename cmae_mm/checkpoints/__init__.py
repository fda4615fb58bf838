"""The backbone file: the only thing that crosses from pretraining to transfer."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm and mmpretrain import)
from cmae_mm.checkpoints.backbone_file import load_backbone, save_backbone, sha256_of
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.loading import LoadReport, load_into

__all__ = ["BackboneHeader", "LoadReport", "load_backbone", "load_into", "save_backbone", "sha256_of"]
