"""mmpretrain: checkpoints of its own models give its own features in timm's model."""

from pathlib import Path

import pytest
import torch

from cmae_mm.checkpoints.sources import FAMILIES

ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
SIZE = dict(arch=ARCH, img_size=64, patch_size=16)
RAW = dict(out_type="raw", final_norm=True)
INDICES = "rel_pos_bias.relative_position_index"
BLOCK_INDICES = "layers.*.attn.relative_position_index"
MM_ROW = ["cmae", "mmpretrain-mae", "mmpretrain-mocov3"]
BEITS = ["mmpretrain-beit", "mmpretrain-beit2"]


def random(zoo, model, fixed=True):
    """Random weights, except for a position table that the method never trains."""
    table = model.backbone.pos_embed if hasattr(model, "backbone") else getattr(model, "pos_embed", None)
    kept = table.detach().clone() if fixed and table is not None else None
    zoo.randomise(model)
    if kept is not None:
        table.data.copy_(kept)
    return model


def build(zoo, config, fixed=True):
    """A model of mmpretrain; those of pretraining fill their tables in init_weights."""
    import mmpretrain.models  # noqa: F401  (registers)
    from mmpretrain.registry import MODELS

    model = MODELS.build(config)
    if fixed:
        model.init_weights()
    return random(zoo, model, fixed)


def tokens(backbone, image, *mask):
    with torch.no_grad():
        out = backbone(image, *mask)
    return out[-1] if isinstance(out, (tuple, list)) else out


def check(zoo, tmp_path, state, expected, family, names, dropped=(), **words):
    file = {"state_dict": state, "meta": {"epoch": 3}}
    result, ours = zoo.check_import(file, tmp_path / "mm.pth", family, names, **words)
    assert sorted(result.header.dropped) == sorted(dropped)
    with torch.no_grad():
        zoo.assert_same(ours.forward_features(zoo.image), expected)
    return result


def mae(zoo):
    decoder = dict(
        type="MAEPretrainDecoder",
        num_patches=16,
        patch_size=16,
        embed_dim=48,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=4,
    )
    head = dict(
        type="MAEPretrainHead", patch_size=16, loss=dict(type="PixelReconstructionLoss", criterion="L2")
    )
    return build(zoo, dict(type="MAE", backbone=dict(type="MAEViT", **SIZE), neck=decoder, head=head))


def test_mae(zoo, tmp_path):
    model = mae(zoo)
    expected = tokens(model.backbone, zoo.image, None)
    check(zoo, tmp_path, model.state_dict(), expected, "mmpretrain-mae", ["mmpretrain-mae"], ["neck.*"])


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("family", ["mmpretrain-mae", "mmpretrain-mocov3", "cmae"])
def test_extracted_backbones_with_a_fixed_table_are_ambiguous(zoo, tmp_path, prefix, family):
    backbone = mae(zoo).backbone
    expected = tokens(backbone, zoo.image, None)
    check(zoo, tmp_path, zoo.prefixed(prefix, backbone.state_dict()), expected, family, MM_ROW)


@pytest.mark.parametrize("branch", [None, "base", "momentum"])
def test_mocov3(zoo, tmp_path, branch):
    def neck(width):
        layer = dict(type="NonLinearNeck", in_channels=width, hid_channels=32, out_channels=16)
        return dict(layer, num_layers=2, with_avg_pool=False)

    head = dict(type="MoCoV3Head", predictor=neck(16), loss=dict(type="CrossEntropyLoss"))
    model = build(zoo, dict(type="MoCoV3", backbone=dict(type="MoCoV3ViT", **SIZE), neck=neck(48), head=head))
    twin = model.momentum_encoder.module[0]
    with torch.no_grad():  # a table of its own, too
        twin.pos_embed.copy_(model.backbone.pos_embed)
    used = twin if branch == "momentum" else model.backbone
    used.out_type = "raw"
    dropped = ["head.*", "neck.*", "momentum_encoder.*"] + (["backbone.*"] if branch == "momentum" else [])
    family = "mmpretrain-mocov3"
    words = {"branch": branch} if branch else {}
    result = check(
        zoo, tmp_path, model.state_dict(), tokens(used, zoo.image), family, [family], dropped, **words
    )
    assert result.header.branch == (branch or "base")


@pytest.mark.parametrize("second", [False, True])
def test_beit_pretraining(zoo, tmp_path, second):
    shared = dict(use_shared_rel_pos_bias=True, use_rel_pos_bias=False, use_abs_pos_emb=False)
    backbone = build(zoo, dict(type="BEiTPretrainViT", **SIZE, **shared, final_norm=True), fixed=False)
    extra = ["head.cls_head.weight", "target_generator.encoder.blocks.0.attn.qkv.weight"]
    extra += ["neck.patch_aggregation.0.ln1.weight"] if second else []
    state = zoo.cat(zoo.prefixed("backbone.", backbone.state_dict()), zoo.junk(*extra))
    dropped = ["head.*", "target_generator.*", "backbone.mask_token", f"backbone.{INDICES}"]
    family = BEITS[second]
    expected = tokens(backbone, zoo.image, torch.zeros(2, 4, 4))
    names = [family]
    check(zoo, tmp_path, state, expected, family, names, dropped + (["neck.*"] if second else []))


@pytest.mark.parametrize("family", BEITS)
def test_beit_fine_tuned(zoo, tmp_path, family):
    """A table a block, and only the norm after pooling."""
    model = build(zoo, dict(type="BEiTViT", **SIZE, out_type="avg_featmap", final_norm=False), fixed=False)
    state = zoo.cat(zoo.prefixed("backbone.", model.state_dict()), zoo.junk("head.fc.weight"))
    file = {"state_dict": state}
    result, ours = zoo.check_import(file, tmp_path / "mm.pth", family, BEITS)
    assert sorted(result.header.dropped) == [f"backbone.{BLOCK_INDICES}", "head.*"]
    assert (result.header.final_norm, result.header.pooling) == ("fc_norm", "avg")
    assert result.header.mean[0] == (127.5 if family == "mmpretrain-beit" else 123.675)
    with torch.no_grad():
        pooled = ours.forward_head(ours.forward_features(zoo.image), pre_logits=True)
    zoo.assert_same(pooled, tokens(model, zoo.image))


@pytest.mark.parametrize("whole", [True, False])
def test_cae(zoo, tmp_path, whole):
    config = dict(type="CAEPretrainViT", **SIZE, layer_scale_init_value=0.1)
    pretrained = build(zoo, config)
    plain = dict(type="BEiTViT", **SIZE, **RAW, use_abs_pos_emb=True, use_rel_pos_bias=False)
    reference = build(zoo, plain, fixed=False)
    reference.load_state_dict(pretrained.state_dict())
    inner = pretrained.state_dict()
    extra = zoo.junk("teacher.ln1.weight", "neck.mask_token", "target_generator.blocks.group_1.weight")
    state = zoo.cat(zoo.prefixed("backbone.", inner), extra) if whole else inner
    dropped = ["neck.*", "target_generator.*", "teacher.*"] if whole else []
    expected = tokens(reference, zoo.image)
    check(zoo, tmp_path, state, expected, "mmpretrain-cae", ["mmpretrain-cae"], dropped)


def test_maskfeat(zoo, tmp_path):
    backbone = dict(type="MaskFeatViT", **SIZE)
    loss = dict(type="PixelReconstructionLoss", criterion="L2")
    model = build(
        zoo,
        dict(
            type="MaskFeat",
            backbone=backbone,
            neck=dict(type="LinearNeck", in_channels=48, out_channels=108, gap_dim=0),
            head=dict(type="MIMHead", loss=loss),
            target_generator=dict(type="HOGGenerator", nbins=9, pool=8, gaussian_window=16),
        ),
        fixed=False,
    )
    expected = tokens(model.backbone, zoo.image, torch.zeros(2, 16))
    dropped = ["backbone.mask_token", "neck.*", "target_generator.*"]
    check(
        zoo, tmp_path, model.state_dict(), expected, "mmpretrain-maskfeat", ["mmpretrain-maskfeat"], dropped
    )


@pytest.mark.parametrize(
    "change", [{}, {"layer_scale_init_value": 0.1}, {"pre_norm": False, "qkv_bias": True}]
)
@pytest.mark.parametrize("head", [True, False])
def test_vit(zoo, tmp_path, change, head):
    model = build(zoo, dict(type="VisionTransformer", **SIZE, **RAW, **change), fixed=False)
    state = model.state_dict()
    if head:
        state = zoo.cat(zoo.prefixed("backbone.", state), zoo.junk("head.layers.head.weight"))
    family = "mmpretrain-vit"
    expected = tokens(model, zoo.image)
    dropped = ["head.*"] if head else []
    result = check(zoo, tmp_path, state, expected, family, [family], dropped, normalization="half")
    assert result.header.layer_scale is bool(change.get("layer_scale_init_value"))


def test_vit_with_a_norm_after_pooling(zoo, tmp_path):
    model = build(
        zoo, dict(type="VisionTransformer", **SIZE, out_type="avg_featmap", final_norm=False), fixed=False
    )
    result, ours = zoo.check_import(
        {"state_dict": zoo.prefixed("backbone.", model.state_dict())},
        tmp_path / "mm.pth",
        "mmpretrain-vit",
        ["mmpretrain-vit"],
        normalization="imagenet",
    )
    assert (result.header.final_norm, result.header.pooling) == ("fc_norm", "avg")
    with torch.no_grad():
        pooled = ours.forward_head(ours.forward_features(zoo.image), pre_logits=True)
    zoo.assert_same(pooled, tokens(model, zoo.image))


@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2(zoo, tmp_path, swiglu):
    ffn = dict(layer_cfgs=dict(ffn_type="swiglu_fused")) if swiglu else {}
    config = dict(
        type="VisionTransformer", arch=ARCH, img_size=56, patch_size=14, layer_scale_init_value=1e-5
    )
    model = build(zoo, dict(config, **RAW, **ffn), fixed=False)
    family = "mmpretrain-dinov2"
    file = {"state_dict": zoo.prefixed("backbone.", model.state_dict())}
    result, ours = zoo.check_import(file, tmp_path / "mm.pth", family, [family])
    assert (result.header.mlp, result.header.patch) == ("swiglu" if swiglu else "gelu", 14)
    image = zoo.image[..., :56, :56]
    with torch.no_grad():
        zoo.assert_same(ours.forward_features(image), tokens(model, image))


def test_every_family_of_mmpretrain_is_named_here():
    source = Path(__file__).read_text()
    staged = ("mmpretrain-simmim", "mmpretrain-swin")  # see test_staged.py
    names = [name for name in FAMILIES if name.startswith("mmpretrain-") and name not in staged]
    assert len(names) == 8
    assert all(f'"{name}"' in source for name in names)
