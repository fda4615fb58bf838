"""Pretraining components, registered in mmpretrain."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)
