"""Draws and lists of a few labelled images."""

import hashlib
import json

import numpy as np
import pytest

from cmae_mm.data import few_labels
from cmae_mm.data.few_labels import FewLabels, choose
from cmae_mm.engine.config import load_config, use_few_labels
from cmae_mm.engine.launch import train_main
from cmae_mm.errors import UserError

SIZES = (40, 7, 130, 1)
NAMES = [f"n{c:02d}/n{c:02d}_{i}.JPEG" for c, size in enumerate(SIZES) for i in range(size)]
LABELS = np.repeat(np.arange(4), SIZES)


def chosen(take, names=NAMES, labels=LABELS, **kwargs):
    return {names[row] for row in choose(names, labels, take, **kwargs).rows}


@pytest.mark.parametrize(
    ("take", "counts"),
    [("10%", [4, 1, 13, 1]), ("1%", [1, 1, 1, 1]), ("50%", [20, 4, 65, 1]), ("100%", list(SIZES))],
)
def test_shares_of_each_class(take, counts):
    rows = choose(NAMES, LABELS, take).rows
    assert np.bincount(LABELS[rows]).tolist() == counts
    assert (np.diff(rows) > 0).all()


def test_numbers_of_each_class():
    names, labels = NAMES[:-1], LABELS[:-1]
    for n in (1, 5, 7):
        assert np.bincount(labels[choose(names, labels, f"{n}-per-class").rows]).tolist() == [n] * 3
    with pytest.raises(UserError, match=r"class 1 has only 7 images \(n01/n01_\d.JPEG"):
        choose(names, labels, "10-per-class")


def test_the_seed_decides_and_nothing_else():
    first = chosen("10%", seed=3)
    order = np.random.default_rng(0).permutation(len(NAMES))
    assert chosen("10%", [NAMES[i] for i in order], LABELS[order], seed=3) == first
    assert chosen("10%", seed=4) != first
    assert chosen("1%", seed=3) < first < chosen("50%", seed=3)  # a smaller draw is a part of a larger one


def test_lists_are_read_back(tmp_path):
    first = chosen("10%", seed=1)
    for text in ("\n".join(sorted(first)), "\r\n".join(name.split("/")[1] for name in first) + "\n\n"):
        path = tmp_path / "mine.txt"
        path.write_text(text)
        assert chosen(str(path)) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n00_0.JPEG\nn09_1.JPEG", "1 of its 2 images are not in the data set, for example n09_1.JPEG"),
        ("n00_0.JPEG\nn00/n00_0.JPEG", "names 1 images twice"),
        ("", "is it a list for this data set"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        choose(NAMES, LABELS, str(path))


def test_simclr_lists_are_checked(tmp_path, monkeypatch):
    (tmp_path / "1percent.txt").write_text("n00_0.JPEG\n")
    with pytest.raises(
        UserError, match=r"1 lines with MD5 .* in place of 12,811 with b61c91b8ddb75fabdb02a9bb2ae3bd74"
    ):
        choose(NAMES, LABELS, "1%", lists=tmp_path)
    # The right bytes are accepted, with either kind of line ends.
    right = hashlib.md5(b"n00_0.JPEG\n").hexdigest()
    monkeypatch.setitem(few_labels.SIMCLR_LISTS, "1percent.txt", (1, right))
    (tmp_path / "1percent.txt").write_bytes(b"n00_0.JPEG\r\n")
    choice = choose(NAMES, LABELS, "1%", lists=tmp_path)
    assert choice.rows.tolist() == [0]
    assert "SimCLR's" in choice.origin
    with pytest.raises(UserError, match=r"10percent\.txt: the list of images cannot be read"):
        choose(NAMES, LABELS, "10%", lists=tmp_path)


@pytest.mark.parametrize("take", ["0%", "101%", "ten", "0-per-class", "/no/such/list.txt"])
def test_other_words_are_refused(take):
    with pytest.raises(UserError, match="is no share such as 1%"):
        choose(NAMES, LABELS, take)


def test_a_data_set_of_few_labels(mini_data):
    whole = {
        "type": "CustomDataset",
        "data_root": str(mini_data / "imagenet"),
        "data_prefix": "train",
        "pipeline": [],
    }
    few = FewLabels(whole, "2-per-class", seed=1)
    assert len(few) == 20
    assert [few.get_data_info(i)["gt_label"] for i in range(20)] == sorted([*range(10)] * 2)
    assert few[3]["img_path"].endswith(few.names[3])
    assert few.get_cat_ids(3) == [1]
    assert len(few.metainfo["classes"]) == 10


def test_a_run_on_few_labels_trains_on_them_and_says_so(tmp_path, mini_data, call, loader_options):
    words = ["configs/mini/vit-mini-p8_finetune_imagenet.py", "--data-root", mini_data / "imagenet"]
    words += ["--labels", "2-per-class", "--seed", "3", "--work-dir", tmp_path / "work"]
    assert call(train_main, *words, "--cfg-options", *loader_options, "train_cfg.max_epochs=1") == 0
    record = json.loads((tmp_path / "work" / "result.json").read_text())
    assert record["protocol"] == "mini-finetune@2-per-class"
    assert record["iterations"] == 1  # 20 images in a batch of 20
    assert record["subset"]["images"] == 20 == len((tmp_path / "work/subset.txt").read_text().split())


def test_few_labels_need_labels():
    cfg = load_config("configs/mini/upernet_vit-mini_ade20k.py", {})
    with pytest.raises(UserError, match="does not train on labelled images"):
        use_few_labels(cfg, "1%")
