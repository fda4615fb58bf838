"""The detection and segmentation recipes build, take a training step, predict, and keep their arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import cmae_mm.transfer  # noqa: F401  (its repairs come before the config's imports)
from cmae_mm.data.taxonomy import CLASSES_ADE20K, CLASSES_COCO
from cmae_mm.engine.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
COCO = CONFIGS / "coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py"
ADE = CONFIGS / "ade20k/upernet_vit-b-p16_8xb2-amp-160k_ade20k-512x512.py"
MINI_COCO = CONFIGS / "mini/mask-rcnn_vitdet-mini_coco.py"
MINI_ADE = CONFIGS / "mini/upernet_vit-mini_ade20k.py"


def _model_and_wrapper(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    wrapper_cfg = {k: v for k, v in cfg.optim_wrapper.items() if k != "dtype"}
    wrapper_cfg["type"] = OptimWrapper  # mixed precision needs a GPU
    return model, build_optim_wrapper(model, wrapper_cfg)


def _detection_batch(sizes):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    inputs, samples = [], []
    for height, width in sizes:
        masks = np.zeros((2, height, width), np.uint8)
        masks[0, 10:50, 8:40] = masks[1, 30:60, 20:60] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), img_id=0
            )
        )
        boxes = torch.tensor([[8.0, 10.0, 40.0, 50.0], [20.0, 30.0, 60.0, 60.0]])
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([1, 3]), masks=BitmapMasks(masks, height, width)
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def _segmentation_batch(sizes, classes):
    from mmseg.structures import SegDataSample

    inputs, samples = [], []
    for height, width in sizes:
        labels = torch.randint(0, classes, (1, height, width))
        labels[:, :4] = 255
        sample = SegDataSample(
            metainfo={
                "img_shape": (height, width),
                "ori_shape": (height, width),
                "pad_shape": (height, width),
            }
        )
        sample.gt_sem_seg = PixelData(data=labels)
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def _assert_every_parameter_learns(model, batch):
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    total, values = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    return values


def test_mini_mask_rcnn_trains_and_predicts():
    cfg = load_config(MINI_COCO)
    model, wrapper = _model_and_wrapper(cfg)
    values = _assert_every_parameter_learns(model, _detection_batch([(128, 128), (90, 128)]))
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"} <= values.keys()
    assert len(wrapper.optimizer.param_groups) <= 2 * (6 + 2)
    result = model.eval().test_step(_detection_batch([(128, 96)]))[0].pred_instances
    assert result.masks.shape[1:] == (128, 96)


def test_mini_upernet_trains_and_predicts_at_any_size():
    cfg = load_config(MINI_ADE)
    model, wrapper = _model_and_wrapper(cfg)
    values = _assert_every_parameter_learns(model, _segmentation_batch([(96, 96), (80, 96)], 10))
    assert {"decode.loss_ce", "aux.loss_ce"} <= values.keys()
    assert len(wrapper.optimizer.param_groups) <= 2 * (6 + 2)
    result = model.eval().test_step(_segmentation_batch([(102, 128)], 10))[0]
    assert result.pred_sem_seg.data.shape == (1, 102, 128)


def test_mini_recipes_name_the_classes_of_the_data():
    cfg = load_config(MINI_COCO)
    roi_head = cfg.model.roi_head
    assert cfg.metainfo.classes == CLASSES_COCO
    assert roi_head.bbox_head.num_classes == roi_head.mask_head.num_classes == len(CLASSES_COCO)
    cfg = load_config(MINI_ADE)
    assert cfg.metainfo.classes == CLASSES_ADE20K
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == len(CLASSES_ADE20K)
    assert cfg.train_dataloader.dataset.reduce_zero_label


@pytest.mark.parametrize("path", [COCO, ADE, MINI_COCO, MINI_ADE], ids=lambda p: p.stem)
def test_schedules_end_with_the_run(path):
    cfg = load_config(path)
    assert cfg.param_scheduler[-1].get("end", cfg.train_cfg.max_iters) == cfg.train_cfg.max_iters
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[-1].get("begin", cfg.param_scheduler[0].end)
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval in (0, 4375)
    assert cfg.data_root in cfg.train_dataloader.dataset.data_root


def test_published_numbers_of_the_full_recipes():
    cfg = load_config(COCO)
    steps = cfg.train_cfg.max_iters
    assert round(steps * 64 / 118_000) == 100
    assert cfg.param_scheduler[1].milestones == [round(steps * 8 / 9), round(steps * 26 / 27)]
    assert cfg.auto_scale_lr.base_batch_size == 16 * cfg.train_dataloader.batch_size == 64
    cfg = load_config(ADE)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16


def test_full_mask_rcnn_computes_a_loss_and_has_published_learning_rates():
    cfg = load_config(COCO)
    cfg.model.data_preprocessor.pad_size_divisor = 128  # instead of 1024 px
    model, wrapper = _model_and_wrapper(cfg)
    norms = {m.eps for n, m in model.named_modules() if hasattr(m, "eps") and hasattr(m, "weight")}
    assert norms == {1e-6}
    _assert_every_parameter_learns(model, _detection_batch([(128, 128)]))
    groups = wrapper.optimizer.param_groups
    assert len(groups) <= 2 * (12 + 2)
    assert min(g["lr"] for g in groups) == pytest.approx(1e-4 * 0.7**13)
    exempt = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    # two norms of weight and bias in 12 blocks, and the position table
    assert len(exempt) == 12 * 4 + 1
    assert id(model.backbone.pos_embed) in exempt


def test_full_upernet_computes_a_loss_and_has_published_learning_rates():
    cfg = load_config(ADE)
    cfg.model.data_preprocessor.size = (128, 128)  # instead of 512 px
    model, wrapper = _model_and_wrapper(cfg)
    _assert_every_parameter_learns(model, _segmentation_batch([(128, 128), (96, 128)], 150))
    groups = wrapper.optimizer.param_groups
    assert min(g["lr"] for g in groups) == pytest.approx(1e-4 * 0.65**13)
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert all((p.ndim > 1) == (id(p) in decayed) for p in model.parameters())
