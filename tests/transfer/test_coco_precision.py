"""In bfloat16 boxes, regions of interest and the features that they are cut from stay in float32."""

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split
import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from cmae_mm.engine.config import load_config
from cmae_mm.transfer.rois import CMAERoIExtractor

from .test_coco_recipes import CONFIGS, batch, narrow

KINDS = ["mask-rcnn_vitdet-b-p16_lsj-25e", "mask-rcnn_fpn-vit-b-p16_lsj-25e"]


@pytest.mark.parametrize("name", KINDS)
def test_boxes_regions_and_losses_stay_in_full_precision(name, monkeypatch):
    cfg = narrow(load_config(CONFIGS / f"{name}_coco.py"))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    seen = []
    library = SingleRoIExtractor.forward

    def spy(self, feats, rois, scale=None):
        seen.append({rois.dtype, *(level.dtype for level in feats)})
        return library(self, feats, rois, scale)

    monkeypatch.setattr(SingleRoIExtractor, "forward", spy)
    halves = []
    model.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda m, i, out: halves.append(out.dtype))
    data = model.data_preprocessor(batch(), training=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(**data, mode="loss")
        total, _ = model.parse_losses(losses)
    total.backward()
    assert halves == [torch.bfloat16]  # the network itself computes in half precision
    assert seen
    assert all(kinds == {torch.float32} for kinds in seen)
    assert torch.isfinite(total)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert all(torch.isfinite(grad).all() for grad in grads)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval()(**data, mode="predict")[0].pred_instances
    assert found.bboxes.dtype == torch.float32


def test_extractor_does_not_move_boxes_of_half_precision_features():
    torch.manual_seed(0)
    make = dict(
        roi_layer=dict(type="RoIAlign", output_size=2, sampling_ratio=2), out_channels=3, featmap_strides=[4]
    )
    level = torch.randn(1, 3, 200, 200).bfloat16()
    rois = torch.tensor([[0.0, 301.7, 100.3, 700.6, 650.9]])
    exact = SingleRoIExtractor(**make)((level.float(),), rois)
    torch.testing.assert_close(CMAERoIExtractor(**make)((level,), rois), exact, atol=0, rtol=0)
    rounded = SingleRoIExtractor(**make)((level.float(),), rois.bfloat16().float())
    assert (rounded - exact).abs().max() > 0.1  # what bfloat16 boxes would do
