"""Multi-View MAE against its parts computed one by one."""

import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain import MultiViewMAE, PlainMAE, random_mask
from cmae_mm.pretrain.contrast import nt_xent

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
ENCODER = dict(type="CMAEViT", arch=ARCH, img_size=32, patch_size=4, mask_kind="random", mask_ratio=0.8)
DECODER = dict(
    type="CMAEPixelDecoder",
    num_patches=64,
    patch_size=4,
    embed_dim=24,
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=2,
)
PROJECTOR = dict(
    type="NonLinearNeck",
    in_channels=24,
    hid_channels=32,
    out_channels=8,
    with_last_bn=False,
    with_avg_pool=False,
    norm_cfg=dict(type="BN1d"),
)


def build(**changes):
    config = dict(
        backbone=ENCODER,
        pixel_decoder=DECODER,
        projector=PROJECTOR,
        head=dict(type="MultiViewPretrainHead", patch_size=4),
    )
    model = MultiViewMAE(**{**config, **changes})
    model.init_weights()
    return model.train()


@pytest.fixture
def batch():
    views = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)]
    return views, [random_mask(4, 8, 0.8), random_mask(4, 8, 0.8)]


@pytest.mark.parametrize("decode", ["both", "first"])
@pytest.mark.parametrize("pool", ["cls", "avg"])
def test_losses_view_by_view(batch, pool, decode):
    views, masks = batch
    model = build(pool=pool, decode_views=decode)
    losses = model.loss(views, masks=masks)
    pixel, projections = [], []
    for view, mask in zip(views, masks, strict=True):
        latent = model.backbone(view, mask)[0]
        pixel.append(model.head.reconstruction_loss(model.pixel_decoder(latent, mask), view, mask))
        token = latent[:, 0] if pool == "cls" else latent[:, 1:].mean(1)
        projections.append(model.projector((token,))[0])
    expected = sum(pixel) / 2 if decode == "both" else pixel[0]
    torch.testing.assert_close(losses["loss_rec"], expected, atol=1e-6, rtol=0)
    contrast = nt_xent(*projections, 0.1)
    torch.testing.assert_close(losses["loss_con"], 2.0 * contrast.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses["con_acc"], contrast.accuracy)


def test_equals_mae_without_contrast_on_one_image_twice(batch):
    views, masks = batch
    ours = build(projector=None)
    mae = PlainMAE(
        backbone=ENCODER,
        neck=DECODER,
        head=dict(type="HiddenPixelHead", patch_size=4),
    )
    state = {k.replace("pixel_decoder.", "neck."): v for k, v in ours.state_dict().items()}
    mae.load_state_dict(state, strict=True)
    twice = ours.loss([views[0], views[0]], masks=[masks[0], masks[0]])
    once = mae.loss(views[0], masks=masks[0])
    assert set(twice) == set(once) | {"raw_rec"}
    torch.testing.assert_close(twice["loss_rec"], once["loss_rec"], atol=1e-6, rtol=0)


def test_each_view_has_a_mask_of_its_own(batch, monkeypatch):
    model = build()
    drawn = []
    draw = model.backbone.draw_mask
    monkeypatch.setattr(model.backbone, "draw_mask", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    model.loss(batch[0])
    (mask,) = drawn
    assert mask.ids_keep.shape == (8, 12)  # int(64 * 0.2) patches
    assert not torch.equal(mask.mask[:4], mask.mask[4:])


@pytest.mark.parametrize("pool", ["cls", "avg"])
def test_every_parameter_gets_a_gradient(batch, pool):
    model = build(pool=pool)
    losses = model.loss(batch[0])
    (losses["loss_rec"] + losses["loss_con"]).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_mistakes_are_explained():
    with pytest.raises(UserError, match=r"model\.pool"):
        build(pool="max")
    with pytest.raises(UserError, match="decode_views"):
        build(decode_views="second")
