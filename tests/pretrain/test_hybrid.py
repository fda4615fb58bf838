"""The hybrid encoder: the path over visible cells against whole maps, and what must not depend on what."""

import math

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from cmae_mm.layers.conv_stages import VisibleCells
from cmae_mm.pretrain.hybrid import CMAEHybridViT
from cmae_mm.pretrain.masking import block_mask, mask_from_removed, random_mask

ARCH = dict(widths=(8, 12, 16), depths=(2, 1, 2), mlp_ratios=(4, 2, 3), heads=4)
FUSION = {f"stage{n}_output_decode.{kind}" for n in (1, 2) for kind in ("weight", "bias")}


def build(arch=ARCH, spread=0.1, **kwargs):
    """An initialised encoder with all weights moved, so that no norm or bias is at its neutral value."""
    model = CMAEHybridViT(arch, **{"img_size": 64, **kwargs})
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(spread * torch.randn_like(parameter))
    return model


def whole_maps(model, images, removed):
    """The masked encoder written out on whole maps, channels first: all L tokens, unless attention hides them.

    Masked cells are computed, and only multiplied away in front of the depthwise convolution. Tokens of hidden
    cells take no part in attention. Returns (N, L, C); rows of hidden cells mean nothing.
    """
    w = dict(model.named_parameters())
    n, (rows, cols) = len(images), model.grid_of(*images.shape[-2:])
    keep = 1 - removed.view(n, 1, rows, cols)

    def norm(x, name, eps=1e-5):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(x, name, **kwargs):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **kwargs)

    def embed(x, name):
        return F.gelu(
            norm(conv(x, f"{name}.proj", stride=w[f"{name}.proj.weight"].shape[-1]), f"{name}.norm")
        )

    def block(x, name):
        inner = conv(norm(x, f"{name}.norm1"), f"{name}.conv1")
        inner = inner * F.interpolate(keep, scale_factor=x.shape[2] // rows, mode="nearest")
        x = x + conv(conv(inner, f"{name}.attn", padding=2, groups=x.shape[1]), f"{name}.conv2")
        inner = F.gelu(conv(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + conv(inner, f"{name}.mlp.fc2")

    def linear(x, name):
        return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]

    def token_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def attention(x, name):
        q, k, v = linear(token_norm(x, f"{name}.ln1"), f"{name}.attn.qkv").chunk(3, -1)
        q, k, v = (t.view(n, rows * cols, model.arch.heads, -1).transpose(1, 2) for t in (q, k, v))
        score = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
        score = score.masked_fill(removed[:, None, None].bool(), -math.inf)
        x = x + linear((score.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        inner = F.gelu(linear(token_norm(x, f"{name}.ln2"), f"{name}.ffn.layers.0.0"))
        return x + linear(inner, f"{name}.ffn.layers.1")

    stage1 = embed(images, "patch_embed1")
    for i in range(model.arch.depths[0]):
        stage1 = block(stage1, f"blocks1.{i}")
    stage2 = embed(stage1, "patch_embed2")
    for i in range(model.arch.depths[1]):
        stage2 = block(stage2, f"blocks2.{i}")
    tokens = linear(embed(stage2, "patch_embed3").flatten(2).transpose(1, 2), "patch_embed4")
    tokens = tokens + w["pos_embed"]
    for i in range(model.arch.depths[2]):
        tokens = attention(tokens, f"layers.{i}")
    if model.fusion:
        for name, stage in (("stage1_output_decode", stage1), ("stage2_output_decode", stage2)):
            fused = conv(stage, name, stride=w[f"{name}.weight"].shape[-1])
            tokens = tokens + fused.flatten(2).transpose(1, 2)
    return token_norm(tokens, "ln1") if model.final_norm else tokens


def pick(tokens, ids):
    return torch.stack([row[places] for row, places in zip(tokens, ids, strict=True)])


def gradients(model, tokens, direction):
    model.zero_grad()
    (tokens * direction).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(
    ("size", "patch_sizes", "kind", "options"),
    [
        ((64, 64), (4, 2, 2), "random", {}),
        ((224, 224), (4, 2, 2), "block", {}),
        ((64, 96), (4, 2, 2), "block", {}),
        ((96, 64), (4, 2, 2), "random", {"fusion": False}),
        ((48, 24), (2, 2, 2), "random", {"final_norm": False}),
        ((60, 36), (2, 3, 1), "random", {}),
        ((48, 48), (1, 2, 4), "block", {}),
    ],
)
def test_visible_cells_alone_equal_whole_maps(size, patch_sizes, kind, options):
    """Outputs and every gradient, 1e-5 of the largest value of a tensor."""
    model = build(img_size=size, patch_sizes=patch_sizes, mask_kind=kind, mask_ratio=0.6, **options)
    images = torch.randn(3, 3, *size)
    mask = model.draw_mask(3, images.device)
    ours = model(images, mask)[0]
    theirs = pick(whole_maps(model, images, mask.mask), mask.ids_keep)
    assert ours.shape == theirs.shape
    assert relative(ours, theirs) < 1e-5
    direction = torch.randn_like(ours)
    expected = gradients(model, theirs, direction)
    for name, grad in gradients(model, ours, direction).items():
        assert relative(grad, expected.pop(name)) < 1e-5, name
    assert expected == {}


@pytest.mark.parametrize("options", [{}, {"final_norm": False}])
@pytest.mark.parametrize("size", [(64, 64), (32, 80)])
def test_nothing_hidden_equals_no_mask(size, options):
    model = build(img_size=size, fusion=False, **options)
    images = torch.randn(2, 3, *size)
    cells = math.prod(model.patch_resolution)
    with torch.no_grad():
        masked, mask, restore = model(images, mask_from_removed(torch.zeros(2, cells), cells))
        (none,), (false,) = model(images, None), model(images, False)
        written_out = whole_maps(model, images, torch.zeros(2, cells))
    assert torch.equal(none, false)
    assert not mask.any()
    assert torch.equal(restore, torch.arange(cells).expand(2, -1))
    torch.testing.assert_close(masked, none, atol=1e-5, rtol=0)
    torch.testing.assert_close(none, written_out, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", ["other pixels", "nan"])
def test_hidden_pixels_have_no_influence(value):
    """Bit for bit, in outputs and gradients, and even when they are no numbers."""
    model = build()
    images = torch.randn(2, 3, 64, 64)
    mask = random_mask(2, 4, 0.75)
    hidden = F.interpolate(mask.mask.view(2, 1, 4, 4), scale_factor=16).bool().expand_as(images)
    other = torch.where(hidden, math.nan if value == "nan" else 100 * torch.randn_like(images), images)
    direction = torch.randn(2, 4, 16)
    results = []
    for x in (images, other):
        tokens = model(x, mask)[0]
        results.append((tokens.detach(), gradients(model, tokens, direction)))
    assert torch.equal(results[0][0], results[1][0])
    for name, grad in results[0][1].items():
        assert torch.equal(grad, results[1][1][name]), name


def test_visible_pixels_have_influence_across_cells():
    """The convolutions do mix visible neighbours: without attention, one cell's pixels change the next cell."""
    model = build(dict(ARCH, depths=(2, 1, 0)))
    mask = mask_from_removed(torch.tensor([0.0, 0, 1, 0] + [1] * 12)[None], 3)
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., :16, :16] += 1  # cell 0; cell 1 is its neighbour, cell 3 is cut off by the hidden cell 2
    with torch.no_grad():
        difference = (model(images, mask)[0] - model(changed, mask)[0]).abs().amax(-1)[0]
    assert difference[1] > 1e-3
    assert difference[2] == 0


def test_order_of_visible_cells_carries_over():
    model = build()
    images = torch.randn(2, 3, 64, 64)
    mask = random_mask(2, 4, 0.5)
    order = torch.stack([torch.randperm(8), torch.randperm(8)])
    shuffled = mask._replace(ids_keep=mask.ids_keep.gather(1, order))
    with torch.no_grad():
        torch.testing.assert_close(
            model(images, shuffled)[0], pick(model(images, mask)[0], order), atol=2e-6, rtol=0
        )


@pytest.mark.parametrize(("grid", "side"), [((2, 3), 4), ((3, 1), 2), ((2, 2), 1)])
def test_collect_and_spread(grid, side):
    """Against loops over cells."""
    rows, cols = grid
    maps = torch.randn(2, rows * side, cols * side, 5)
    ids = torch.stack([torch.randperm(rows * cols)[:2] for _ in range(2)])
    visible = VisibleCells(ids, grid)
    cells, back = [], torch.zeros_like(maps)
    for image in range(2):
        for place in ids[image].tolist():
            row, col = place // cols * side, place % cols * side
            cells.append(maps[image, row : row + side, col : col + side])
            back[image, row : row + side, col : col + side] = cells[-1]
    assert torch.equal(visible.collect(maps), torch.stack(cells))
    assert torch.equal(visible.spread(torch.stack(cells)), back)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (dict(fusion=False), 84_605_824),
        (dict(), 88_932_736),
        (dict(fusion=False, final_norm=False), 84_604_288),
    ],
)
def test_base_has_the_published_size(options, count):
    with torch.device("meta"):
        model = CMAEHybridViT("b", **options)
    assert sum(p.numel() for p in model.parameters()) == count
    assert [p for p in model.parameters() if not p.requires_grad] == [model.pos_embed]
    eps = {m.eps for name, m in model.named_modules() if name.startswith("layers.") and hasattr(m, "eps")}
    assert eps == {1e-6}


def test_every_trainable_parameter_gets_a_gradient():
    model = build()
    tokens = model(torch.randn(2, 3, 64, 64), True)[0]
    grads = gradients(model, tokens, torch.randn_like(tokens))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, grad in grads.items() if grad.abs().max() > 0} == trainable
    assert set(dict(model.named_parameters())) - trainable == {"pos_embed"}


def test_target_has_the_names_of_the_online_encoder():
    online, target = build(), build(fusion=False, final_norm=False)
    names, fewer = dict(online.named_parameters()), dict(target.named_parameters())
    assert set(names) - set(fewer) == FUSION | {"ln1.weight", "ln1.bias"}
    assert all(names[name].shape == p.shape for name, p in fewer.items())
    assert set(fewer) <= set(names)


@pytest.mark.parametrize(
    ("size", "kind", "visible"),
    [((224, 224), "block", 68), ((224, 224), "random", 68), ((64, 96), "block", 8)],
)
def test_drawn_masks(size, kind, visible):
    """int(49 * .35) * 4 = 68 with blocks, int(196 * .35) = 68 without, int(6 * .35) * 4 = 8 on 4 x 6 cells."""
    model = CMAEHybridViT(dict(ARCH, depths=(1, 1, 1)), img_size=size, mask_kind=kind)
    tokens, mask, restore = model(torch.randn(2, 3, *size))
    cells = math.prod(model.patch_resolution)
    assert tokens.shape == (2, visible, 16)
    assert mask.shape == restore.shape == (2, cells)
    assert (mask.sum(1) == cells - visible).all()


def test_drawn_masks_follow_the_image_and_the_generator():
    model = CMAEHybridViT(ARCH, img_size=64)
    tokens, mask, _ = model(torch.randn(1, 3, 96, 128), True)
    assert mask.shape == (1, 48)
    assert tokens.shape == (1, 16, 16)  # int(12 * .35) * 4
    drawn = [model.draw_mask(3, torch.device("cpu"), torch.Generator().manual_seed(5)) for _ in range(2)]
    theirs = block_mask(3, 4, 0.65, 2, torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*drawn, theirs, strict=True))


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_positions_encode_the_row_first(size):
    model = CMAEHybridViT(ARCH, img_size=size)
    model.init_weights()
    cols = size[1] // 16
    for cell, row in enumerate(model.pos_embed[0]):
        for channel, value in enumerate(row.tolist()):
            place = cell // cols if channel < 8 else cell % cols
            angle = place / 10000 ** (channel % 4 / 4)
            expected = math.sin(angle) if channel % 8 < 4 else math.cos(angle)
            assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (128, 32)])
def test_positions_follow_the_image(size):
    """Without blocks in stage 3, the tokens are embeddings plus the resized table."""
    model = build(dict(ARCH, depths=(1, 1, 0)), fusion=False, final_norm=False)
    images = torch.randn(1, 3, *size)
    table = model.pos_embed.data.clone()
    grid = (size[0] // 16, size[1] // 16)
    image = table.view(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    mask = random_mask(1, grid, 0.5)
    with torch.no_grad():
        (full,), visible = model(images, None), model(images, mask)[0]
        model.pos_embed.zero_()
        (bare,), bare_visible = model(images, None), model(images, mask)[0]
    torch.testing.assert_close(full - bare, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(visible - bare_visible, pick(expected, mask.ids_keep), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_feature_maps(size):
    model = build()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = model.feature_maps(images)
        (tokens,) = model(images, None)
    for channels, stride, features in zip(ARCH["widths"], (4, 8, 16), maps, strict=True):
        assert features.shape == (2, channels, size[0] // stride, size[1] // stride)
        assert features.is_contiguous()
    assert torch.equal(maps[2].flatten(2).transpose(1, 2), tokens)


def test_initialisation():
    """Xavier for linear layers and the third embedding, PyTorch's own for the other convolutions."""
    model = CMAEHybridViT(dict(ARCH, widths=(32, 48, 64)), img_size=64)
    model.init_weights()
    values = dict(model.named_parameters())

    def assert_uniform(name, bound):
        largest = values[name].abs().max().item()
        assert 0.98 * bound < largest <= bound, name

    assert_uniform("patch_embed3.proj.weight", math.sqrt(6 / (48 * 4 + 64)))
    assert_uniform("patch_embed4.weight", math.sqrt(6 / (64 + 64)))
    assert_uniform("layers.0.attn.qkv.weight", math.sqrt(6 / (64 + 192)))
    assert_uniform("layers.0.ffn.layers.0.0.weight", math.sqrt(6 / (64 + 192)))
    for name, fan_in in [
        ("patch_embed1.proj", 3 * 16),
        ("patch_embed2.proj", 32 * 4),
        ("blocks1.0.conv1", 32),
        ("blocks1.0.attn", 25),
        ("blocks2.0.mlp.fc2", 96),
        ("stage1_output_decode", 32 * 16),
    ]:
        assert_uniform(f"{name}.weight", 1 / math.sqrt(fan_in))
    linear = {"patch_embed4.bias"} | {
        n for n in values if n.startswith("layers.") and n.endswith(".bias") and ".ln" not in n
    }
    convs = {f"patch_embed{i}.proj.bias" for i in (1, 2, 3)} | {
        n for n in values if n.startswith("blocks") and n.endswith(".bias") and ".norm" not in n
    }
    assert {n for n in linear if values[n].any()} == set()
    assert {n for n in convs if not values[n].any()} == set()


def test_a_pretrained_start_is_kept(tmp_path):
    path = tmp_path / "weights.pth"
    before = build()
    before.pos_embed.data.add_(1)
    torch.save(before.state_dict(), path)
    after = CMAEHybridViT(ARCH, img_size=64, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    after.init_weights()
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name


def test_bfloat16_stays_near():
    """Mixed precision: normed tokens are of size 1, and stay within 2 % on average."""
    model = build(spread=0.02)
    images, mask = torch.randn(2, 3, 64, 64), random_mask(2, 4, 0.5)
    with torch.no_grad():
        exact = model(images, mask)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images, mask)[0]
    assert 0 < (exact - rough).abs().mean() < 0.02


def test_registered_with_the_encoders_interface():
    model = MODELS.build(dict(type="CMAEHybridViT", arch=ARCH, img_size=[64, 96]))
    assert (model.embed_dims, model.num_layers, model.patch_size) == (16, 2, 16)
    assert (model.img_size, model.patch_resolution) == ((64, 96), (4, 6))
    assert model.num_extra_tokens == 0
    assert model.with_cls_token is False
