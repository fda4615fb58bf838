"""The fine-tuned BEiT against mmpretrain's own on the same weights, and from a backbone file of another size."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import BEiTViT

from cmae_mm.checkpoints import save_backbone
from cmae_mm.checkpoints.resize import resize_rel_pos_table
from cmae_mm.engine.config import set_backbone
from cmae_mm.errors import UserError
from cmae_mm.transfer.frozen import FrozenViT
from cmae_mm.transfer.frozen_features import FrozenFeatures
from cmae_mm.transfer.imagenet import ImageNetViT

ARCH = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)
OPTIONS = dict(arch=ARCH, patch_size=8, relative_positions=True, layer_scale_init_value=0.1)
MEAN = dict(OPTIONS, out_type="avg_featmap", final_norm=False)


def by_our_names(tensors):
    """Two biases of mmpretrain become one with zeros for the keys; scales have names of their own."""
    out = {k: v for k, v in tensors.items() if not k.endswith("relative_position_index")}
    for key in [k for k in out if k.endswith("attn.q_bias")]:
        query, value = out.pop(key), out.pop(key.replace("q_bias", "v_bias"))
        out[key.replace("q_bias", "qkv.bias")] = torch.cat((query, torch.zeros_like(query), value))
    for key in [k for k in out if k.endswith(("gamma_1", "gamma_2"))]:
        out[key.replace("gamma_1", "attn.gamma1.weight").replace("gamma_2", "ffn.gamma2.weight")] = out.pop(
            key
        )
    return out


@pytest.mark.parametrize("positions", [False, True], ids=["BEiT", "CAE"])
@pytest.mark.parametrize("size", [(32, 32), (48, 48)], ids=str)
def test_outputs_and_gradients_equal_mmpretrain(positions, size):
    theirs = BEiTViT(
        arch=ARCH, img_size=size[0], patch_size=8, use_abs_pos_emb=positions, layer_scale_init_value=0.1
    )
    torch.manual_seed(0)
    for name, param in theirs.named_parameters():
        torch.nn.init.normal_(param, mean=1.0 if "gamma" in name or "ln" in name else 0.0, std=0.2)
    ours = ImageNetViT(img_size=size[0], positions=positions, **MEAN)
    ours.load_state_dict(by_our_names(theirs.state_dict()))
    ours, theirs = ours.double(), theirs.double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    a, b = ours(x)[0], theirs(x)[0]
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    weights = torch.randn_like(a)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    grads = by_our_names({k: p.grad for k, p in theirs.named_parameters()})
    assert grads.keys() == dict(ours.named_parameters()).keys()
    for name, param in ours.named_parameters():
        torch.testing.assert_close(param.grad, grads[name], atol=1e-8, rtol=1e-8, msg=name)


def test_drop_path_and_layer_scale_stay():
    vit = ImageNetViT(img_size=32, drop_path_rate=0.3, **MEAN)
    assert [round(layer.attn.out_drop.drop_prob, 6) for layer in vit.layers] == [0, 0.15, 0.3]
    assert all(layer.attn.gamma1.weight.eq(0.1).all() for layer in vit.layers)


def test_what_is_frozen_stays_frozen():
    probe = ImageNetViT(img_size=32, frozen_stages=3, final_norm=True, **OPTIONS)
    assert [n for n, p in probe.named_parameters() if p.requires_grad] == []
    partial = ImageNetViT(img_size=32, trainable_blocks=1, **MEAN)
    assert {n.split(".")[1] for n, p in partial.named_parameters() if p.requires_grad and "layers" in n} == {
        "2"
    }


def test_only_known_grids():
    vit = ImageNetViT(img_size=32, **MEAN)
    assert vit(torch.randn(1, 3, 48, 48))[0].shape == (1, 48)
    with pytest.raises(UserError, match="takes square images"):
        vit(torch.randn(1, 3, 32, 48))


@pytest.fixture
def beit_file(tmp_path, make_encoder):
    """Pretrained with tables for 4 x 4 patches, without a position table."""
    weights, header = make_encoder(
        width=48, depth=3, heads=3, hidden=96, position="none", relative_position=True, layer_scale=True
    )
    torch.manual_seed(1)
    weights.pop("pos_embed", None)
    for i in range(3):
        weights[f"blocks.{i}.attn.relative_position_bias_table"] = torch.randn(7 * 7 + 3, 3)
        weights |= {f"blocks.{i}.ls{k}.gamma": torch.rand(48) for k in (1, 2)}
    path = tmp_path / "beit.safetensors"
    save_backbone(path, weights, header)
    return path, weights


def test_starts_from_a_file_of_another_size(beit_file):
    path, weights = beit_file
    model = ImageNetViT(
        img_size=64, positions=False, backbone_file=str(path), out_type="avg_featmap", **OPTIONS
    )
    model.init_weights()
    state = model.state_dict()
    table = weights["blocks.1.attn.relative_position_bias_table"]
    resized = resize_rel_pos_table(table, (4, 4), (8, 8))
    torch.testing.assert_close(state["layers.1.attn.relative_position_bias_table"], resized)
    assert torch.equal(state["layers.2.attn.qkv.weight"], weights["blocks.2.attn.qkv.weight"])
    assert torch.equal(state["layers.2.ffn.gamma2.weight"], weights["blocks.2.ls2.gamma"])
    assert "pos_embed" not in state
    assert model.pos_embed.abs().max() == 0


def test_a_plain_vit_refuses_the_file_and_says_why(beit_file):
    model = ImageNetViT(
        arch=ARCH, img_size=32, patch_size=8, out_type="avg_featmap", backbone_file=str(beit_file[0])
    )
    with pytest.raises(UserError, match="relative positions"):
        model.init_weights()


def test_a_recipe_gets_the_parts_of_its_encoder(beit_file, tmp_path, capsys):
    """Fine-tuning, probes and neighbours read any encoder with the recipes of plain ViTs."""
    path, _ = beit_file
    backbone = dict(type=ImageNetViT, arch=ARCH, img_size=32, patch_size=8, backbone_file=None)
    cfg = Config(dict(model=dict(backbone=backbone), work_dir=str(tmp_path)))
    set_backbone(cfg, path)
    assert (cfg.model.backbone.relative_positions, cfg.model.backbone.positions) == (True, False)
    assert cfg.model.backbone.layer_scale_init_value == 0.1
    assert "model.backbone.relative_positions=True model.backbone.positions=False" in capsys.readouterr().out
    model = FrozenFeatures(dict(cfg.model.backbone))
    model.init_weights()
    found = model(torch.randn(2, 3, 32, 32), ["cls-1", "avg-2"])
    assert {k: v.shape for k, v in found.items()} == {"cls-1": (2, 48), "avg-2": (2, 48)}


def test_frozen_features_are_those_of_the_dense_encoder(beit_file, tmp_path):
    """Two implementations: mmpretrain's ViT with tables, and the one that dense probes freeze."""
    path, _ = beit_file
    backbone = dict(
        type=FrozenViT, img_size=32, patch_size=8, embed_dims=48, depth=3, num_heads=3, mlp_ratio=2.0
    )
    backbone |= dict(pretrain_img_size=32, backbone_file=None)
    cfg = Config(dict(model=dict(backbone=backbone), work_dir=str(tmp_path)))
    set_backbone(cfg, path)
    dense = FrozenViT(**{k: v for k, v in cfg.model.backbone.items() if k != "type"})
    dense.init_weights()
    options = dict(OPTIONS, img_size=32, positions=False, final_norm=True, backbone_file=str(path))
    vit = FrozenFeatures(dict(options, type=ImageNetViT))
    vit.init_weights()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(vit(x, ["avg-1"])["avg-1"], dense(x)[0].mean((2, 3)), atol=1e-5, rtol=1e-5)
