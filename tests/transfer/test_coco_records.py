"""What a run and tools/test.py leave behind: records with all digits, tables of classes, predictions in COCO's JSON."""

import json
from glob import glob
from pathlib import Path

import pytest
import torch

from cmae_mm.engine.launch import evaluate_main, train_main

CONFIG = "configs/mini/mask-rcnn_vitdet-mini_coco.py"
# an untrained model, but all that it sees
OPTIONS = ("model.test_cfg.rcnn.score_thr=0.0", "train_cfg.max_iters=2", "train_cfg.val_interval=1")


@pytest.fixture(scope="module")
def run(mini_data, call, loader_options, tmp_path_factory):
    """Work dir of two iterations with two evaluations."""
    work = tmp_path_factory.mktemp("detection")
    words = ("--work-dir", work, "--data-root", mini_data / "coco")
    options = (*loader_options, *OPTIONS, "train_dataloader.batch_size=2", "val_dataloader.batch_size=2")
    assert call(train_main, CONFIG, *words, "--cfg-options", *options) == 0
    return work


def test_record_of_a_run(run):
    record = json.loads((run / "result.json").read_text())
    last = record["last"]
    for kind in ("bbox", "segm"):
        table = last[f"coco/{kind}_per_class"]
        assert list(table) == sorted(table)
        assert len(table) == 6
        known = [row["AP"] for row in table.values() if row["AP"] is not None]
        assert last[f"coco/{kind}_mAP"] == pytest.approx(sum(known) / len(known), abs=1e-12)
        assert {f"coco/{kind}_{n}" for n in ("mAP_s", "AR@1", "AR@10", "AR@100", "AR_s@100")} <= last.keys()
    assert len(record["history"]) == 2
    assert not any(isinstance(v, dict) for e in [record["best"], *record["history"]] for v in e.values())
    every = json.loads((run / "evaluations.json").read_text())
    assert every[-1] == last
    logs = "".join(Path(f).read_text() for f in glob(f"{run}/*/*.log"))
    assert "coco/bbox_per_class: 6 classes" in logs
    assert "100 images" not in logs
    assert "instances_train2017.json: 8 images" in logs


def test_predictions_of_a_checkpoint(run, mini_data, call, loader_options, tmp_path, capsys):
    words = ("--data-root", mini_data / "coco", "--cfg-options", *loader_options, OPTIONS[0])
    assert call(evaluate_main, CONFIG, run / "last.pth", "--work-dir", tmp_path / "w", *words) == 0
    printed = capsys.readouterr().out
    tested = json.loads((tmp_path / "w/test_result.json").read_text())["last"]
    expected = json.loads((run / "result.json").read_text())["last"]
    assert all(tested[key] == value for key, value in expected.items() if key.startswith("coco/"))
    truth = json.loads((mini_data / "coco/annotations/instances_val2017.json").read_text())
    for kind in ("bbox", "segm"):
        file = tmp_path / "w" / f"predictions.{kind}.json"
        assert f"predictions: {file}" in printed
        rows = json.loads(file.read_text())
        assert {r["image_id"] for r in rows} <= {i["id"] for i in truth["images"]}
        assert {r["category_id"] for r in rows} <= {c["id"] for c in truth["categories"]}
        assert all(len(r["bbox"]) == 4 and 0 <= r["score"] <= 1 for r in rows)
        assert rows
        if kind == "segm":
            sizes = {i["id"]: [i["height"], i["width"]] for i in truth["images"]}
            assert all(r["segmentation"]["size"] == sizes[r["image_id"]] for r in rows)
            assert all(isinstance(r["segmentation"]["counts"], str) for r in rows)
    prefix = tmp_path / "elsewhere" / "mine"
    place = ("--work-dir", tmp_path / "w", "--predictions", prefix)
    assert call(evaluate_main, CONFIG, run / "last.pth", *place, *words) == 0
    assert prefix.with_name("mine.segm.json").is_file()


def test_predictions_need_a_detection_config(call, tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "x.pth")
    config = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]
    words = ("--work-dir", tmp_path / "w", "--predictions", tmp_path / "p")
    assert call(evaluate_main, config, tmp_path / "x.pth", *words) == 2
    assert "is no detection config with COCO's metric" in capsys.readouterr().err
