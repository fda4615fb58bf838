"""`PlainMAE` against tensors recorded from the official MAE, and against mmpretrain's own (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cmae_mm.pretrain  # noqa: F401
from cmae_mm.checkpoints.sources.mae import model_state
from cmae_mm.pretrain import PlainMAE, random_mask
from cmae_mm.pretrain.masking import mask_from_removed

GOLDEN = Path(__file__).parents[1] / "golden" / "mae_official_tiny.safetensors"
TOLERANCE = 1e-5
ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=192)
DECODER = dict(
    num_patches=64,
    patch_size=4,
    embed_dim=48,
    decoder_embed_dim=32,
    decoder_depth=2,
    decoder_num_heads=4,
)


def tiny_mae():
    return PlainMAE(
        backbone=dict(
            type="CMAEViT", arch=ARCH, img_size=32, patch_size=4, mask_kind="random", mask_ratio=0.75
        ),
        neck=dict(type="CMAEPixelDecoder", **DECODER),
        head=dict(type="HiddenPixelHead", patch_size=4),
    )


def part(golden, prefix):
    return model_state({k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)})


def assert_close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def run():
    golden = load_file(GOLDEN)
    model = tiny_mae()
    model.load_state_dict(part(golden, "state."), strict=True)
    masks = mask_from_removed(golden["mask"], kept=16)
    losses = model.loss(golden["in.img"], masks=masks)
    losses["loss_rec"].backward()
    return golden, model, losses, masks


def test_loss(run):
    golden, _, losses, _ = run
    assert_close(losses["loss_rec"], golden["loss"])


def test_predictions_of_every_patch(run):
    golden, model, _, masks = run
    with torch.no_grad():
        latent = model.backbone(golden["in.img"], masks)[0]
        assert_close(model.neck.predict_all(latent, masks), golden["pred"])
        hidden = model.neck(latent, masks)
    for n in range(len(hidden)):
        assert_close(hidden[n], golden["pred"][n][golden["mask"][n] == 1])


def test_unmasked_tokens(run):
    golden, model, _, _ = run
    with torch.no_grad():
        assert_close(model.extract_feat(golden["in.img"])[-1], golden["out.tokens_unmasked"])
        pooled = model.pool_feat(golden["in.img"])
    assert_close(pooled, golden["out.tokens_unmasked"][:, 1:].mean(1))


def test_every_gradient(run):
    golden, model, _, _ = run
    theirs = part(golden, "grad.")
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        torch.testing.assert_close(
            ours[name], grad, atol=TOLERANCE, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_equals_mmpretrain(monkeypatch):
    """mmpretrain's MAE with the same weights and the same noise: equal keys, loss and gradients."""
    from mmpretrain.registry import MODELS

    ours = tiny_mae()
    ours.init_weights()
    theirs = MODELS.build(
        dict(
            type="mmpretrain.MAE",
            backbone=dict(type="MAEViT", arch=ARCH, img_size=32, patch_size=4, mask_ratio=0.75),
            neck=dict(type="MAEPretrainDecoder", **DECODER),
            head=dict(
                type="MAEPretrainHead",
                norm_pix=True,
                patch_size=4,
                loss=dict(type="PixelReconstructionLoss", criterion="L2"),
            ),
        )
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 64)
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: noise)
    one, two = ours.loss(images)["loss_rec"], theirs.loss(images, None)["loss"]
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    one.backward()
    two.backward()
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_comparison_notices_a_difference(run):
    golden, _, _, masks = run
    model = tiny_mae()
    state = part(golden, "state.")
    state["neck.decoder_pred.bias"] = state["neck.decoder_pred.bias"] + 1e-3
    model.load_state_dict(state)
    assert (model.loss(golden["in.img"], masks=masks)["loss_rec"] - golden["loss"]).abs() > TOLERANCE
    other = model.loss(golden["in.img"], masks=random_mask(4, 8, 0.75))["loss_rec"]
    assert (other - golden["loss"]).abs() > TOLERANCE
