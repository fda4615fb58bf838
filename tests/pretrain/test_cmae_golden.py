"""CMAE against tensors recorded from the official code (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cmae_mm.pretrain  # noqa: F401
from cmae_mm.pretrain.masking import mask_from_removed, take

GOLDEN = Path(__file__).parents[1] / "golden" / "cmae_released_tiny.safetensors"
TOLERANCE = 1e-5


def total(losses):
    """What mmengine sums: entries with ``loss`` in their names."""
    return sum(value for name, value in losses.items() if "loss" in name)


def group(golden, prefix):
    return {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def run(tiny_cmae):
    """One forward and backward pass with the recorded weights, inputs and mask; every module's output kept."""
    golden = load_file(GOLDEN)
    model = tiny_cmae()
    model.load_state_dict(group(golden, "state."), strict=True)
    model.train()
    outputs = {}
    for name in ("feature_decoder", "projector", "target_backbone", "target_projector"):
        getattr(model, name).register_forward_hook(
            lambda _module, _args, out, name=name: outputs.__setitem__(name, out)
        )
    mask = mask_from_removed(golden["mask"], kept=20)
    with torch.no_grad():
        latent = model.backbone(golden["in.img"], mask)[0]
        outputs["pixel_decoder"] = model.pixel_decoder.predict_all(latent, mask)
    losses = model.loss([golden["in.img"], golden["in.img_t"]], masks=mask)
    total(losses).backward()
    return golden, model, losses, outputs, mask


def assert_close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs, atol=TOLERANCE, rtol=0)


def test_losses(run):
    golden, _, losses, _, _ = run
    assert_close(losses["loss_rec"], golden["loss_rc"])
    assert_close(losses["loss_con"], golden["loss_ct"])


def test_outputs(run):
    golden, _, _, outputs, _ = run
    assert_close(outputs["pixel_decoder"], golden["out.pixel_decoder"])
    assert_close(outputs["feature_decoder"], golden["out.feature_decoder"].mean(1))
    assert_close(outputs["projector"][0], golden["out.projector"].squeeze(1))
    assert_close(outputs["target_backbone"][0], golden["out.target_backbone"])
    assert_close(outputs["target_projector"][0], golden["out.target_projector"].squeeze(1))


def test_encoder_tokens_in_raster_order(run):
    """The recorded tokens are in the order the original drew them; its ids_restore sorts them."""
    golden, model, _, _, mask = run
    with torch.no_grad():
        ours = model.backbone(golden["in.img"], mask)[0]
    theirs = golden["out.backbone"]
    places = golden["ids_restore"].gather(1, mask.ids_keep)  # place of each visible patch in their order
    assert_close(ours[:, 1:], theirs[:, 1:].gather(1, places.unsqueeze(-1).expand(-1, -1, 48)))
    assert_close(ours[:, 0], theirs[:, 0])


def test_feature_decoder_pools_before_or_after_the_last_layer(run):
    golden, model, _, outputs, mask = run
    with torch.no_grad():
        latent = model.backbone(golden["in.img"], mask)[0]
        each = model.feature_decoder.finish(model.feature_decoder.decode(latent, mask))
        each = take(each, mask.ids_restore)  # from the order visible, hidden to raster order
    assert_close(each, golden["out.feature_decoder"])
    assert_close(each.mean(1), outputs["feature_decoder"].detach())


def test_every_gradient(run):
    golden, model, _, _, _ = run
    theirs = group(golden, "grad.")
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(theirs)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    for name, grad in theirs.items():
        # Absolute only: biases in front of a batch norm hold rounding noise.
        torch.testing.assert_close(
            ours[name], grad, atol=TOLERANCE, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_target_is_frozen(run):
    _, model, _, _, _ = run
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    fixed = {"backbone.pos_embed", "pixel_decoder.decoder_pos_embed", "feature_decoder.decoder_pos_embed"}
    assert {n for n in frozen if not n.startswith("target_")} == fixed
    assert all(n in frozen for n, _ in model.named_parameters() if n.startswith("target_"))


def test_momentum_update(tiny_cmae):
    golden = load_file(GOLDEN)
    model = tiny_cmae()
    model.load_state_dict(group(golden, "state."))
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    model.momentum_update()
    recorded = group(golden, "ema_after.")
    assert recorded  # a sample of the target's tensors; the formula stands for the others
    ours = {n: p for n, p in model.named_parameters() if n.startswith("target_")}
    assert set(recorded) <= set(ours)
    for name, value in ours.items():
        target, online = golden[f"state.{name}"], golden[f"state.{name.removeprefix('target_')}"]
        assert_close(value, recorded.get(name, 0.996 * target + 0.004 * online))
        assert name.endswith("pos_embed") or not torch.equal(value, target), name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_target_statistics_come_from_its_own_batches(run):
    golden, model, _, _, _ = run
    before = golden["state.target_projector.bn0.running_mean"]
    assert not torch.equal(model.target_projector.bn0.running_mean, before)
    assert not torch.equal(model.target_projector.bn0.running_mean, model.projector.bn0.running_mean)


def test_bfloat16_stays_near(run, tiny_cmae):
    """Mixed precision as in the recipes: the losses of the recorded step to 2 %."""
    golden, _, _, _, mask = run
    model = tiny_cmae()
    model.load_state_dict(group(golden, "state."))
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss([golden["in.img"], golden["in.img_t"]], masks=mask)
    assert losses["loss_rec"].dtype == losses["loss_con"].dtype == torch.float32
    torch.testing.assert_close(losses["loss_rec"], golden["loss_rc"], rtol=2e-2, atol=0)
    torch.testing.assert_close(losses["loss_con"], golden["loss_ct"], rtol=2e-2, atol=0)
    total(losses).backward()
