"""Encoders with stages: Swin against timm, mmpretrain, mmseg and mmdet, the hybrid against tensors of ConvMAE."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import cmae_mm.compat  # noqa: F401  (before the libraries)
from cmae_mm.checkpoints import load_backbone, load_into, save_backbone
from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.recognise import recognise
from cmae_mm.checkpoints.targets import (
    TARGETS,
    build_timm,
    mmpretrain_config,
    mmseg_config,
    to_mmpretrain,
    to_mmseg,
)
from cmae_mm.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "convmae_tiny.safetensors"
SIZES = dict(img_size=64, embed_dim=16, depths=(2, 1, 2, 1), num_heads=(2, 2, 4, 4))
IMAGES = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(5))


def swin(seed=0, **change):
    """timm's model, every parameter drawn."""
    from timm.models.swin_transformer import SwinTransformer

    words = {**SIZES, "window_size": 2, "num_classes": 0, "strict_img_size": False, **change}
    return draw(SwinTransformer(**words), seed)


def mm_swin(kind="SimMIMSwinTransformer", seed=0):
    from mmpretrain.registry import MODELS

    arch = dict(embed_dims=16, depths=(2, 1, 2, 1), num_heads=(2, 2, 4, 4))
    return draw(MODELS.build(dict(type=kind, arch=arch, img_size=64, stage_cfgs=dict(window_size=2))), seed)


def draw(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = 0.2 * torch.randn(value.shape, generator=generator)
            value.copy_(1 + drawn if re.search(r"norm\d?\.weight$", name) else drawn)
    nn.Module.train(model, False)
    return model


def original(state):
    """timm's names to those of the original program, with the buffers that it saves."""
    out = {}
    for key, value in state.items():
        match = re.match(r"layers\.(\d)\.downsample\.(.*)", key)
        out[f"layers.{int(match[1]) - 1}.downsample.{match[2]}" if match else key] = value
    for key in [k for k in out if k.endswith("bias_table")]:
        out[key.replace("bias_table", "index")] = torch.zeros(4, 4, dtype=torch.int64)
    return {**out, "layers.0.blocks.1.attn_mask": torch.zeros(64, 4, 4)}


def files():
    """Name, families that fit, content, and the one to ask for."""
    state = original(swin().state_dict())
    simmim = {f"encoder.{k}": v for k, v in {**state, "mask_token": torch.zeros(1, 1, 16)}.items()}
    decoder = {"decoder.0.weight": torch.zeros(48, 128, 1, 1), "decoder.0.bias": torch.zeros(48)}
    yield "simmim-swin", ["simmim-swin"], {"model": {**simmim, **decoder}, "epoch": 3}
    yield "simmim-swin", ["simmim-swin"], {**state, "mask_token": torch.zeros(1, 1, 16)}
    yield "swin", ["simmim-swin", "swin"], {"model": {**state, "head.weight": torch.zeros(5, 128)}}
    yield "timm-swin", ["timm-swin"], {**swin().state_dict(), "head.fc.weight": torch.zeros(5, 128)}


@pytest.mark.parametrize(
    ("family", "names", "file"), files(), ids=["pretrained", "stripped", "supervised", "timm"]
)
@torch.no_grad()
def test_swin_of_originals_and_timm(family, names, file, tmp_path):
    assert recognise(file) == names
    torch.save(file, tmp_path / "x.pth")
    words = {"normalization": "imagenet"} if family == "timm-swin" else {}
    result = import_checkpoint(tmp_path / "x.pth", tmp_path / "x.safetensors", source=family, **words)
    state, header = load_backbone(tmp_path / "x.safetensors")
    right = swin().state_dict()
    assert state.keys() == right.keys()
    assert all(torch.equal(state[k], right[k]) for k in right)  # bit by bit
    model = build_timm(header)
    model.load_state_dict(state, strict=True)
    images = IMAGES[..., :64, :64]
    assert torch.equal(model.eval().forward_features(images), swin().forward_features(images))
    assert (header.kind, header.stage_windows, header.image_size) == ("swin", (2, 2, 2, 2), 64)
    assert (header.stage_heads, header.heads, header.ln_eps) == ((2, 2, 4, 4), 4, 1e-5)
    assert "taken is 64 px" in str(result.report)
    assert "swin encoder, blocks by stage: 2 of width 16 with 2 heads, " in str(result.report)


@pytest.mark.parametrize("prefix", ["backbone.", ""])
@pytest.mark.parametrize("kind", ["SimMIMSwinTransformer", "SwinTransformer"])
@torch.no_grad()
def test_swin_of_mmpretrain(kind, prefix, tmp_path):
    """The tokens are those of mmpretrain's own model, and the way back gives its own tensors bit by bit."""
    reference = mm_swin(kind)
    state = {prefix + k: v for k, v in reference.state_dict().items()}
    if kind.startswith("SimMIM") and prefix:
        state |= {"neck.decoder.0.weight": torch.zeros(48, 128, 1, 1)}
    family, words = {"SimMIMSwinTransformer": ("mmpretrain-simmim", {})}.get(
        kind, ("mmpretrain-swin", {"normalization": "imagenet"})
    )
    assert recognise({"state_dict": state}) == [family]
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    result = import_checkpoint(tmp_path / "x.pth", **words)
    model = build_timm(result.header).eval()
    model.load_state_dict(result.state, strict=True)
    if kind == "SwinTransformer":  # SimMIM's wants a mask
        theirs = reference(IMAGES[..., :64, :64])[-1]
        ours = model.forward_features(IMAGES[..., :64, :64]).permute(0, 3, 1, 2)
        assert float((ours - theirs).abs().max()) <= 1e-5
        assert float(theirs.std()) > 0.1
    back = to_mmpretrain(result.state, result.header)
    own = {k: v for k, v in reference.state_dict().items() if k != "mask_token"}
    assert back.keys() == own.keys()
    assert all(torch.equal(back[k], own[k]) for k in own)


def encoder(**change):
    """Tensors and header of timm's model by way of a file."""
    from cmae_mm.checkpoints.geometry import describe

    state = swin(**change).state_dict()
    return state, replace(describe(state, "swin"), method="test", ln_eps=1e-5)


@torch.no_grad()
def test_swin_to_mmpretrain():
    from mmpretrain.registry import MODELS

    for change in ({}, {"window_size": 4, "mlp_ratio": 2.0}):  # a window that no last map fills
        state, header = encoder(**change)
        model = MODELS.build(mmpretrain_config(header))
        model.load_state_dict(to_mmpretrain(state, header), strict=True)
        nn.Module.train(model, False)
        images = IMAGES[..., :64, :64]
        ours = swin(**change).forward_features(images).permute(0, 3, 1, 2)
        assert float((model(images)[-1] - ours).abs().max()) <= 1e-5


@pytest.mark.parametrize("library", ["mmseg", "mmdet"])
@torch.no_grad()
def test_swin_to_dense_libraries(library):
    """Images are larger than in pretraining, so that windows are shifted in the last stage of timm's model as well."""
    if library == "mmseg":
        from mmseg.registry import MODELS
    else:
        from mmdet.registry import MODELS

    state, header = encoder()
    model = MODELS.build(mmseg_config(header))
    exported = TARGETS[library](state, header)
    assert torch.equal(exported["norm3.weight"], state["norm.weight"])
    assert exported.keys() == to_mmseg(state, header).keys()
    model.load_state_dict(exported, strict=True)
    nn.Module.train(model, False)
    ours = swin(img_size=128).forward_features(IMAGES).permute(0, 3, 1, 2)
    theirs = model(IMAGES)
    assert [tuple(t.shape[1:]) for t in theirs] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert float((theirs[-1] - ours).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(depths=(1, 3), num_heads=(2, 8), window_size=4),
        dict(mlp_ratio=2.0, patch_size=2),
        dict(window_size=4),
    ],
    ids=str,
)
def test_shapes_are_those_of_timm(change):
    state, header = encoder(**change)
    assert {k: expected_shape(k, header) for k in expected_keys(header)} == {
        k: tuple(v.shape) for k, v in state.items()
    }
    # the image in which the last stage is one window: smaller windows fit there
    assert header.image_size == header.stage_windows[-1] * header.patch <= 64


def test_the_size_of_swin_base():
    """SimMIM's Swin-B has 363 tensors: these, a mask token, 24 indices, masks of 11 shifted blocks."""
    from cmae_mm.checkpoints import BackboneHeader

    sizes = dict(
        stage_widths=(128, 256, 512, 1024),
        stage_depths=(2, 2, 18, 2),
        stage_heads=(4, 8, 16, 32),
        stage_hidden=(512, 1024, 2048, 4096),
        stage_strides=(4, 2, 2, 2),
        stage_windows=(6, 6, 6, 6),
    )
    plain = dict(class_token=False, position="none", relative_position=True, kind="swin")
    header = BackboneHeader("simmim", 1024, 24, 32, 4096, 32, 192, **plain, **sizes)
    header.check("here")
    keys = expected_keys(header)
    assert len(keys) == 363 - 1 - 24 - 11
    import timm

    with torch.device("meta"):
        model = timm.create_model("swin_base_patch4_window7_224", img_size=192, window_size=6, num_classes=0)
    assert {k: expected_shape(k, header) for k in keys} == {
        k: tuple(v.shape) for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 64}, "width is 64, but the stages make 128"),
        ({"depth": 7}, "depth is 7, but the stages make 6"),
        ({"patch": 16}, "patch is 16, but the stages make 32"),
        ({"class_token": True}, "class_token must be False"),
        ({"position": "patches"}, "position must be 'none'"),
        ({"stage_windows": (2, 2)}, "as many values each"),
        ({"stage_heads": (2, 2, 3, 4)}, "3 heads do not divide a width of 64"),
        ({"kind": "hybrid"}, "position must be 'patches'"),
        ({"kind": "vit"}, "a ViT has no stages"),
    ],
)
def test_headers_that_contradict_themselves(change, words, tmp_path):
    state, header = encoder()
    with pytest.raises(UserError, match=words):
        save_backbone(tmp_path / "x.safetensors", state, replace(header, **change))


def test_what_is_not_carried_is_refused():
    state, header = encoder()
    for to in ("hf",):
        with pytest.raises(UserError, match="has no model for this swin encoder"):
            TARGETS[to](state, header)
    mixed = replace(header, stage_windows=(4, 4, 4, 2))
    with pytest.raises(UserError, match="windows of another size in each stage"):
        to_mmseg(state, mixed)
    with pytest.raises(UserError, match="widths that do not double"):
        TARGETS["timm"](state, replace(header, stage_widths=(16, 48, 64, 128)))
    with pytest.raises(UserError, match="epsilon of 1e-06"):
        to_mmpretrain(state, replace(header, ln_eps=1e-6))


def test_a_vit_does_not_read_it(tmp_path, make_encoder):
    from timm.models.vision_transformer import VisionTransformer

    state, header = encoder()
    save_backbone(tmp_path / "x.safetensors", state, header)
    with pytest.raises(UserError, match="holds a swin encoder, which this model cannot read"):
        load_into(VisionTransformer(32, 8, embed_dim=48, depth=2, num_heads=3), tmp_path / "x.safetensors")


@torch.no_grad()
def test_the_hybrid_of_convmae(tmp_path):
    """Imported from a recording of the original, loaded into our model: the recorded tokens of the whole image."""
    from cmae_mm.checkpoints.sources.convmae import hybrid_name
    from cmae_mm.pretrain.hybrid import CMAEHybridViT

    golden = load_file(GOLDEN)
    result = import_checkpoint(GOLDEN, tmp_path / "x.safetensors", heads=4)
    state, header = load_backbone(tmp_path / "x.safetensors")
    assert (header.family, header.kind, header.final_norm, header.grid) == ("convmae", "hybrid", "none", 4)
    assert all(torch.equal(v, golden[f"state.{k}"]) for k, v in state.items())
    assert {"norm.*", "decoder_*", "grad.*", "in.*"} <= set(result.header.dropped)
    arch = dict(widths=header.stage_widths, depths=header.stage_depths, heads=header.heads)
    ratios = tuple(h // w for h, w in zip(header.stage_hidden, header.stage_widths, strict=True))
    model = CMAEHybridViT({**arch, "mlp_ratios": ratios}, 64, fusion=False, final_norm=False)
    model.load_state_dict({hybrid_name(k): v for k, v in state.items()}, strict=True)
    images = next(v for k, v in golden.items() if k.startswith("in.") and v.ndim == 4)
    assert float((model(images, None)[0] - golden["out.tokens_unmasked"]).abs().max()) <= 5e-6
    for to in TARGETS:
        with pytest.raises(UserError, match="has no model for this hybrid encoder"):
            TARGETS[to](state, header)


def hybrid(side=64, heads=4, **change):
    from cmae_mm.pretrain.hybrid import CMAEHybridViT

    arch = dict(widths=(16, 24, 48), depths=(2, 1, 3), mlp_ratios=(4, 4, 4), heads=heads)
    return CMAEHybridViT(arch, side, **{"fusion": False, "final_norm": False, **change})


@torch.no_grad()
def test_strict_loading_of_a_hybrid(tmp_path):
    """The same size: recorded tokens. A larger one: the position table is resized, everything else stays."""
    from mmpretrain.models.utils import resize_pos_embed

    from cmae_mm.checkpoints.sources.convmae import canonical_name

    golden, file = load_file(GOLDEN), tmp_path / "x.safetensors"
    import_checkpoint(GOLDEN, file, heads=4)
    model = hybrid()
    report = load_into(model, file, rename=canonical_name)
    assert (len(report.matched), report.missing, report.unexpected, report.resized) == (93, [], [], {})
    images = next(v for k, v in golden.items() if k.startswith("in.") and v.ndim == 4)
    assert float((model(images, None)[0] - golden["out.tokens_unmasked"]).abs().max()) <= 5e-6
    larger = hybrid(96)
    report = load_into(larger, file, rename=canonical_name)
    assert report.resized == {"pos_embed": "4x4 to 6x6"}
    right = resize_pos_embed(model.pos_embed, (4, 4), (6, 6), num_extra_tokens=0)
    assert float((larger.pos_embed - right).abs().max()) <= 1e-6
    with pytest.raises(UserError, match="has 4 heads, the model's 8"):
        load_into(hybrid(heads=8), file, rename=canonical_name)
    with pytest.raises(UserError, match="6 of the model are not in the file"):
        load_into(hybrid(fusion=True, final_norm=True), file, rename=canonical_name)
    with pytest.raises(UserError, match="holds a hybrid encoder, which this model cannot read; docs/hybrid"):
        load_into(swin(), file)


def test_strict_loading_of_a_swin(tmp_path):
    state, header = encoder()
    save_backbone(tmp_path / "x.safetensors", state, header)
    model = swin(seed=7)
    assert len(load_into(model, tmp_path / "x.safetensors").matched) == len(state)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    before = {k: v.clone() for k, v in swin(window_size=4).state_dict().items()}
    other = swin(window_size=4)
    with pytest.raises(UserError, match="shapes differ"):  # tables of relative positions
        load_into(other, tmp_path / "x.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("kind", ["swin", "hybrid"])
@torch.no_grad()
def test_the_input_is_folded_into_the_first_convolution(kind, tmp_path):
    if kind == "swin":
        state, header = encoder()
        stem = "patch_embed.proj"
    else:
        result = import_checkpoint(GOLDEN, heads=4)
        state, header, stem = result.state, result.header, "patch_embed1.proj"
    header = replace(header, channel_order="bgr", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    folded = fold_input(state, header)
    assert {k for k in state if not torch.equal(state[k], folded[k])} == {f"{stem}.weight", f"{stem}.bias"}
    pixels = 255 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def tokens(tensors, images, mean, std):
        fed = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        weight = tensors[f"{stem}.weight"]
        return nn.functional.conv2d(fed, weight, tensors[f"{stem}.bias"], stride=weight.shape[2])

    right = tokens(state, pixels.flip(1), header.mean, header.std)
    ours = tokens(folded, pixels, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert float((ours - right).abs().max() / right.abs().max()) <= 1e-5
