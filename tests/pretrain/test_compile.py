"""Encoders, decoders and their blocks compile: equal losses and gradients, decoders in one graph.

Compiled down to ATen operators and run without a code generator, so that no C++ compiler is needed.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm

import cmae_mm.compat
import cmae_mm.pretrain  # noqa: F401

MINI = Path(__file__).parents[2] / "configs" / "mini"
CMAE = "cmae_vit-mini-p8_pretrain"
RECIPES = sorted(path.stem for path in MINI.glob("*_pretrain.py"))
DECODER = {"fullgraph": True, "backend": "aot_eager", "dynamic": False}
# mmpretrain's encoder keeps drop rates as NumPy numbers, at which each of its blocks is cut into several graphs.
ENCODER = {**DECODER, "fullgraph": False}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def build(name):
    from mmpretrain.registry import MODELS

    config = Config.fromfile(MINI / f"{name}.py").model
    config.backbone.arch.num_layers = 2
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(config))
    model.init_weights()
    return model.train()


def step(model):
    """Losses and gradients of one batch; seeds make views and masks equal from call to call."""
    torch.manual_seed(1)
    side = 64 + (8 if hasattr(model.data_preprocessor, "max_shift") else 0)
    master = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    losses = model(**model.data_preprocessor({"inputs": master}, True), mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


def decoders(model):
    return [child for child in model.children() if hasattr(child, "decoder_blocks")]


def encoders(model):
    return [child for child in model.children() if hasattr(child, "patch_embed")]


def compile_blocks(model):
    for encoder in encoders(model):
        for block in encoder.layers:
            block.compile(**ENCODER)
    for decoder in decoders(model):
        for block in decoder.decoder_blocks:
            block.compile(**DECODER)


def compile_encoders_and_decoders(model):
    for encoder in encoders(model):
        encoder.compile(**ENCODER)
    for decoder in decoders(model):  # their work is in `decode`, which CMAE calls by itself
        decoder.decode = torch.compile(decoder.decode, **DECODER)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("compile_parts", "name"),
    [(compile_blocks, CMAE)] + [(compile_encoders_and_decoders, name) for name in RECIPES],
)
def test_compiled_parts_train_alike(compile_parts, name):
    losses, gradients = step(build(name))
    model = build(name)
    compile_parts(model)
    compiled_losses, compiled_gradients = step(model)
    torch.testing.assert_close(compiled_losses, losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-5)
    assert graphs() >= len(encoders(model)) + 1  # it did compile


def test_decoder_blocks_of_one_shape_share_their_graphs():
    """All tokens in and out; the last block of each decoder leaves out the class token, or all visible ones."""
    model = build(CMAE)
    blocks = [block for decoder in decoders(model) for block in decoder.decoder_blocks]
    for block in blocks:
        block.compile(**DECODER)
    step(model)
    assert len(blocks) == 3
    assert graphs() == 3
