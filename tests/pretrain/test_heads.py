"""Heads against slow loops and mmpretrain's own."""

import math

import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain.contrast import info_nce
from cmae_mm.pretrain.heads import CMAEPretrainHead, HiddenPixelHead, MultiViewPretrainHead
from cmae_mm.pretrain.masking import mask_from_removed, random_mask

MLP = dict(
    type="NonLinearNeck",
    in_channels=8,
    hid_channels=16,
    out_channels=8,
    with_last_bn=False,
    with_avg_pool=False,
    norm_cfg=dict(type="BN1d", eps=1e-6),
)


def head(**kwargs):
    return CMAEPretrainHead(predictor=MLP, patch_size=4, **kwargs)


def test_patchify_layout_and_inverse():
    images = torch.randn(2, 3, 8, 12)[..., :8]
    tokens = head().patchify(images)
    assert tokens[1, 3, (2 * 4 + 1) * 3 + 2] == images[1, 2, 4 + 2, 4 + 1]  # (row, column, channel)
    assert torch.equal(head().unpatchify(tokens), images)


def test_reconstruction_loss_by_hand():
    images, removed = torch.randn(2, 3, 8, 8), torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    images[0, :, :4, :4] = 0.3  # a constant patch: no division by zero
    masks = mask_from_removed(removed, kept=2)
    pred = torch.randn(2, 2, 48)
    total = 0.0
    for n in range(2):
        for k, patch in enumerate(i for i in range(4) if removed[n, i] == 1):
            row, col = divmod(patch, 2)
            values = [
                images[n, c, 4 * row + p, 4 * col + q].item()
                for p in range(4)
                for q in range(4)
                for c in range(3)
            ]
            mean = sum(values) / 48
            std = math.sqrt(sum((v - mean) ** 2 for v in values) / 47 + 1e-6)  # unbiased
            total += sum((pred[n, k, i].item() - (v - mean) / std) ** 2 for i, v in enumerate(values)) / 48
    ours = HiddenPixelHead(patch_size=4).reconstruction_loss(pred, images, masks)
    assert ours.item() == pytest.approx(total / 4, abs=1e-4)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize(("side", "patch", "ratio"), [(32, 4, 0.75), (56, 14, 0.5), (64, 8, 0.8)])
def test_equals_the_head_of_mmpretrain(side, patch, ratio, norm_pix):
    from mmpretrain.models import MAEPretrainHead

    theirs = MAEPretrainHead(
        loss=dict(type="PixelReconstructionLoss", criterion="L2"), norm_pix=norm_pix, patch_size=patch
    )
    images = torch.randn(3, 3, side, side)
    masks = random_mask(3, side // patch, ratio)
    pred = torch.randn(3, (side // patch) ** 2, 3 * patch**2)
    hidden = torch.stack([pred[n][masks.mask[n] == 1] for n in range(3)])
    ours = HiddenPixelHead(patch_size=patch, norm_pix=norm_pix).loss(hidden, images, masks)
    torch.testing.assert_close(ours["loss_rec"], theirs.loss(pred, images, masks.mask), atol=1e-6, rtol=1e-6)


def arguments():
    masks = random_mask(6, 2, 0.5)
    return torch.randn(6, 2, 48), torch.randn(6, 3, 8, 8), masks, torch.randn(6, 8), torch.randn(6, 8)


def test_scale_and_weight():
    released, paper = head(), head(contrastive_scale="1")
    half = head(con_weight=0.5, rec_weight=2.0)
    for other in (paper, half):
        other.load_state_dict(released.state_dict())
    args = arguments()
    one, two, three = (module.loss(*args) for module in (released, paper, half))
    torch.testing.assert_close(one["loss_con"], 0.14 * two["loss_con"])
    torch.testing.assert_close(two["loss_con"].detach(), two["raw_con"])
    torch.testing.assert_close(three["loss_con"], 0.5 * one["loss_con"])
    torch.testing.assert_close(three["loss_rec"], 2.0 * one["loss_rec"])
    for name in ("raw_rec", "raw_con", "con_acc", "pos_sim", "neg_sim", "feat_std", "target_std"):
        assert torch.equal(one[name], three[name])  # before weights
        assert one[name].ndim == 0
        assert not one[name].requires_grad
    query = released.predictor((args[3],))[0]
    torch.testing.assert_close(two["loss_con"], info_nce(query, args[4], 0.07).loss)


def test_byol_is_not_scaled():
    byol = head(contrast="byol")
    losses = byol.loss(*arguments())
    assert byol.scale == 1
    torch.testing.assert_close(losses["loss_con"].detach(), losses["raw_con"])
    assert 0 < losses["raw_con"].item() < 4


@pytest.mark.parametrize("contrast", ["infonce", "byol"])
def test_no_gradient_reaches_the_targets(contrast):
    pred, images, masks, projection, target = arguments()
    projection.requires_grad_()
    target.requires_grad_()
    head(contrast=contrast).loss(pred, images, masks, projection, target)["loss_con"].backward()
    assert projection.grad.abs().sum() > 0
    assert target.grad is None


def test_unknown_choices_are_explained():
    with pytest.raises(UserError, match="contrastive_scale"):
        head(contrastive_scale="2")
    with pytest.raises(UserError, match=r"head\.contrast "):
        head(contrast="simclr")


def test_two_views_without_contrast_have_the_pixel_loss_alone():
    pred, images, masks, first, second = arguments()
    two = MultiViewPretrainHead(patch_size=4)
    plain = two.loss(pred, images, masks, None)
    assert set(plain) == {"loss_rec", "raw_rec"}
    whole = two.loss(pred, images, masks, (first, second))
    torch.testing.assert_close(whole["loss_con"].detach(), 2 * whole["raw_con"])
    # one below the other: the mean over both halves is the mean of the halves' losses
    from cmae_mm.pretrain import Mask

    halves = [
        two.reconstruction_loss(pred[part], images[part], Mask(*(m[part] for m in masks)))
        for part in (slice(3), slice(3, None))
    ]
    torch.testing.assert_close(plain["loss_rec"], (halves[0] + halves[1]) / 2)


def test_restored_pixels_of_a_perfect_prediction():
    images = torch.randn(2, 3, 8, 8)
    perfect = head().construct_target(images)
    torch.testing.assert_close(head().restore_pixels(perfect, images), images, atol=1e-5, rtol=0)
