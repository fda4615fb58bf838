"""The UperNet backbones against mmseg's own on the same weights: outputs and gradients."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmseg imports)

# isort: split
import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones import MAE, BEiT

from cmae_mm.checkpoints.resize import resize_pos_embed, resize_rel_pos_table
from cmae_mm.transfer.ade20k import CMAEUperNetHybrid, CMAEUperNetViT
from cmae_mm.transfer.attention import QueryValueBiasLinear

SIZES = dict(patch_size=8, embed_dims=48, num_heads=3)
NAMES = (("ffn.layers.0.0.", "mlp.fc1."), ("ffn.layers.1.", "mlp.fc2."), ("layers.", "blocks."))
NAMES += ((".ln1.", ".norm1."), (".ln2.", ".norm2."), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
NAMES += (("patch_embed.projection.", "patch_embed.proj."),)


def _our_name(name):
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name


def _by_our_names(tensors):
    """mmseg's tensors under our names; the two biases of BEiT become one with zeros for the keys."""
    out = {_our_name(k): v for k, v in tensors.items() if not k.endswith("relative_position_index")}
    for key in [k for k in out if k.endswith("attn.q_bias")]:
        query, value = out.pop(key), out.pop(key.replace("q_bias", "v_bias"))
        out[key.replace("q_bias", "qkv.bias")] = torch.cat((query, torch.zeros_like(query), value))
    return out


def _randomise(model, seed=0):
    """Values that matter everywhere: a forgotten table, bias or scale must show."""
    torch.manual_seed(seed)
    for name, param in model.named_parameters():
        torch.nn.init.normal_(param, mean=1.0 if "gamma" in name or "norm" in name else 0.0, std=0.2)
    return model


def _pair(kind, size, **options):
    common = dict(img_size=size, drop_path_rate=0.0, **SIZES)
    build = MAE if kind == "MAE" else BEiT
    theirs = build(
        num_layers=3, out_indices=[0, 1, 2], norm_cfg=dict(type="LN", eps=1e-6), init_values=0.1, **common
    )
    _randomise(theirs).double()
    of_beit = dict(positions=False, key_bias=False) if kind == "BEiT" else {}
    ours = CMAEUperNetViT(
        depth=3, out_indices=(0, 1, 2), layer_scale=0.1, **of_beit, **common, **options
    ).double()
    ours.load_state_dict(_by_our_names(theirs.state_dict()), strict=True)
    return ours, theirs


@pytest.mark.parametrize("kind", ["MAE", "BEiT"])
@pytest.mark.parametrize("with_cp", [False, True])
def test_outputs_and_gradients_equal_mmseg(kind, with_cp):
    ours, theirs = _pair(kind, 32, with_cp=with_cp)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    maps, expected = ours(a), theirs(b)
    for m, e in zip(maps, expected, strict=True):
        torch.testing.assert_close(m, e, atol=1e-10, rtol=1e-10)
    weights = [torch.randn_like(m) for m in maps]
    sum((m * w).sum() for m, w in zip(maps, weights, strict=True)).backward()
    sum((m * w).sum() for m, w in zip(expected, weights, strict=True)).backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-9)
    grads = _by_our_names({k: p.grad for k, p in theirs.named_parameters()})
    assert set(grads) == {k for k, _ in ours.named_parameters()}
    for name, param in ours.named_parameters():
        torch.testing.assert_close(param.grad, grads[name], atol=1e-9, rtol=1e-9, msg=name)


def test_float32_equals_mmseg_too():
    ours, theirs = _pair("MAE", 48)
    x = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        for m, e in zip(ours.float()(x), theirs.float()(x), strict=True):
            torch.testing.assert_close(m, e, atol=1e-5, rtol=1e-4)


def test_beit_learns_no_key_bias():
    ours, _ = _pair("BEiT", 32)
    assert all(type(b.attn.qkv) is QueryValueBiasLinear for b in ours.blocks)
    sum(m.sum() for m in ours(torch.randn(1, 3, 32, 32).double())).backward()
    for block in ours.blocks:
        query, key, value = block.attn.qkv.bias.grad.chunk(3)
        assert key.abs().max() == 0
        assert query.abs().max() > 0
        assert value.abs().max() > 0
    assert "pos_embed" not in ours.state_dict()


@pytest.mark.parametrize("size", [(16, 40), (48, 24)], ids=str)
def test_any_size_and_aspect_equals_mmseg_built_for_it_with_resized_tables(size):
    ours, _ = _pair("MAE", 32)
    grid = (size[0] // 8, size[1] // 8)
    theirs = MAE(
        img_size=size, num_layers=3, out_indices=[0, 1, 2], norm_cfg=dict(type="LN", eps=1e-6), **SIZES
    ).double()
    state = ours.state_dict()
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], grid)
    for key in [k for k in state if k.endswith("bias_table")]:
        places = state[key][:-3].T.reshape(1, 3, 7, 7)
        places = F.interpolate(
            places, size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bicubic", align_corners=False
        )
        state[key] = torch.cat((places.flatten(2)[0].T, state[key][-3:]))
    own = theirs.state_dict()
    theirs.load_state_dict({k: state.get(_our_name(k), v) for k, v in own.items()})
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for m, e in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(m, e, atol=1e-9, rtol=1e-9)


def test_a_size_that_the_patch_does_not_divide_is_padded():
    ours, _ = _pair("MAE", 32)
    x = torch.randn(1, 3, 37, 21, dtype=torch.float64)
    with torch.no_grad():
        for m, e in zip(ours(x), ours(F.pad(x, (0, 3, 0, 3))), strict=True):
            torch.testing.assert_close(m, e, atol=0, rtol=0)


def test_position_table_has_the_training_grid_and_both_modes_return_the_module():
    vit = CMAEUperNetViT(depth=2, out_indices=(1,), img_size=64, drop_path_rate=0.5, **SIZES)
    assert vit.pos_embed.shape == (1, 1 + 64, 48)
    assert vit.eval() is vit
    assert vit.train() is vit


def test_tables_of_a_file_are_resized_when_it_is_loaded(tmp_path, make_encoder):
    from cmae_mm.checkpoints import save_backbone

    state, header = make_encoder(relative_position=True, layer_scale=True, position="none", final_norm="none")
    del state["pos_embed"], state["norm.weight"], state["norm.bias"]
    for i in range(header.depth):
        state[f"blocks.{i}.attn.relative_position_bias_table"] = torch.randn(7 * 7 + 3, header.heads)
        state |= {f"blocks.{i}.ls{k}.gamma": torch.rand(header.width) for k in (1, 2)}
    save_backbone(tmp_path / "beit.safetensors", state, header)
    sizes = dict(depth=2, num_heads=3, patch_size=8, embed_dims=48, mlp_ratio=2.0, out_indices=(1,))
    vit = CMAEUperNetViT(img_size=64, positions=False, key_bias=False, layer_scale=0.1, **sizes)
    vit.backbone_file = str(tmp_path / "beit.safetensors")
    vit.init_weights()
    for i, block in enumerate(vit.blocks):
        table = state[f"blocks.{i}.attn.relative_position_bias_table"]
        expected = resize_rel_pos_table(table, (4, 4), (8, 8))
        torch.testing.assert_close(block.attn.relative_position_bias_table.data, expected, atol=0, rtol=0)
        torch.testing.assert_close(block.ls1.gamma.data, state[f"blocks.{i}.ls1.gamma"], atol=0, rtol=0)


def test_positions_of_a_file_are_resized_once_and_scales_it_lacks_are_one(backbone_file):
    vit = CMAEUperNetViT(
        depth=2, num_heads=3, patch_size=8, embed_dims=48, mlp_ratio=2.0, out_indices=(1,), img_size=64,
        layer_scale=0.1, backbone_file=str(backbone_file),
    )  # fmt: skip
    vit.init_weights()
    from cmae_mm.checkpoints import load_backbone

    state, _ = load_backbone(backbone_file)
    torch.testing.assert_close(
        vit.pos_embed.data, resize_pos_embed(state["pos_embed"], (8, 8)), atol=0, rtol=0
    )
    assert all((block.ls1.gamma == 1).all() for block in vit.blocks)
    assert all((block.attn.relative_position_bias_table == 0).all() for block in vit.blocks)


def test_hybrid_gives_four_maps_and_places_every_parameter():
    torch.manual_seed(0)
    hybrid = CMAEUperNetHybrid(
        img_size=64,
        widths=(8, 12, 24),
        depths=(1, 1, 3),
        num_heads=2,
        drop_path_rate=0.2,
        norm_cfg=dict(type="BN"),
    )
    maps = hybrid(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 24), (12, 8, 12), (24, 4, 6), (24, 1, 2)]
    sum(m.square().mean() for m in maps).backward()
    assert [n for n, p in hybrid.named_parameters() if p.grad is None] == []
    depths = {n: hybrid.get_layer_depth(f"backbone.{n}")[0] for n, _ in hybrid.named_parameters()}
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    assert depths["fourth.0.weight"] == 4
    assert depths["blocks2.0.conv1.weight"] == depths["pos_embed"] == 0
    assert depths["blocks3.2.ls1.gamma"] == 3


def test_hybrid_starts_from_a_backbone_file(tmp_path):
    from dataclasses import replace

    from cmae_mm.checkpoints import save_backbone
    from cmae_mm.checkpoints.geometry import describe

    sizes = dict(widths=(8, 12, 24), depths=(1, 1, 3), num_heads=2, norm_cfg=dict(type="BN"))
    source = _randomise(CMAEUperNetHybrid(img_size=64, **sizes))
    new = ("ls1.", "ls2.", "bias_table", "fourth.")
    state = {k: v for k, v in source.state_dict().items() if not any(part in k for part in new)}
    header = replace(describe(state, "hybrid"), method="test", heads=2, stage_heads=(0, 0, 2), image_size=64)
    save_backbone(tmp_path / "hybrid.safetensors", state, header)
    hybrid = CMAEUperNetHybrid(img_size=96, backbone_file=str(tmp_path / "hybrid.safetensors"), **sizes)
    hybrid.init_weights()
    own = hybrid.state_dict()
    for key, value in state.items():
        expected = resize_pos_embed(value, (6, 6), prefix_tokens=0) if key == "pos_embed" else value
        torch.testing.assert_close(own[key], expected, atol=0, rtol=0)
    assert all((v == 1).all() for k, v in own.items() if k.endswith(".gamma"))
    assert all((v == 0).all() for k, v in own.items() if k.endswith("bias_table"))
