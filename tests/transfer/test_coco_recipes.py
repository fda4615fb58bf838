"""Every COCO recipe builds, takes one step at reduced width, starts from a backbone file, and is what its name says."""

import re
from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm imports)

# isort: split
import numpy as np
import pytest
import timm
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from cmae_mm.checkpoints import BackboneHeader, save_backbone
from cmae_mm.engine.config import load_config, set_backbone
from cmae_mm.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs/coco"
RECIPES = sorted(CONFIGS.glob("*.py"))
SIDE, WIDTH, ROI = 128, 32, 16


def narrow(cfg):
    """Reduce width and image; keep depth, windows, maps, losses, matching and optimizer rules."""
    model = cfg.model
    backbone = model.backbone
    backbone.img_size = SIDE
    if "hybrid" in cfg.filename:
        backbone.update(widths=(8, 16, WIDTH), num_heads=2)
        widths = [8, 16, WIDTH, WIDTH]
    elif "swin" in cfg.filename:
        backbone.arch = dict(embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 1, 2, 2])
        widths = [8, 16, 32, 64]
    else:
        backbone.update(embed_dims=WIDTH, num_heads=2)
        widths = [WIDTH] * 4
    necks = model.neck if isinstance(model.neck, list) else [model.neck]
    for neck in necks:
        if "embed_dim" in neck:
            neck.embed_dim = WIDTH
        else:
            single = isinstance(neck.in_channels, int)
            neck.update(in_channels=WIDTH if single else widths, out_channels=ROI)
    model.rpn_head.update(in_channels=ROI, feat_channels=ROI)
    roi = model.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = ROI
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=ROI, conv_out_channels=ROI, fc_out_channels=ROI)
    roi.mask_head.update(in_channels=ROI, conv_out_channels=ROI)
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    for stage in model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]:
        stage.sampler.num = 16
    if model.data_preprocessor.pad_size_divisor == 1024:
        model.data_preprocessor.pad_size_divisor = SIDE
    cfg.optim_wrapper.type = OptimWrapper  # what the environment does without a GPU
    return cfg


def build(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model.train()


def batch():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import PolygonMasks

    boxes = torch.tensor([[8.0, 10.0, 40.0, 50.0], [20.0, 30.0, 100.0, 90.0]])
    outlines = [[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes.numpy()]
    sample = DetDataSample(
        metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0), img_id=0)
    )
    masks = PolygonMasks(outlines, SIDE, SIDE)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 3]), masks=masks)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [sample]}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_builds_and_takes_one_step(path):
    cfg = narrow(load_config(path))
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for block in model.backbone.modules():
        if type(block).__name__ == "DropPath":
            block.drop_prob = 0.0  # else a dropped branch does not move
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    log = model.train_step(batch(), wrapper)
    assert all(torch.isfinite(value).all() for value in log.values())
    assert {"loss_rpn_cls", "loss_rpn_bbox"} <= log.keys()
    assert any("loss_mask" in name for name in log)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) > 50
    unmoved = [name for name in trainable if torch.equal(model.get_parameter(name), before[name])]
    assert [name for name in unmoved if not name.endswith("bias")] == []
    depth = getattr(model.backbone, "depth", 8)
    assert len(wrapper.optimizer.param_groups) <= 2 * (depth + 2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_name_and_numbers_agree(path):
    cfg = load_config(path)
    detector, size, data, epochs = re.fullmatch(
        r"(.*?)_(?:fpn-|vitdet-)(?:vit-)?(\w|hybrid-b|swin-b)(?:-p16)?_(lsj|ms)-(\d+)e.*_coco", path.stem
    ).groups()
    assert cfg.model.type.__name__ == {"mask-rcnn": "MaskRCNN", "cascade-mask-rcnn": "CascadeRCNN"}[detector]
    batch_size, scale = cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size
    assert scale % batch_size == 0
    assert cfg.protocol.startswith("DET-")
    if data == "lsj":
        assert round(cfg.train_cfg.max_iters * scale / 118_000) == int(epochs)
        last = cfg.param_scheduler[-1]
        if "milestones" in last:
            steps = cfg.train_cfg.max_iters
            assert last.milestones == pytest.approx([steps * 8 / 9, steps * 26 / 27], abs=1)
        else:
            assert last.end == cfg.train_cfg.max_iters == last.begin + last.T_max
            assert last.begin == cfg.param_scheduler[0].end
    else:
        assert cfg.train_cfg.max_epochs == int(epochs)
    widths = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}
    if size in widths:
        backbone = cfg.model.backbone
        assert (backbone.embed_dims, backbone.depth, backbone.num_heads) == widths[size]
        windows = list(backbone.window_blocks)
        fourth = backbone.depth // 4  # the last block of each quarter is global
        globals_ = [] if data == "ms" else [i for i in range(backbone.depth) if i % fourth != fourth - 1]
        assert windows == globals_


def test_protocols_are_keys_of_one_recipe_and_size_each():
    seen = {}
    for path in RECIPES:
        size = re.search(r"-([sblh])-p16|(hybrid|swin)-b", path.stem)
        key = (load_config(path).protocol, size[1] or size[2])
        assert key not in seen, (path.stem, seen[key])
        seen[key] = path.stem


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=WIDTH, depth=12, num_heads=2, num_classes=0, global_pool=""
    )
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.1)
    header = BackboneHeader(
        method="test", width=WIDTH, depth=12, heads=2, hidden=4 * WIDTH, patch=16, image_size=64
    )
    save_backbone(tmp_path / "encoder.safetensors", model.state_dict(), header)
    return model.state_dict(), tmp_path / "encoder.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn_vitdet-b-p16_lsj-25e",
        "mask-rcnn_fpn-vit-b-p16_lsj-25e",
        "mask-rcnn_fpn-vit-b-p16_ms-12e",
        "cascade-mask-rcnn_fpn-vit-b-p16_ms-12e",
    ],
)
def test_backbone_file_reaches_every_kind_of_vit(name, encoder):
    state, path = encoder
    cfg = narrow(load_config(CONFIGS / f"{name}_coco.py"))
    set_backbone(cfg, path)
    own = build(cfg).backbone.state_dict()
    places = own["pos_embed"].shape[1] - 1
    assert places == 14 * 14  # the table of 4 x 4 was resized to that of the recipe
    left = {key for key in own if key not in state}
    assert all(re.search(r"rel_pos_[hw]|relative_position_bias_table|ls[12]\.gamma", key) for key in left)
    for key in own.keys() & state.keys() - {"pos_embed"}:
        torch.testing.assert_close(own[key], state[key], atol=0, rtol=0)
    scales = [own[key] for key in left if "gamma" in key]
    assert len(scales) == (24 if "12e" in name and "cascade" not in name else 0)
    assert all((scale == 1).all() for scale in scales)  # 0.1 would change the features


def test_a_backbone_file_of_a_plain_vit_is_refused_by_the_hybrid(encoder):
    cfg = narrow(load_config(CONFIGS / "mask-rcnn_vitdet-hybrid-b_lsj-25e_coco.py"))
    set_backbone(cfg, encoder[1])
    with pytest.raises(UserError, match="patch_embed"):
        build(cfg)


def test_a_backbone_file_of_a_plain_vit_is_refused_by_the_swin(encoder):
    cfg = narrow(load_config(CONFIGS / "mask-rcnn_fpn-swin-b_lsj-36e_coco.py"))
    set_backbone(cfg, encoder[1])
    with pytest.raises(UserError, match="holds a vit encoder, the config a Swin"):
        build(cfg)
