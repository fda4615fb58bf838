"""Frozen encoders: features, the linear head, and nearest neighbours of patches against loops."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

import cmae_mm.transfer  # noqa: F401

# isort: split
from cmae_mm.engine.config import load_config
from cmae_mm.errors import UserError
from cmae_mm.transfer.dense_knn import choose_patches, knn_label_shares, patch_label_shares
from cmae_mm.transfer.dense_probe import DenseKNNHead
from cmae_mm.transfer.frozen import FrozenViT, LinearProbeHead

ARCH = dict(
    patch_size=8, embed_dims=48, depth=2, num_heads=3, mlp_ratio=2.0, pretrain_img_size=32, out_indices=(0, 1)
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_frozen_features_are_those_of_timm(backbone_file, size):
    """timm's ViT on the same file, with its own final norm; at another size, timm resizes the positions itself."""
    from cmae_mm.checkpoints.training_checkpoint import timm_model

    ours = FrozenViT(backbone_file=str(backbone_file), **ARCH)
    ours.init_weights()
    theirs = timm_model(backbone_file)
    theirs.set_input_size(size)
    images = torch.randn(2, 3, *size, generator=seeded())
    with torch.no_grad():
        expected = theirs.get_intermediate_layers(images, n=2, reshape=True, norm=True)
    for mine, their in zip(ours(images), expected, strict=True):
        # timm resizes with antialiasing, which changes positions a little where the grid shrinks
        torch.testing.assert_close(mine, their, atol=1e-5 if size == (32, 32) else 0.2, rtol=0)
    assert not any(p.requires_grad for p in ours.parameters())


def test_a_frozen_encoder_stays_as_it_is(backbone_file):
    model = FrozenViT(backbone_file=str(backbone_file), drop_path_rate=0.9, **ARCH)
    assert model.train() is model
    assert not any(m.training for m in model.modules())
    images = torch.randn(1, 3, 32, 32)
    first, second = model(images)[1], model(images)[1]
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_a_class_token_is_never_random(make_encoder, tmp_path):
    from cmae_mm.checkpoints import save_backbone

    path = tmp_path / "bare.safetensors"
    save_backbone(path, *make_encoder(class_token=False, position="patches"))
    with pytest.raises(UserError, match=r"without a class token; set model\.backbone\.cls_token=False"):
        FrozenViT(backbone_file=str(path), **ARCH).init_weights()
    FrozenViT(backbone_file=str(path), cls_token=False, **ARCH).init_weights()


def test_the_linear_head_is_batch_norm_and_a_convolution():
    init_default_scope("mmseg")
    head = LinearProbeHead(in_channels=6, in_index=1, num_classes=4, norm_cfg=dict(type="BN"))
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(1)))
    maps = torch.randn(2, 3, 6, 5, 7, generator=seeded()).unbind(1)
    x = maps[1]
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    normal = (x - mean) / (var + 1e-5).sqrt() * head.norm.weight.view(-1, 1, 1) + head.norm.bias.view(
        -1, 1, 1
    )
    expected = torch.einsum(
        "kc,bchw->bkhw", head.conv_seg.weight[:, :, 0, 0], normal
    ) + head.conv_seg.bias.view(-1, 1, 1)
    torch.testing.assert_close(head.train()(maps), expected, atol=1e-5, rtol=1e-5)
    both = LinearProbeHead(
        in_channels=[6, 6],
        in_index=[0, 2],
        num_classes=4,
        input_transform="resize_concat",
        norm_cfg=dict(type="BN"),
    )
    assert both(maps).shape == (2, 4, 5, 7)
    assert sum(p.numel() for p in both.parameters()) == 2 * 12 + 12 * 4 + 4


@pytest.mark.parametrize("size", [(16, 24), (13, 18)])
def test_patch_label_shares_equal_a_loop(size):
    classes, patch = 5, 8
    labels = torch.randint(0, classes + 2, (2, *size), generator=seeded())  # two labels are no class
    labels[labels == classes + 1] = 255
    found = patch_label_shares(labels, classes, patch)
    assert found.shape == (2, math.ceil(size[0] / patch), math.ceil(size[1] / patch), classes)
    for b, y, x in np.ndindex(*found.shape[:3]):
        tile = labels[b, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].flatten().tolist()
        expected = torch.tensor([tile.count(c) / patch**2 for c in range(classes)])
        torch.testing.assert_close(found[b, y, x], expected, atol=0, rtol=0)


def test_chosen_patches_follow_the_score():
    shares = torch.rand(3, 30, 4, generator=seeded()) * (torch.rand(3, 30, 4, generator=seeded(1)) > 0.6)
    shares[0, :, 3], shares[0, 7, 3], shares[1, 5:] = 0.0, 0.2, 0.0
    chosen, valid = choose_patches(shares, 12, seeded(2))
    draws = torch.rand(3, 30, generator=seeded(2))
    for b in range(3):
        held = [{c for c in range(4) if shares[b, n, c] > 0} for n in range(30)]
        often = [sum(c in h for h in held) for c in range(4)]
        score = {n: sum(often[c] for c in h) * float(draws[b, n]) for n, h in enumerate(held) if h}
        expected = sorted(score, key=score.__getitem__)[:12]
        assert chosen[b][valid[b]].tolist() == expected
    assert int(valid[1].sum()) <= 5 < 12


@pytest.mark.parametrize("max_cells", [2**24, 7 * 50])
@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.02), (5, 0.02), (30, 0.1), (60, 1.0)])
def test_knn_label_shares_equal_a_loop(neighbours, temperature, max_cells):
    queries = torch.randn(9, 16, generator=seeded())
    bank = torch.nn.functional.normalize(torch.randn(60, 16, generator=seeded(1)), dim=1)
    shares = torch.rand(60, 4, generator=seeded(2))
    found = knn_label_shares(queries, bank, shares, neighbours, temperature, max_cells)
    for q, mine in zip(queries.double(), found, strict=True):
        near = sorted(((float(q @ b.double() / q.norm()), k) for k, b in enumerate(bank)), reverse=True)[
            :neighbours
        ]
        weights = [math.exp((s - near[0][0]) / temperature) for s, _ in near]
        expected = sum(w * shares[k].double() for w, (_, k) in zip(weights, near, strict=True)) / sum(weights)
        torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_small_memory_is_a_mistake():
    with pytest.raises(UserError, match="a memory of 5 patches has no 30 neighbours"):
        knn_label_shares(torch.ones(2, 3), torch.ones(5, 3), torch.ones(5, 2))


def test_the_memory_recognises_its_own_patches():
    """With the images of the memory as queries and one neighbour, the prediction is the truth of each patch."""
    init_default_scope("mmseg")
    head = DenseKNNHead(patch_size=4, neighbours=1, in_channels=6, in_index=0, num_classes=3)
    maps = torch.randn(2, 6, 3, 5, generator=seeded())
    labels = (
        torch.randint(0, 3, (2, 3, 5), generator=seeded(1)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    )
    with pytest.raises(UserError, match="memory of patches is empty"):
        head((maps,))
    head.remember((maps,), labels, count=15, generator=seeded(2))
    assert head.share_memory() == 30
    assert torch.equal(head((maps,)).argmax(1), labels[:, ::4, ::4])
    with pytest.raises(UserError, match="learns nothing"):
        head.loss((maps,), [])


@pytest.mark.parametrize("name", ["linear_vit-b-p16_8xb2-40k_ade20k-512x512", "knn_vit-b-p16_ade20k-512x512"])
def test_full_recipes_build_and_compute(name):
    from mmseg.structures import SegDataSample

    cfg = load_config(f"configs/ade20k/{name}.py")
    init_default_scope(cfg.default_scope)
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.depth, cfg.model.backbone.out_indices = 1, (0,)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    learning = sorted(n for n, p in model.named_parameters() if p.requires_grad)
    if name.startswith("knn"):
        assert learning == []
        assert cfg.custom_hooks[0].patches // 20210 == 50
        assert cfg.custom_hooks[0].dataloader.dataset.pipeline[3].crop_size == (512, 512)
        return
    assert learning == [
        f"decode_head.{n}" for n in ("conv_seg.bias", "conv_seg.weight", "norm.bias", "norm.weight")
    ]
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16
    assert round(cfg.train_cfg.max_iters * 16 / 20210) == 32
    sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64)))
    sample.set_data(dict(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64).long())))
    batch = {"inputs": [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, "data_samples": [sample] * 2}
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    losses["decode.loss_ce"].backward()
    assert model.decode_head.conv_seg.weight.grad is not None


@pytest.fixture(scope="module")
def mini_encoder(make_encoder, tmp_path_factory):
    from cmae_mm.checkpoints import save_backbone

    path = tmp_path_factory.mktemp("mini_encoder") / "mini.safetensors"
    save_backbone(path, *make_encoder(width=48, depth=2, heads=3, hidden=192, patch=8, image_size=64))
    return path


OPTIONS = [
    "model.backbone.embed_dims=48",
    "model.backbone.depth=2",
    "model.backbone.num_heads=3",
    "model.backbone.out_indices=(1,)",
    "model.decode_head.in_channels=48",
]


def test_ade20k_knn_command_writes_a_record(mini_data, mini_encoder, call, loader_options, tmp_path):
    from cmae_mm.engine.launch import probe_main

    config, work = "configs/mini/knn_vit-mini_ade20k.py", tmp_path / "work"
    words = (config, "--backbone", mini_encoder, "--data-root", mini_data / "ade20k", "--work-dir", work)
    loader = [o for o in loader_options if not (o.endswith("=20") or o.startswith("train"))]
    hook = [
        f"custom_hooks.0.dataloader.{o}"
        for o in ("num_workers=0", "persistent_workers=False", "batch_size=2")
    ]
    assert (
        call(probe_main, *words, "--cfg-options", *OPTIONS, *loader, *hook, "custom_hooks.0.patches=200") == 0
    )
    record = json.loads((work / "test_result.json").read_text())
    assert record["last"]["memory"] == {"patches": 200, "images": 4, "neighbours": 30, "temperature": 0.02}
    assert 0 <= record["last"]["mIoU"] <= 100
    assert set(record["last"]["per_class"]["sky"]) == {"IoU", "Acc", "BIoU"}
    assert record["backbone_sha256"]
    assert record["config"] == "knn_vit-mini_ade20k.py"


def test_ade20k_linear_probe_trains_only_its_head(mini_data, mini_encoder, call, loader_options, tmp_path):
    from safetensors.torch import load_file

    from cmae_mm.checkpoints.safe_load import load_checkpoint
    from cmae_mm.engine.launch import train_main

    config, work = "configs/mini/linear_vit-mini_ade20k.py", tmp_path / "work"
    words = (config, "--backbone", mini_encoder, "--data-root", mini_data / "ade20k", "--work-dir", work)
    loader = [
        o.replace("batch_size=20", "batch_size=2" if "train" in o else "batch_size=1") for o in loader_options
    ]
    assert (
        call(
            train_main,
            *words,
            "--cfg-options",
            *OPTIONS,
            *loader,
            "train_cfg.max_iters=2",
            "train_cfg.val_interval=2",
        )
        == 0
    )
    state = load_checkpoint(work / "last.pth")["state_dict"]
    for key, value in load_file(mini_encoder).items():
        if key != "pos_embed":
            assert torch.equal(state[f"backbone.{key}"], value), key
    assert state["decode_head.norm.num_batches_tracked"] == 2
    record = json.loads((work / "result.json").read_text())
    assert record["last"]["mIoU"] == record["best"]["mIoU"]
    assert len(record["last"]["per_class"]) == 10


def test_a_config_without_a_memory_is_refused(mini_data, call, capsys, tmp_path):
    from cmae_mm.engine.launch import probe_main

    assert call(probe_main, "configs/mini/linear_vit-mini_ade20k.py", "--work-dir", tmp_path) == 2
    assert "fills no memory of patches" in capsys.readouterr().err


def test_the_images_of_the_memory_are_checked_too(mini_data, call, capsys, tmp_path):
    from cmae_mm.engine.launch import probe_main

    root = shutil.copytree(mini_data / "ade20k", tmp_path / "set")
    gone = sorted((root / "annotations/training").iterdir())[0]
    gone.unlink()
    words = ("configs/mini/knn_vit-mini_ade20k.py", "--data-root", root, "--work-dir", tmp_path / "work")
    assert call(probe_main, *words) == 2
    assert f"one image has no label map in {gone.parent}: {gone.name} is missing" in capsys.readouterr().err
