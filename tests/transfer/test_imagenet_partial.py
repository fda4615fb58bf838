"""Partial fine-tuning: what learns for each number of blocks, that the rest costs no memory, both ends of the curve."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

from cmae_mm.engine.launch import train_main
from cmae_mm.errors import UserError
from cmae_mm.transfer.imagenet import ImageNetViT
from cmae_mm.transfer.layer_decay import LayerDecayConstructor

DEPTH, WIDTH, LR, RATE = 4, 24, 1e-2, 0.5
HALVES = [0, 0.5, 1, 1.5, 2, 3.5, 4]
OPTIMIZER = dict(
    optimizer=dict(type="AdamW", lr=LR, weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=RATE, no_decay=("ndim1", "pos_embed", "cls_token")),
)


def classifier(blocks, drop_path=0.0, **kwargs):
    arch = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=3, feedforward_channels=2 * WIDTH)
    backbone = dict(
        type=ImageNetViT, arch=arch, img_size=32, patch_size=8, final_norm=False, out_type="avg_featmap",
        drop_path_rate=drop_path, trainable_blocks=blocks, **kwargs,
    )  # fmt: skip
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        head = MODELS.build(dict(type="LinearClsHead", num_classes=5, in_channels=WIDTH))
        return ImageClassifier(backbone=backbone, head=head)


def learns(name, blocks):
    """The rule, by name: the last whole blocks, the MLP of the one before, and all that comes after the blocks."""
    if blocks in (None, DEPTH) or name.startswith(("head.", "backbone.ln2.")):
        return True
    block = re.match(r"backbone\.layers\.(\d+)\.(\w+)\.", name)
    if not block:
        return False
    before_the_end = DEPTH - int(block[1])  # 1 for the last block
    return before_the_end <= blocks or (before_the_end - 0.5 == blocks and block[2] in ("ln2", "ffn"))


def rates(model):
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optim_wrapper(model, OPTIMIZER).optimizer.param_groups
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("blocks", HALVES)
def test_exactly_these_parameters_learn_at_their_usual_rates(blocks):
    full, model = rates(classifier(None)), classifier(blocks)
    expected = {n: full[n] for n, _ in model.named_parameters() if learns(n, blocks)}
    assert rates(model) == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(expected)


def saved_bytes(model, images):
    """Bytes that autograd keeps for the backward pass, without the parameters themselves."""
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(images).square().sum()  # keeps the graph alive while storages are counted
    loss.backward()
    return sum(kept.values())


def test_the_frozen_part_keeps_no_activations_and_gets_no_gradients():
    images = torch.randn(4, 3, 32, 32)
    sizes = []
    for blocks in HALVES:
        model = classifier(blocks).train()
        outputs = {}
        for i, layer in enumerate(model.backbone.layers):
            layer.register_forward_hook(lambda m, x, y, i=i, to=outputs: to.__setitem__(i, y))
        sizes.append(saved_bytes(model, images))
        for i, y in outputs.items():
            assert y.requires_grad == (DEPTH - i - 0.5 <= blocks), (blocks, i)
        assert {n for n, p in model.named_parameters() if p.grad is not None} == {
            n for n, _ in model.named_parameters() if learns(n, blocks)
        }
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
    tokens = 4 * 17 * WIDTH * 4  # one map of all tokens
    assert sizes[0] < tokens  # a linear layer on the mean
    assert sizes[-1] > 8 * sizes[1]


def test_frozen_blocks_drop_nothing_and_do_not_move():
    model = classifier(1.5, drop_path=0.9).train()
    backbone = model.backbone
    assert backbone.train() is backbone
    images = torch.randn(8, 3, 32, 32)
    seen = []
    backbone.layers[1].register_forward_hook(lambda m, x, y: seen.append(y.detach().clone()))
    attention = []
    backbone.layers[2].attn.register_forward_hook(lambda m, x, y: attention.append(y.detach().clone()))
    outputs = [model(images) for _ in range(2)]
    assert torch.equal(*seen)
    assert torch.equal(*attention)  # of the half block
    assert not torch.equal(*outputs)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapper = build_optim_wrapper(model, OPTIMIZER)
    for _ in range(4):
        wrapper.update_params(model(images).square().mean())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if learns(n, 1.5)}


def test_all_blocks_is_full_fine_tuning():
    images = torch.randn(4, 3, 32, 32)
    results = []
    for blocks in (None, DEPTH):
        model = classifier(blocks, drop_path=0.2).train()
        wrapper = build_optim_wrapper(model, OPTIMIZER)
        torch.manual_seed(1)
        for _ in range(3):
            loss = model(images).square().mean()
            wrapper.update_params(loss)
        results.append([loss, *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_block_is_a_linear_layer_on_the_encoder():
    model = classifier(0).train()
    assert set(rates(model).values()) == {(LR, 0.05), (LR, 0.0)}
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        tokens = classifier(None).eval().backbone.layers  # the same draw of weights
        x, _ = model.backbone.patch_embed(images)
        x = torch.cat((model.backbone.cls_token.expand(4, -1, -1), x), 1) + model.backbone.pos_embed
        for layer in tokens:
            x = layer(x)
        mean = torch.nn.functional.layer_norm(x[:, 1:].mean(1), (WIDTH,), eps=1e-6)
    expected = mean @ model.head.fc.weight.T + model.head.fc.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("blocks", [0.3, -1, 4.5, True, "all"])
def test_a_number_that_makes_no_sense_is_refused(blocks):
    with pytest.raises(UserError, match=r"from 0 to 4 in steps of 0\.5"):
        classifier(blocks)


def test_frozen_stages_beside_it_is_refused():
    with pytest.raises(UserError, match="give one of them"):
        classifier(1, frozen_stages=2)


def test_mini_recipe_writes_a_record(mini_data, call, loader_options, tmp_path):
    words = ("--work-dir", tmp_path, "--data-root", mini_data / "imagenet")
    options = (
        *loader_options,
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "model.backbone.arch.num_layers=2",
        "model.backbone.trainable_blocks=0.5",
        "default_hooks.checkpoint.save_best=accuracy/top1",
    )
    config = "configs/mini/partial_vit-mini_imagenet.py"
    assert call(train_main, config, *words, "--cfg-options", *options) == 0
    record = json.loads(Path(tmp_path / "result.json").read_text())
    assert record["protocol"] == "mini-partial"
    assert record["trainable_blocks"] == 0.5
    for when in ("last", "best"):
        assert 0 <= record[when]["accuracy/top1"] <= record[when]["accuracy/top5"] <= 100
    (best,) = tmp_path.glob("best_*.pth")
    states = [torch.load(file, weights_only=True)["state_dict"] for file in (best, tmp_path / "last.pth")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
