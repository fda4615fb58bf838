"""The choices of CMAE beside the released ones: hybrid encoder, masked target, pooling, momentum by name."""

import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain import CMAE, block_mask

HYBRID = dict(
    type="CMAEHybridViT",
    arch=dict(widths=(8, 16, 32), depths=(1, 1, 2), heads=2, mlp_ratios=(2, 2, 2)),
    img_size=64,
    mask_kind="block",
    mask_ratio=0.5,
)


def mlp(width):
    return dict(
        type="NonLinearNeck",
        in_channels=width,
        hid_channels=24,
        out_channels=8,
        with_last_bn=False,
        with_avg_pool=False,
        norm_cfg=dict(type="BN1d"),
    )


def hybrid_cmae():
    decoder = dict(
        num_patches=16,
        patch_size=16,
        embed_dim=32,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        class_token=False,
    )
    model = CMAE(
        backbone=HYBRID,
        pixel_decoder=dict(type="CMAEPixelDecoder", **decoder),
        feature_decoder=dict(type="CMAEFeatureDecoder", **decoder),
        projector=mlp(32),
        head=dict(type="CMAEPretrainHead", predictor=mlp(8)),
    )
    model.init_weights()
    return model.train()


def test_hybrid_target_has_neither_fusion_nor_final_norm():
    model = hybrid_cmae()
    online = {n for n, _ in model.backbone.named_parameters()}
    target = {n for n, _ in model.target_backbone.named_parameters()}
    assert target < online
    assert {n.split(".")[0] for n in online - target} == {
        "stage1_output_decode",
        "stage2_output_decode",
        "ln1",
    }
    assert all(
        torch.equal(p, model.backbone.get_parameter(n)) for n, p in model.target_backbone.named_parameters()
    )


def test_hybrid_step_and_momentum_by_name():
    model = hybrid_cmae()
    images = [torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64)]
    losses = model.loss(images)
    (losses["loss_rec"] + losses["loss_con"]).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += torch.randn_like(parameter)
    before = {n: p.clone() for n, p in model.target_backbone.named_parameters()}
    model.momentum_update()
    for name, parameter in model.target_backbone.named_parameters():
        expected = 0.996 * before[name] + 0.004 * model.backbone.get_parameter(name)
        torch.testing.assert_close(parameter, expected, atol=1e-6, rtol=0)
    assert model.pool_feat(images[0]).shape == (4, 32)
    assert model.reconstruct(images[0]).image.shape == images[0].shape


def test_a_hybrid_encoder_goes_into_a_backbone_file_and_back(tmp_path):
    """Loaded into a new encoder without fusion it gives the same tokens, bit by bit."""
    from types import SimpleNamespace

    from cmae_mm.checkpoints import load_backbone
    from cmae_mm.checkpoints.importing import import_checkpoint
    from cmae_mm.checkpoints.sources.convmae import hybrid_name
    from cmae_mm.pretrain.describe import describe_encoder
    from cmae_mm.pretrain.hybrid import CMAEHybridViT

    model = hybrid_cmae()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    feed = SimpleNamespace(mean=torch.tensor([1.0, 2, 3]), std=torch.tensor([4.0, 5, 6]), channel_order="bgr")
    meta = {"epoch": 1, "backbone_header": describe_encoder("cmae", model.backbone, feed)}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "epoch_1.pth")
    import_checkpoint(tmp_path / "epoch_1.pth", tmp_path / "out.safetensors")
    state, header = load_backbone(tmp_path / "out.safetensors")
    assert (header.kind, header.final_norm, header.epochs) == ("hybrid", "none", 1)
    assert (header.mean, header.std, header.channel_order) == ((1, 2, 3), (4, 5, 6), "bgr")
    assert (header.stage_widths, header.stage_depths) == (
        model.backbone.arch.widths,
        model.backbone.arch.depths,
    )
    assert header.dropped == ("stage1_output_decode.*", "stage2_output_decode.*", "norm.*")
    arch = model.backbone.arch._asdict()
    fresh = CMAEHybridViT(arch, model.backbone.img_size, fusion=False, final_norm=False)
    fresh.load_state_dict({hybrid_name(key): value for key, value in state.items()}, strict=True)
    images = torch.randn(2, 3, *model.backbone.img_size)
    assert torch.equal(fresh(images, None)[0], model.backbone(images, None)[0])


def test_masked_target_pools_its_visible_patches(tiny_cmae, monkeypatch):
    model = tiny_cmae(target_input="masked")
    model.init_weights()
    masks = block_mask(4, 8, 0.65)
    monkeypatch.setattr(model.backbone, "draw_mask", lambda *a, **k: masks)
    images = torch.randn(4, 3, 32, 32)
    projected = model.project_target(images)
    tokens = model.target_backbone(images, masks)[0][:, 1:]
    assert tokens.shape[1] == 20
    torch.testing.assert_close(projected, model.target_projector((tokens.mean(1),))[0])


def test_target_without_class_token_in_the_mean(tiny_cmae):
    model = tiny_cmae()
    model.init_weights()
    images = torch.randn(4, 3, 32, 32)
    tokens = model.target_backbone(images, mask=None)[-1]
    assert tokens.shape[1] == 65
    torch.testing.assert_close(
        model.project_target(images), model.target_projector((tokens[:, 1:].mean(1),))[0]
    )


def test_target_norm_is_a_choice(tiny_cmae):
    assert not any(n.startswith("ln1") for n, _ in tiny_cmae().target_backbone.named_parameters())
    normed = tiny_cmae(target_norm=True)
    assert any(n.startswith("ln1") for n, _ in normed.target_backbone.named_parameters())
    normed.init_weights()
    before = normed.target_backbone.ln1.weight.clone()
    normed.backbone.ln1.weight.data += 1
    normed.momentum_update()
    torch.testing.assert_close(normed.target_backbone.ln1.weight, before + 0.004)


def test_statistics_are_logged_and_not_summed(tiny_cmae):
    model = tiny_cmae()
    model.init_weights()
    losses = model.loss([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)])
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, losses["loss_rec"] + losses["loss_con"])
    expected = {"raw_rec", "raw_con", "con_acc", "pos_sim", "neg_sim", "feat_std", "target_std", "momentum"}
    assert set(log) == expected | {"loss", "loss_rec", "loss_con"}
    assert log["momentum"].item() == pytest.approx(0.996)


def test_unknown_target_input(tiny_cmae):
    with pytest.raises(UserError, match="target_input"):
        tiny_cmae(target_input="half")
