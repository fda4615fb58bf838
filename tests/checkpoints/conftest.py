"""Tiny checkpoints of every family, made from a library's own model by undoing what an importer does.

Names are those of the original programs, written out here once more and independently of `cmae_mm`.
"""

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm imports)

# isort: split
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

SIDE, PATCH, WIDTH, HEADS = 4, 16, 48, 3
TOLERANCE = 1e-5
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def randomise(model, seed=0):
    """Draw every parameter, so that none is a harmless zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = 0.2 * torch.randn(value.shape, generator=generator)
            value.copy_(1 + drawn if re.search(r"(norm\d?|ln\d?)\.weight$", name) else drawn)
    nn.Module.train(model, False)
    return model


def fixed_table(first, side=SIDE, width=WIDTH):
    """mmpretrain's table is row-first; MAE's is its transpose. The class row is zero."""
    from mmpretrain.models.utils import build_2d_sincos_position_embedding

    table = build_2d_sincos_position_embedding((side, side), width)
    if first == "col":
        table = table.reshape(1, side, side, width).transpose(1, 2).reshape(1, side * side, width)
    return torch.cat((torch.zeros(1, 1, width), table), 1)


def timm_vit(table="learned", seed=0, patch=PATCH, eps=1e-6, **change):
    """timm's VisionTransformer with random weights, or with one of the fixed position tables."""
    from timm.models.vision_transformer import VisionTransformer

    arch = dict(
        img_size=SIDE * patch,
        patch_size=patch,
        embed_dim=WIDTH,
        depth=2,
        num_heads=HEADS,
        mlp_ratio=2.0,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=eps),
    )
    model = randomise(VisionTransformer(**{**arch, **change}), seed)
    if table != "learned":
        model.pos_embed.data.copy_(fixed_table(table))
    return model


def timm_beit(seed=0, shared=False, pool="avg", eps=1e-6, **change):
    """timm's Beit with random weights; the table of relative positions is shared or one a block."""
    from timm.models.beit import Beit

    arch = dict(
        img_size=SIDE * PATCH,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=HEADS,
        mlp_ratio=2.0,
        num_classes=0,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        global_pool=pool,
        norm_layer=partial(nn.LayerNorm, eps=eps),
    )
    return randomise(Beit(**{**arch, **change}), seed)


def build_timm(header, state):
    """timm's model for imported tensors, loaded strictly; nothing of the importer is used."""
    common = dict(
        img_size=header.image_size,
        patch_size=header.patch,
        embed_dim=header.width,
        depth=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden / header.width,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=header.ln_eps),
    )
    pool = "avg" if header.final_norm == "fc_norm" else "token"
    if header.relative_position:
        model = timm_beit(shared=False, pool=pool, eps=header.ln_eps)
        state = {re.sub(r"ls([12])\.gamma$", r"gamma_\1", k): v for k, v in state.items()}
        for key in [k for k in state if k.endswith("qkv.bias")]:
            query, bias, value = state.pop(key).chunk(3)
            assert not bias.any()
            state |= {key[:-8] + "q_bias": query, key[:-8] + "v_bias": value}
        if header.final_norm == "none":
            model.norm = nn.Identity()
    else:
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(
            **common,
            class_token=header.class_token,
            no_embed_class=header.position == "patches",
            reg_tokens=header.registers,
            init_values=1.0 if header.layer_scale else None,
            global_pool=pool if header.class_token else "avg",
            fc_norm=header.final_norm == "fc_norm",
            final_norm=header.final_norm != "none",
            **(swiglu() if header.mlp == "swiglu" else {}),
        )
    model.load_state_dict(state, strict=True)
    return model.eval()


def rename(state, *rules):
    out = {}
    for key, value in state.items():
        for old, new in rules:
            key = re.sub(old, new, key)
        out[key] = value
    return out


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def junk(*names):
    """Tensors that are no part of an encoder."""
    return {name: torch.full((2, 3), 7.0) for name in names}


def to_mm(state):
    """timm's names to OpenMMLab's."""
    return rename(
        state,
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm\.", "ln1."),
        (r"^fc_norm\.", "ln2."),
        (r"^blocks\.(\d+)\.norm", r"layers.\1.ln"),
        (r"^blocks\.", "layers."),
        (r"mlp\.fc1\.", "ffn.layers.0.0."),
        (r"mlp\.fc2\.", "ffn.layers.1."),
        (r"ls1\.gamma$", "attn.gamma1.weight"),
        (r"ls2\.gamma$", "ffn.gamma2.weight"),
    )


def to_hf(state, live=False, dino=False):
    """timm's names to those of Hugging Face: of files, or of live models of version 5."""
    out = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            names = ("q_proj", "k_proj", "v_proj") if live else ("query", "key", "value")
            inner = "attention" if live else "attention.attention"
            for name, part in zip(names, value.chunk(3), strict=True):
                out[key.replace("attn.qkv", f"{inner}.{name}")] = part.clone()
        else:
            out[key] = value
    block = "layers." if live and not dino else "encoder.layer."
    rules = [
        (r"^(cls_token)$", r"embeddings.\1"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"^fc_norm\.", "pooler.layernorm."),
        (r"\.attn\.proj\.", ".attention.o_proj." if live else ".attention.output.dense."),
        (r"^blocks\.", block),
    ]
    if dino:
        rules += [
            (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
            (r"\.attention\.o_proj", ".attention.output.dense"),
        ]
    else:
        rules += [
            (r"\.(ls|gamma_)([12])(\.gamma)?$", r".lambda_\2"),
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
        ]
    if not live and not dino:
        rules += [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
    return rename(out, *rules)


def cat(*dicts):
    out = {}
    for d in dicts:
        assert not set(out) & set(d)
        out |= d
    return out


def beit_index(model):
    """The index buffers, which timm does not save and the original programs do."""
    index = torch.arange(17 * 17).reshape(17, 17)
    if model.rel_pos_bias is not None:
        return {"rel_pos_bias.relative_position_index": index}
    return {f"blocks.{i}.attn.relative_position_index": index.clone() for i in range(len(model.blocks))}


def shared_to_original(model):
    return cat(model.state_dict(), beit_index(model))


def unfolded(model):
    """DINOv2 with registers as its authors store it: the class token has a position of its own."""
    state = dict(model.state_dict())
    row = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(3))
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - row
    state["pos_embed"] = torch.cat((row, state["pos_embed"]), 1)
    return state


def swiglu():
    """Arguments that make timm's ViT gated; its blocks would pass GELU on to the gate."""
    from timm.layers import SwiGLUPacked

    return {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}


def features(model, image):
    """All tokens after the blocks and the norm on tokens, and what is pooled of them."""
    with torch.no_grad():
        tokens = model.forward_features(image)
        return tokens, model.forward_head(tokens, pre_logits=True)


def check_import(file, path, family, names, **words):
    """Hold recognition to exactly these names, import, and build timm's model from the result."""
    from cmae_mm.checkpoints.backbone_file import expected_keys
    from cmae_mm.checkpoints.importing import import_checkpoint
    from cmae_mm.checkpoints.recognise import recognise

    if "branch" not in words:
        assert recognise(file) == names
    torch.save(file, path)
    result = import_checkpoint(path, source=family, heads=HEADS, **words)
    assert set(result.state) == expected_keys(result.header)
    assert result.header.family == family
    check_round_trip(file, result)
    return result, build_timm(result.header, result.state)


def all_tensors(file):
    """Every tensor of nested dicts, by its key there."""
    for key, value in file.items():
        if isinstance(value, dict):
            yield from all_tensors(value)
        elif isinstance(value, torch.Tensor):
            yield key, value


# Families that keep names, or that another library's names give back: every tensor of the way out is in the file.
WHOLE = ("mae", "mocov3", "dino", "ibot", "maskfeat", "timm-vit", "mmpretrain-mae", "mmpretrain-mocov3")
WHOLE += ("mmpretrain-maskfeat", "mmpretrain-vit", "mmpretrain-dinov2")


def check_round_trip(file, result):
    """The way out gives the file's own tensors bit by bit, wherever names are the same.

    The exception is the class token of an encoder with registers, to which its position was added.
    """
    from cmae_mm.checkpoints.targets import TARGETS
    from cmae_mm.errors import UserError

    family, source = result.header.family, {}
    for key, value in all_tensors(file):
        source.setdefault(key, []).append(value)
    library = {"mmpretrain": "mmpretrain", "cmae": "mmpretrain", "hf": "hf"}.get(
        family.partition("-")[0], "timm"
    )
    if any(key.startswith(("encoder_s.", "blocks.")) for key in source):
        library = "timm"
    try:
        exported = TARGETS[library](result.state, result.header)
    except UserError:  # an encoder that the library has no model for
        return
    folded = ("cls_token", "pos_embed", "position_embeddings") if result.header.registers else ()
    strange = []
    for key, value in exported.items():
        names = [
            k
            for k in source
            if k == key
            or (k.endswith(f".{key}") and not re.search(r"(layers?|blocks)\.\d+\.$", k[: -len(key)]))
        ]
        same_name = [v for k in names for v in source[k]]
        if not same_name:
            strange.append(key)
        elif not key.endswith((*folded, "mask_token", "_index")):
            assert any(torch.equal(value, v.to(value.dtype)) for v in same_name), key
    # the final norm of CMAE is called ln or fc_norm in two of its layouts
    most = 0 if family in WHOLE else 2 if family == "cmae" else len(exported) - 1
    assert len(strange) <= most, strange


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    assert float(theirs.std()) > 0.1  # the comparison is not one of zeros


def check_features(file, reference, path, family, names, **words):
    """Import and compare tokens and pooled features with timm's own model of the same weights."""
    result, ours = check_import(file, path, family, names, **words)
    size = result.header.image_size
    image = IMAGE[..., :size, :size]
    for got, expected in zip(features(ours, image), features(reference, image), strict=True):
        assert_same(got, expected)
    return result


def any_encoder(**change):
    """A random encoder with every tensor of its header, none of them special."""
    from cmae_mm.checkpoints import BackboneHeader
    from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape

    header = BackboneHeader(
        "test", width=48, depth=2, heads=3, hidden=96, patch=8, image_size=40, ln_eps=1e-5
    )
    header = replace(header, **change)
    draw = torch.Generator().manual_seed(0)
    shapes = {k: expected_shape(k, header) for k in sorted(expected_keys(header))}
    state = {k: 0.15 * torch.randn(v, generator=draw) for k, v in shapes.items()}
    return {k: v + 1 if k.endswith(("norm.weight", "gamma")) else v for k, v in state.items()}, header


@pytest.fixture(scope="session")
def encoder():
    """The function that draws an encoder with any parts; test modules cannot import this file."""
    return any_encoder


@pytest.fixture(scope="session")
def zoo():
    """Models, name changes and other helpers; test modules cannot import this file."""
    return SimpleNamespace(
        vit=timm_vit,
        beit=timm_beit,
        build=build_timm,
        fixed_table=fixed_table,
        rename=rename,
        prefixed=prefixed,
        junk=junk,
        to_mm=to_mm,
        to_hf=to_hf,
        randomise=randomise,
        image=IMAGE,
        cat=cat,
        beit_index=beit_index,
        shared_to_original=shared_to_original,
        unfolded=unfolded,
        swiglu=swiglu,
        check_import=check_import,
        check_features=check_features,
        assert_same=assert_same,
    )
