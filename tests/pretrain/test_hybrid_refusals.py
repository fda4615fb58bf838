"""What the hybrid encoder refuses, in a sentence."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain.hybrid import CMAEHybridViT
from cmae_mm.pretrain.masking import Mask, random_mask

ARCH = dict(widths=(8, 12, 16), depths=(2, 1, 2), mlp_ratios=(4, 2, 3), heads=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(arch="h"), "backbone.arch is 'h'"),
        (dict(arch=dict(widths=(8, 12, 16))), "has the fields"),
        (dict(arch=dict(ARCH, depths=(1, 1))), "three values each"),
        (dict(arch=dict(ARCH, heads=5)), "multiple of 4 and of heads, 5"),
        (dict(img_size=100), "100 x 100 px cannot be cut into cells of 16 px"),
        (dict(patch_sizes=(4, 4)), "give three sides"),
        (dict(mask_kind="stripes"), "mask_kind is 'stripes'"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(UserError, match=words):
        CMAEHybridViT(**{"arch": ARCH, "img_size": 64, **options})


def test_wrong_images_and_masks_are_named():
    model = CMAEHybridViT(ARCH, img_size=64)
    with pytest.raises(UserError, match="60 x 64 px cannot be cut"):
        model(torch.randn(1, 3, 60, 64), None)
    other = Mask(*(m[:, :9] for m in random_mask(2, 4, 0.5)))
    with pytest.raises(UserError, match="the images need"):
        model(torch.randn(2, 3, 64, 64), other)
