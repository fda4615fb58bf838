"""Real runs of the mini recipes by the real commands: checkpoints, records, resuming, testing."""

import json
import shutil
from glob import glob

import pytest
import torch

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.hooks import _builtin
from cmae_mm.engine.launch import evaluate_main, train_main
from cmae_mm.report.curves import read_scalars, series

LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]


@pytest.fixture(scope="module")
def words(mini_data, loader_options):
    """Words for a linear probe of 2 iterations an epoch, evaluated after each."""
    options = [
        "model.backbone.arch.num_layers=1",
        "model.backbone.frozen_stages=1",
        "param_scheduler.0.end=20",  # else it is the end of training, which differs here
        "train_cfg.val_interval=1",
        "default_hooks.logger.interval=1",
    ]

    def make(work, epochs, *more):
        chosen = ["--cfg-options", *loader_options, *options, f"train_cfg.max_epochs={epochs}"]
        return (LINEAR, "--work-dir", work, "--data-root", mini_data / "imagenet", *more, *chosen)

    return make


@pytest.fixture(scope="module")
def first_epoch(words, call, tmp_path_factory):
    work = tmp_path_factory.mktemp("linear")
    assert call(train_main, *words(work, 1, "--seed", "3")) == 0
    return work


@pytest.fixture(scope="module")
def resumed(first_epoch, words, call, tmp_path_factory):
    work = tmp_path_factory.mktemp("resumed") / "work"
    shutil.copytree(first_epoch, work, symlinks=True)
    (work / "last_checkpoint").write_text(str(work / "epoch_1.pth"))
    assert call(train_main, *words(work, 2, "--seed", "3", "--resume")) == 0
    return work


def test_work_dir_holds_what_others_read(first_epoch):
    assert "*" in (first_epoch / ".gitignore").read_text().splitlines()
    assert (first_epoch / "last.pth").resolve() == first_epoch / "epoch_1.pth"
    assert json.loads((first_epoch / "progress.json").read_text()) == {"done": 2, "total": 2}


def test_record_says_what_was_measured_and_how(first_epoch):
    record = json.loads((first_epoch / "result.json").read_text())
    assert record["config"] == LINEAR.rsplit("/", 1)[1]
    assert (record["seed"], record["iterations"], record["world_size"]) == (3, 2, 1)
    assert (record["backbone_file"], record["backbone_sha256"]) == (None, None)
    assert len(record["history"]) == 1
    assert record["last"] == record["history"][0]
    assert record["last"]["iter"] == 2
    assert 0 <= record["last"]["accuracy/top1"] <= record["last"]["accuracy/top5"] <= 100
    assert record["best"] == {k: record["last"][k] for k in ("accuracy/top1", "accuracy/top5")}
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["commit"]
    assert record["device"]


def test_checkpoint_needs_no_class(first_epoch):
    checkpoint = torch.load(first_epoch / "epoch_1.pth", weights_only=True)
    assert checkpoint["meta"]["epoch"] == 1
    assert checkpoint["meta"]["iter"] == 2
    assert checkpoint["message_hub"]["runtime_info"]["iter"] == 1
    assert "optimizer" in checkpoint
    assert "param_schedulers" in checkpoint


def test_resuming_trains_only_what_is_left(resumed):
    log = next(iter(sorted(resumed.glob("*/*.log"))[-1:])).read_text()
    assert "resumed epoch: 1, iter: 2" in log
    assert "Epoch(train) [2]" in log
    assert "Epoch(train) [1]" not in log
    assert "different from the current training dataset" not in log
    assert series(read_scalars(resumed), "loss")[0] == [1, 2, 3, 4]


def test_record_of_a_resumed_run_holds_both_parts(resumed, first_epoch):
    record = json.loads((resumed / "result.json").read_text())
    before = json.loads((first_epoch / "result.json").read_text())
    assert record["iterations"] == 4
    assert [h["iter"] for h in record["history"]] == [2, 4]
    assert record["history"][0] == before["history"][0]
    key = "accuracy/top1"
    assert record["best"][key] == max(h[key] for h in record["history"])
    assert (resumed / "last.pth").resolve() == resumed / "epoch_2.pth"


def test_resuming_continues_schedule_and_optimizer(resumed, words, call, tmp_path):
    """Compared with a run that was never stopped: the same crops, the same weights."""
    assert call(train_main, *words(tmp_path, 2, "--seed", "3")) == 0
    whole, parts = load_checkpoint(tmp_path / "last.pth"), load_checkpoint(resumed / "last.pth")
    assert whole["meta"]["iter"] == parts["meta"]["iter"] == 4
    assert whole["param_schedulers"] == parts["param_schedulers"]
    assert all(torch.equal(value, parts["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert whole["optimizer"]["param_groups"] == parts["optimizer"]["param_groups"]
    assert whole["optimizer"]["state"].keys() == parts["optimizer"]["state"].keys() != set()
    assert whole["message_hub"]["runtime_info"].keys() == parts["message_hub"]["runtime_info"].keys()
    for name in ("epoch", "iter", "max_epochs", "max_iters"):
        ours = whole["message_hub"]["runtime_info"][name]
        assert ours == parts["message_hub"]["runtime_info"][name], name


def test_a_run_stopped_in_its_last_evaluation_still_gets_its_record(first_epoch, words, call, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(first_epoch, work, symlinks=True)
    (work / "last_checkpoint").write_text(str(work / "epoch_1.pth"))
    expected = json.loads((work / "result.json").read_text())["last"]
    for name in ("result.json", "evaluations.json"):
        (work / name).unlink()
    assert call(train_main, *words(work, 1, "--seed", "3", "--resume")) == 0
    assert json.loads((work / "result.json").read_text())["last"] == expected
    log = sorted(work.glob("*/*.log"))[-1].read_text()
    assert "Epoch(train)" not in log


def test_testing_the_checkpoint_gives_the_recorded_number(first_epoch, words, call, tmp_path, capsys):
    config, *rest = words(tmp_path, 1)
    assert call(evaluate_main, config, first_epoch / "last.pth", *rest) == 0
    record = json.loads((first_epoch / "result.json").read_text())
    tested = json.loads((tmp_path / "test_result.json").read_text())
    for key in ("accuracy/top1", "accuracy/top5"):
        assert tested["last"][key] == record["last"][key]
    assert f"accuracy/top1 {record['last']['accuracy/top1']:.4g}" in capsys.readouterr().out


def test_the_config_in_the_work_dir_tests_its_checkpoint(first_epoch, call, tmp_path):
    """Without a word of data, options or recipe."""
    (config,) = first_epoch.glob("*.py")
    assert call(evaluate_main, config, first_epoch / "last.pth", "--work-dir", tmp_path) == 0
    record = json.loads((first_epoch / "result.json").read_text())
    tested = json.loads((tmp_path / "test_result.json").read_text())
    assert tested["last"]["accuracy/top1"] == record["last"]["accuracy/top1"]


def test_pretraining_checkpoint_says_what_it_holds(pretraining_run):
    meta = torch.load(pretraining_run / "last.pth", weights_only=True)["meta"]
    assert meta["backbone_header"]["method"] == "cmae"
    assert json.loads((pretraining_run / "result.json").read_text())["last"] == {}


def test_numpy_scalars_become_plain():
    np = pytest.importorskip("numpy")
    for value, expected in (
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (True, True),
        ([1, 2], [1, 2]),
    ):
        assert _builtin(value) == expected
        assert type(_builtin(value)) is type(expected)
    assert _builtin(np.zeros(3)) is None
    assert _builtin({"a": 1}) is None
