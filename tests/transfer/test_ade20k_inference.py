"""Sliding windows and test-time augmentation against mmseg's own, and below the size of a window."""

from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmseg imports)

# isort: split
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample

from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.segmentor import BatchedSlideSegmentor, SummingTTAModel, windows

CROP, CLASSES = 32, 5


def _model(kind, window_batch=8, mode="slide"):
    torch.manual_seed(0)
    model = kind(
        data_preprocessor=dict(type="mmseg.SegDataPreProcessor", mean=[120.0] * 3, std=[60.0] * 3),
        backbone=dict(
            type=CMAEUperNetViT,
            img_size=CROP,
            patch_size=8,
            embed_dims=24,
            depth=2,
            num_heads=2,
            out_indices=(1,),
        ),
        decode_head=dict(
            type="mmseg.FCNHead", in_channels=24, channels=8, num_convs=1, num_classes=CLASSES, in_index=0
        ),
        test_cfg=ConfigDict(mode=mode, crop_size=(CROP, CROP), stride=(21, 21), window_batch=window_batch),
    )
    for name, param in model.named_parameters():
        if "table" in name or "conv_seg" in name:
            torch.nn.init.normal_(param)
    return model.eval()


def _metas(size, count):
    return [dict(img_shape=size, ori_shape=size, pad_shape=size) for _ in range(count)]


@pytest.mark.parametrize("window_batch", [1, 3, 100])
@pytest.mark.parametrize("size", [(32, 32), (33, 53), (74, 47), (32, 95)], ids=str)
def test_batched_windows_equal_mmseg(size, window_batch):
    ours, theirs = _model(BatchedSlideSegmentor, window_batch), _model(EncoderDecoder)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs.slide_inference(images, _metas(size, 2))
        actual = ours.slide_inference(images, _metas(size, 2))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_windows_run_in_batches(monkeypatch):
    model, seen = _model(BatchedSlideSegmentor, 4), []
    inner = model.extract_feat
    monkeypatch.setattr(model, "extract_feat", lambda x: seen.append(len(x)) or inner(x))
    with torch.no_grad():
        model.slide_inference(torch.randn(1, 3, 74, 53), _metas((74, 53), 1))  # 3 x 2 windows
    assert seen == [4, 2]


def test_an_image_below_the_window_is_padded_as_training_crops_are():
    model = _model(BatchedSlideSegmentor)
    image = torch.randn(1, 3, 20, 47)
    padded = torch.nn.functional.pad(image, (0, 0, 0, 12))
    with torch.no_grad():
        expected = model.slide_inference(padded, _metas((32, 47), 1))[:, :, :20]
        actual = model.slide_inference(image, _metas((20, 47), 1))
    assert actual.shape == (1, CLASSES, 20, 47)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (31, 32), (32, 33), (53, 54), (512, 700)], ids=str)
def test_windows_cover_every_pixel_and_stay_inside(size):
    seen = torch.zeros(size)
    for rows, columns in windows(size, (32, 32), (21, 21)):
        assert 0 <= rows.start < rows.stop <= size[0]
        assert 0 <= columns.start < columns.stop <= size[1]
        assert rows.stop - rows.start == min(32, size[0])
        assert columns.stop - columns.start == min(32, size[1])
        seen[rows, columns] += 1
    assert seen.min() >= 1


def _variants():
    """Two images, each at three scales with its mirror image, as TestTimeAug and the loader give them."""
    torch.manual_seed(1)
    inputs, samples = [], []
    for side in (24, 40, 56):
        for flip in (False, True):
            inputs.append([torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(2)])
            meta = dict(img_shape=(side, side), ori_shape=(40, 44), flip=flip, flip_direction="horizontal")
            samples.append([SegDataSample(metainfo={**meta, "img_path": str(i)}) for i in range(2)])
    return dict(inputs=inputs, data_samples=samples)


def test_summing_tta_equals_mmseg_and_takes_scales_below_the_window():
    module = _model(BatchedSlideSegmentor)
    with torch.no_grad():
        expected = SegTTAModel(module=module).test_step(_variants())
        actual = SummingTTAModel(module=module).test_step(_variants())
    assert len(actual) == 2
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.pred_sem_seg.data.shape == (1, 40, 44)
        assert (ours.pred_sem_seg.data[0] == theirs.pred_sem_seg.data).float().mean() > 0.999
        assert ours.img_path == theirs.img_path
        torch.testing.assert_close(ours.seg_logits.data.sum(0), torch.ones(40, 44), atol=1e-5, rtol=0)


def test_the_real_command_tests_with_and_without_augmentation(mini_data, call, tmp_path):
    import json

    from mmengine.registry import MODELS, init_default_scope

    from cmae_mm.engine.config import load_config
    from cmae_mm.engine.launch import evaluate_main

    config = Path(__file__).parents[2] / "configs/mini/upernet_vit-mini_ade20k.py"
    init_default_scope("mmseg")
    torch.manual_seed(0)
    state = MODELS.build(load_config(config).model).state_dict()
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "last.pth")
    words = [config, tmp_path / "last.pth", "--data-root", mini_data / "ade20k"]
    options = ["--cfg-options", "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    for name, more in (("plain", []), ("tta", ["--tta"])):
        assert call(evaluate_main, *words, "--work-dir", tmp_path / name, *more, *options) == 0
        record = json.loads(next((tmp_path / name).rglob("test_result.json")).read_text())
        assert record["test_time_augmentation"] is (name == "tta")
        assert 0 <= record["last"]["mIoU"] <= 100
    linear = config.with_name("vit-mini-p8_linear_imagenet.py")
    assert call(evaluate_main, linear, tmp_path / "last.pth", "--tta", "--work-dir", tmp_path / "no") == 2
