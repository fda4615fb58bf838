"""Hugging Face transformers: ``ViTModel``, ``Dinov2Model``, ``Dinov2WithRegistersModel`` or ``BeitModel``.

Names are those of files (version 4); version 5 has others in its modules and translates when it loads a file.

=================  =====================================  ==============================  =============================
in the file        ``ViTModel``                           ``Dinov2...``                   ``BeitModel``
=================  =====================================  ==============================  =============================
taken for          plain encoders                         layer scale, registers, SwiGLU  relative positions
``attn.qkv``       ``attention.attention.{query,key,...}``  the same                      the same, no key bias
``attn.proj``      ``attention.output.dense``             the same                        the same
``norm1, norm2``   ``layernorm_before, layernorm_after``  ``norm1, norm2``                as ``ViTModel``
``mlp.fc1, fc2``   ``intermediate.dense, output.dense``   ``mlp.fc1, mlp.fc2``;           as ``ViTModel``
                                                          ``mlp.weights_in, weights_out``
``lsK.gamma``      refused                                ``layer_scaleK.lambda1``;       ``lambda_K``
                                                          none: ones
``norm``           ``layernorm``                          ``layernorm``                   ``layernorm``
``fc_norm``        refused                                refused                         ``pooler.layernorm``
=================  =====================================  ==============================  =============================

Dinov2 also has a mask token, which no inference uses: zeros. A table of positions that the encoder lacks is zeros.

Not carried: no class token, no final norm, relative positions with registers or a SwiGLU, ``fc_norm`` outside of
``BeitModel``; in Dinov2 an MLP whose width does not follow from a whole ratio.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import Tensors, refuse, refuse_kind, rename, with_class_row

_LAYER = r"encoder.layer.\1."
_ALL_RULES = (
    (re.compile(r"^patch_embed\.proj\."), "embeddings.patch_embeddings.projection."),
    (re.compile(r"^cls_token$"), "embeddings.cls_token"),
    (re.compile(r"^reg_token$"), "embeddings.register_tokens"),
    (re.compile(r"^pos_embed$"), "embeddings.position_embeddings"),
    (re.compile(r"^blocks\.(\d+)\.attn\.(query|key|value)\."), _LAYER + r"attention.attention.\2."),
    (re.compile(r"^blocks\.(\d+)\.attn\.proj\."), _LAYER + "attention.output.dense."),
    (
        re.compile(r"^blocks\.(\d+)\.attn\.(relative_position_bias_table)$"),
        _LAYER + r"attention.attention.relative_position_bias.\2",
    ),
    (re.compile(r"^norm\."), "layernorm."),
    (re.compile(r"^fc_norm\."), "pooler.layernorm."),
)
_VIT_RULES = (
    (re.compile(r"^blocks\.(\d+)\.norm1\."), _LAYER + "layernorm_before."),
    (re.compile(r"^blocks\.(\d+)\.norm2\."), _LAYER + "layernorm_after."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc1\."), _LAYER + "intermediate.dense."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc2\."), _LAYER + "output.dense."),
    (re.compile(r"^blocks\.(\d+)\.ls([12])\.gamma$"), _LAYER + r"lambda_\2"),
)
_GLU_RULES = (
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc1\."), _LAYER + "mlp.weights_in."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc2\."), _LAYER + "mlp.weights_out."),
)
_DINO_RULES = (
    (re.compile(r"^blocks\.(\d+)\.ls([12])\.gamma$"), _LAYER + r"layer_scale\2.lambda1"),
    (re.compile(r"^blocks\.(\d+)\."), _LAYER),
)


def to_hf(state: Tensors, header: BackboneHeader) -> Tensors:
    """Rename and split for transformers; see the table above.

    Args:
        state: Tensors of a backbone file.
        header: Its header.

    Returns:
        Content of ``model.safetensors`` beside a ``config.json`` of `hf_config`.

    Raises:
        UserError: If transformers has no such model.
    """
    kind = _model_type(header)
    state = _split(state, header, key_bias=kind != "beit")
    if kind != "beit" or header.position != "none":
        state["pos_embed"] = with_class_row(state, header)
    if kind in ("vit", "beit"):
        return rename(state, (*_ALL_RULES, *_VIT_RULES))
    for i in range(header.depth):
        for k in (1, 2):
            state.setdefault(f"blocks.{i}.ls{k}.gamma", torch.ones(header.width))
    rules = (*_GLU_RULES, *_DINO_RULES) if header.mlp == "swiglu" else _DINO_RULES
    return {
        "embeddings.mask_token": torch.zeros(1, header.width),
        **rename(state, (*_ALL_RULES, *rules)),
    }


def hf_config(header: BackboneHeader) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        header: Architecture.

    Returns:
        ``model_type`` and what differs from its defaults.

    Raises:
        UserError: If transformers has no such model.
    """
    kind = _model_type(header)
    names = {"vit": "ViTModel", "beit": "BeitModel", "dinov2": "Dinov2Model"}
    config: dict[str, Any] = dict(
        model_type=kind,
        architectures=[names.get(kind, "Dinov2WithRegistersModel")],
        hidden_size=header.width,
        num_hidden_layers=header.depth,
        num_attention_heads=header.heads,
        image_size=header.image_size,
        patch_size=header.patch,
        layer_norm_eps=header.ln_eps,
    )
    if kind == "vit":
        return config | dict(intermediate_size=header.hidden)
    if kind == "beit":
        return config | dict(
            intermediate_size=header.hidden,
            use_relative_position_bias=True,
            use_absolute_position_embeddings=header.position != "none",
            use_mean_pooling=header.final_norm == "fc_norm",
            layer_scale_init_value=1.0 if header.layer_scale else 0.0,
        )
    config |= dict(mlp_ratio=_mlp_ratio(header), use_swiglu_ffn=header.mlp == "swiglu")
    return config | (dict(num_register_tokens=header.registers) if header.registers else {})


def _mlp_ratio(header: BackboneHeader) -> int | None:
    """The whole number from which DINOv2 derives the width of its MLP; None if there is none.

    For each half of a SwiGLU it takes two thirds of the width times this number, rounded up to a multiple of 8.
    """
    for ratio in range(1, 65):
        hidden = header.width * ratio
        if header.mlp == "swiglu":
            hidden = 2 * ((hidden * 2 // 3 + 7) // 8 * 8)
        if hidden == header.hidden:
            return ratio
    return None


def _model_type(header: BackboneHeader) -> str:
    """Choose the model, or refuse."""
    refuse_kind("transformers, as far as this suite knows its names,", header)
    beit, glu = header.relative_position, header.mlp == "swiglu"
    dino = not beit and (header.layer_scale or glu or header.registers > 0)
    refuse(
        "transformers",
        {
            "tokens without a class token": not header.class_token,
            "register tokens beside relative positions": beit and header.registers,
            "a SwiGLU beside relative positions": beit and glu,
            f"an MLP of {header.hidden} channels (DINOv2 has none beside {header.width} channels)": dino
            and _mlp_ratio(header) is None,
            "a norm after pooling (fc_norm) without relative positions": not beit
            and header.final_norm == "fc_norm",
            "blocks without a final norm": header.final_norm == "none",
        },
    )
    if beit:
        return "beit"
    if dino:
        return "dinov2_with_registers" if header.registers else "dinov2"
    return "vit"


def _split(state: Tensors, header: BackboneHeader, key_bias: bool) -> Tensors:
    """Separate query, key and value, each with its own memory."""
    split = dict(state)
    for i in range(header.depth):
        for kind in ("weight", "bias"):
            parts = split.pop(f"blocks.{i}.attn.qkv.{kind}").chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                if name != "key" or kind == "weight" or key_bias:
                    split[f"blocks.{i}.attn.{name}.{kind}"] = part.clone()
    return split
