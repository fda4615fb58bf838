"""Small batches that are contrasted as one: losses and every gradient are those of the large batch."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from cmae_mm.pretrain import MultiViewMAE, block_mask
from cmae_mm.pretrain.gradient_cache import cached_train_step

pytestmark = pytest.mark.faults
IMAGES, STEPS = 8, 4


class Plain(nn.Module):
    """A preprocessor that changes nothing."""

    def forward(self, data, training=False):
        return data


def tiny_mv_mae(**kwargs):
    decoder = dict(num_patches=64, patch_size=4, embed_dim=48, decoder_embed_dim=32, decoder_num_heads=4)
    return MultiViewMAE(
        backbone=dict(
            type="CMAEViT",
            arch=dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=96),
            img_size=32,
            patch_size=4,
        ),
        pixel_decoder=dict(type="CMAEPixelDecoder", decoder_depth=1, **decoder),
        head=dict(type="MultiViewPretrainHead", patch_size=4),
        projector=dict(
            type="NonLinearNeck",
            in_channels=48,
            hid_channels=32,
            out_channels=16,
            with_last_bn=False,
            with_avg_pool=False,
            norm_cfg=dict(type="BN1d"),
        ),
        **kwargs,
    )


def prepared(build, monkeypatch, fixed_masks=True):
    torch.manual_seed(3)
    model = build(grad_cache=True).double().train()
    model.init_weights()
    model.data_preprocessor = Plain()
    if fixed_masks:  # the same one for every image, however they are cut into batches
        one = block_mask(1, (8, 8), 0.5, 2, torch.Generator().manual_seed(0))
        monkeypatch.setattr(
            model,
            "draw_masks",
            lambda images, masks=None: masks or type(one)(*(p.expand(len(images), -1) for p in one)),
        )
    return model


def train(model, views, count):
    """Gradients after one step of an optimizer that changes nothing, and what was logged."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0), accumulative_counts=count)
    wrapper.initialize_count_status(model, 0, count)
    model.zero_grad()
    wrapper.zero_grad = lambda **kwargs: None  # keep the gradients
    batches = [dict(inputs=list(part)) for part in zip(*(v.chunk(count) for v in views), strict=True)]
    logs = (
        [model.train_step(batches[0], wrapper)] if count == 1 else cached_train_step(model, batches, wrapper)
    )
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, logs


@pytest.mark.parametrize("method", ["cmae", "mv-mae"])
def test_parts_have_the_gradients_of_the_whole(method, tiny_cmae, monkeypatch):
    model = prepared(tiny_cmae if method == "cmae" else tiny_mv_mae, monkeypatch)
    views = torch.randn(2, IMAGES, 3, 32, 32, dtype=torch.float64)
    wanted, (whole,) = train(model, views, 1)
    grads, logs = train(model, views, STEPS)
    assert {n.split(".")[0] for n in wanted} >= {"backbone", "pixel_decoder", "projector"}
    # losses and contrast are computed in float32
    torch.testing.assert_close(grads, wanted, atol=1e-6, rtol=1e-5)
    assert len(logs) == STEPS
    for log in logs:
        torch.testing.assert_close(log["loss_con"], whole["loss_con"], atol=1e-6, rtol=1e-6)
    mean = sum(log["loss"] for log in logs) / STEPS
    torch.testing.assert_close(mean, whole["loss"].detach(), atol=1e-6, rtol=1e-6)


def test_plain_accumulation_differs(tiny_cmae, monkeypatch):
    """The control: without the cache, the parts have other gradients."""
    model = prepared(tiny_cmae, monkeypatch)
    views = torch.randn(2, IMAGES, 3, 32, 32, dtype=torch.float64)
    wanted, _ = train(model, views, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0), accumulative_counts=STEPS)
    wrapper.initialize_count_status(model, 0, STEPS)
    model.zero_grad()
    wrapper.zero_grad = lambda **kwargs: None
    for part in zip(*(v.chunk(STEPS) for v in views), strict=True):
        model.train_step(dict(inputs=list(part)), wrapper)
    name = "backbone.patch_embed.projection.weight"
    grad = dict(model.named_parameters())[name].grad
    assert (grad - wanted[name]).abs().max() > 1e-2 * wanted[name].abs().max()


def test_masks_are_drawn_twice_alike(tiny_cmae, monkeypatch):
    model = prepared(tiny_cmae, monkeypatch, fixed_masks=False)
    drawn, draw = [], model.draw_masks
    monkeypatch.setattr(model, "draw_masks", lambda *words: drawn.append(draw(*words)) or drawn[-1])
    views = torch.randn(2, IMAGES, 3, 32, 32, dtype=torch.float64)
    train(model, views, STEPS)
    masks = [m.mask for m in drawn]
    assert len(masks) == 2 * STEPS
    for first, second in zip(masks[:STEPS], masks[STEPS:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(masks[0], masks[1])


def test_statistics_of_batch_norm_move_once(tiny_cmae, monkeypatch):
    model = prepared(tiny_cmae, monkeypatch)
    train(model, torch.randn(2, IMAGES, 3, 32, 32, dtype=torch.float64), STEPS)
    counts = {n: int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked")}
    assert set(counts.values()) == {1}, counts
