"""Transfer of a backbone file to ImageNet, COCO and ADE20K."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which every mm* package imports)
