"""Robustness sets: mCE by a slow loop, class masks, ReaL's rule, the order of ImageNet-V2, and the whole command."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import hashlib
import json
import random
from importlib.resources import files as packaged
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose

from cmae_mm.data.corruptions import CORRUPTIONS, EXTRA, GROUPS, corrupt, corruption_key
from cmae_mm.data.imagenet_layout import wnids
from cmae_mm.engine.config import load_config
from cmae_mm.engine.launch import evaluate_main, train_main
from cmae_mm.errors import UserError
from cmae_mm.transfer.robustness.command import robustness_main, set_places
from cmae_mm.transfer.robustness.corruption_error import ALEXNET, corruption_scores
from cmae_mm.transfer.robustness.image_sets import (
    ImageSet,
    corruption_folders,
    folder_set,
    read_real_labels,
    v2_set,
)
from cmae_mm.transfer.robustness.images import pixel_steps
from cmae_mm.transfer.robustness.scores import Accuracy, RealAccuracy

CONFIG = "configs/mini/vit-mini-p8_finetune_imagenet.py"
# CE denominators as the literature has them: means over severities
DENOMINATORS = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.2640, "defocus_blur": 81.9880,
    "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.8360, "snow": 86.6816, "frost": 82.6572,
    "fog": 81.9324, "brightness": 56.4592, "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}  # fmt: skip


def drawn_errors(names=CORRUPTIONS):
    rng = random.Random(0)
    return {name: {s: rng.uniform(5, 95) for s in (1, 2, 3, 4, 5)} for name in names}


def test_mce_against_a_slow_loop():
    errors = drawn_errors((*CORRUPTIONS, *EXTRA))
    total, everything = 0.0, []
    for name, row in DENOMINATORS.items():
        own = 0.0
        for severity in range(1, 6):
            own += errors[name][severity] / 5
            everything.append(errors[name][severity])
        total += own / row
    scores = corruption_scores(errors, alexnet=True)
    assert scores["mCE"] == pytest.approx(100 * total / 15, rel=1e-6)
    assert scores["mean_error"] == pytest.approx(sum(everything) / 75, rel=1e-12)
    assert scores["mCE"] != pytest.approx(
        100 * scores["mean_error"] / np.mean(list(DENOMINATORS.values())), rel=1e-3
    )
    for group, names in GROUPS.items():
        values = [errors[n][s] for n in names for s in range(1, 6)]
        assert scores[f"mean_error_{group}"] == pytest.approx(np.mean(values), rel=1e-12)
    assert "missing" not in scores


def test_alexnet_s_own_mce_is_100_and_its_table_has_the_known_means():
    errors = {name: dict(enumerate(row, 1)) for name, row in ALEXNET.items()}
    assert corruption_scores(errors, alexnet=True)["mCE"] == pytest.approx(100, abs=1e-12)
    for name, mean in DENOMINATORS.items():
        assert np.mean(ALEXNET[name]) == pytest.approx(mean, abs=1e-4)
    assert np.mean(list(DENOMINATORS.values())) == pytest.approx(78.8993, abs=1e-4)


def test_what_is_missing_is_never_averaged_away():
    errors = drawn_errors()
    del errors["frost"][4], errors["fog"]
    scores = corruption_scores(errors, alexnet=True)
    assert "mCE" not in scores
    assert "mean_error" not in scores
    assert set(scores["missing"]) == {"frost/4", *(f"fog/{s}" for s in range(1, 6))}
    ratios = [100 * np.mean(list(errors[n].values())) / DENOMINATORS[n] for n in errors if n != "frost"]
    assert scores["mCE_partial"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert "CE/frost" not in scores
    assert "mean_error_weather" not in scores
    other = corruption_scores(drawn_errors(), alexnet=False)
    assert not any("CE" in key for key in other)


@pytest.mark.parametrize(
    ("name", "sha1"),
    [("a", "35699c0f8fba4f989e255fa45ef38f07b693594c"), ("r", "19dac3e347f900c00c27fb4c60df81ae9aed7e8a")],
)
def test_masks_follow_from_the_folders(name, sha1, tmp_path):
    """The oracle is a hash of the authors' own list of columns."""
    synsets = packaged("timm.data").joinpath(f"_info/imagenet_{name}_synsets.txt").read_text().split()
    for wnid in synsets:
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / "x.jpg").touch()
    (tmp_path / "README.txt").touch()
    found = folder_set(name, tmp_path, wnids())
    assert len(found.columns) == len(found.files) == 200
    assert hashlib.sha1(",".join(map(str, found.columns)).encode()).hexdigest() == sha1
    assert [wnids()[n] for n in found.labels] == [path.parent.name for path in found.files]


def test_v2_folders_are_numbers_not_words(tmp_path):
    for number in range(1000):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "y.jpeg").touch()
    found = v2_set("v2", tmp_path, wnids())
    assert sorted(found.labels) == list(range(1000))
    assert all(label == int(path.parent.name) for path, label in zip(found.files, found.labels, strict=True))
    as_words = sorted(str(n) for n in range(1000))
    assert (
        sum(int(word) == place for place, word in enumerate(as_words)) == 12
    )  # what the naive reading gets right
    with pytest.raises(UserError, match="folders 0 to 999"):
        v2_set("v2", tmp_path, ("cat", "dog"))


def test_v2_by_synset_is_taken_too_and_other_folders_are_not(tmp_path):
    for wnid in wnids()[5:8]:
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / "y.jpeg").touch()
    assert v2_set("v2", tmp_path, wnids()).labels == (5, 6, 7)
    (tmp_path / "cats").mkdir()
    with pytest.raises(UserError, match="folders 0 to 999"):
        v2_set("v2", tmp_path, wnids())
    with pytest.raises(UserError, match="the folder cats is no class of the model"):
        folder_set("sketch", tmp_path, wnids())


def test_masked_accuracy_against_a_slow_loop():
    rng = np.random.default_rng(0)
    labels, logits, columns = rng.integers(0, 9, 60), rng.normal(size=(60, 9)), (1, 4, 5, 8)
    score = Accuracy("x", labels.tolist(), columns)
    for rows in np.array_split(np.arange(60), 7):
        score.update(torch.tensor(rows), torch.tensor(logits[rows]))
    right, counted = 0, 0
    for label, row in zip(labels, logits, strict=True):
        if label in columns:
            counted += 1
            right += max(columns, key=lambda c, row=row: row[c]) == label
    assert score.result() == pytest.approx(
        {"x/top1": 100 * right / counted, "x/top5": 100.0, "x/images": counted}, rel=1e-12
    )


def test_real_s_rule_against_a_slow_loop(tmp_path):
    rng = np.random.default_rng(1)
    lists = [sorted(map(int, rng.choice(20, rng.integers(0, 4), replace=False))) for _ in range(50)]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    numbers = rng.permutation(50)[:40]  # images lie in class folders, in any order
    files = [tmp_path / f"n{n % 7:08d}" / f"ILSVRC2012_val_{n + 1:08d}.JPEG" for n in numbers]
    labels = read_real_labels(tmp_path / "real.json", files)
    logits = rng.normal(size=(40, 20))
    score = RealAccuracy("real", labels, 20)
    for rows in (np.arange(0, 25), np.arange(25, 40)):
        score.update(torch.tensor(rows), torch.tensor(logits[rows]))
    first = five = counted = 0
    for n, row in zip(numbers, logits, strict=True):
        if lists[n]:
            counted += 1
            order = sorted(range(20), key=lambda c, row=row: -row[c])
            first += order[0] in lists[n]
            five += any(c in lists[n] for c in order[:5])
    expected = {"real/top1": 100 * first / counted, "real/top5": 100 * five / counted, "real/images": counted}
    assert score.result() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match="original validation images"):
        read_real_labels(tmp_path / "real.json", [tmp_path / "n1_1.JPEG"])


@pytest.mark.parametrize("level", ["", "noise/"])
def test_published_corruptions_are_found_unpacked_either_way(level, tmp_path):
    for part in ("gaussian_noise/1", "gaussian_noise/3", "snow/2"):
        (tmp_path / level / part).mkdir(parents=True)
    found = corruption_folders(tmp_path)
    assert {k: set(v) for k, v in found.items()} == {"gaussian_noise": {1, 3}, "snow": {2}}


def test_places_of_sets(tmp_path):
    root = tmp_path / "imagenet"
    (tmp_path / "imagenet-a").mkdir()
    root.mkdir()
    (root / "real.json").touch()
    assert set_places(["a", "clean", "real"], root) == {
        "clean": root, "real": root / "real.json", "a": tmp_path / "imagenet-a",
    }  # fmt: skip
    for words, message in (
        (["b"], "no such set"),
        (["r"], "give --sets r=PATH"),
        (["r=nowhere"], "there is no nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            set_places(words, root)


@pytest.fixture(scope="module")
def run(mini_data, call, loader_options, tmp_path_factory):
    """Checkpoint of a small classifier, and its accuracy as tools/test.py finds it."""
    work = tmp_path_factory.mktemp("finetune")
    data = ("--data-root", mini_data / "imagenet")
    options = (*loader_options, "train_cfg.max_epochs=2", "model.backbone.arch.num_layers=2")
    assert call(train_main, CONFIG, "--work-dir", work, *data, "--cfg-options", *options) == 0
    words = ("--work-dir", work / "test", *data, "--cfg-options", *options)
    assert call(evaluate_main, CONFIG, work / "last.pth", *words) == 0
    return work / "last.pth", words[2:], json.loads((work / "test/test_result.json").read_text())["last"]


@pytest.fixture(scope="module")
def sets(mini_data, tmp_path_factory):
    """A data root whose val has the names of ImageNet's, with labels of ReaL, and a few sets made of it."""
    root = tmp_path_factory.mktemp("sets") / "imagenet"
    lists, count = [], 0
    for label, folder in enumerate(sorted(p for p in (mini_data / "imagenet/val").iterdir() if p.is_dir())):
        for path in sorted(folder.iterdir()):
            count += 1
            name = f"{folder.name}/ILSVRC2012_val_{count:08d}.JPEG"
            places = [root / "val", root.parent / "imagenet-sketch", root.parent / "imagenet-c/blur/fog/2"]
            if label in (2, 3, 4):  # three of the ten classes
                places.append(root.parent / "imagenet-r")
            for place in places:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(path.read_bytes())
            lists.append([label] if count % 4 else [])
    (root / "real.json").write_text(json.dumps(lists))
    (root / "train").symlink_to(mini_data / "imagenet/train")
    return root


def test_the_command_counts_what_a_slow_loop_counts(run, sets, call, tmp_path, capsys):
    checkpoint, words, clean = run
    kinds = (
        "--corruptions",
        "contrast",
        "gaussian_noise",
        "fog",
        "--severities",
        "2",
        "5",
        "--c-transform",
        "test",
    )
    names = ("clean", "real", "generated", "sketch", "r", "c")
    more = (*kinds, "--work-dir", tmp_path / "w", "--data-root", sets, *words[2:])
    assert call(robustness_main, CONFIG, checkpoint, "--sets", *names, *more) == 0
    record = json.loads((tmp_path / "w/robustness_result.json").read_text())
    last = record["last"]
    assert record["protocol"] == "ROBUSTNESS"
    assert record["trained_as"] == "mini-finetune"
    assert last["clean/top1"] == clean["accuracy/top1"] == last["imagenet-sketch/top1"]
    assert last["clean/top5"] == clean["accuracy/top5"]
    assert record["sets"]["imagenet-r"]["classes"] == 3
    assert last["imagenet-r/top1"] == last["clean-imagenet-r-classes/top1"]  # the same images
    assert last["real/images"] == last["clean/images"] - last["clean/images"] // 4
    assert last["imagenet-c/fog/2/error"] == pytest.approx(100 - last["clean/top1"], rel=1e-12)
    assert len(last["imagenet-c/missing"]) == 74
    assert not any(
        "CE" in key.replace("generated", "") for key in last
    )  # ten classes: AlexNet's errors say nothing
    assert "generated/mean_error_partial" in last
    assert len(last["generated/missing"]) == 69

    val = sorted((sets / "val").iterdir())
    cfg = load_config(CONFIG, {"model.backbone.arch.num_layers": 2})
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope("mmpretrain")
    model = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor}).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    steps = Compose(pixel_steps(cfg.test_pipeline))
    for kind, level in (("contrast", 5), ("gaussian_noise", 2)):
        wrong = images = 0
        for label, folder in enumerate(val):
            for path in folder.iterdir():
                rgb = steps(dict(img_path=str(path)))["img"][..., ::-1]
                key = corruption_key(f"{folder.name}/{path.name}", kind, level)
                pixels = torch.tensor(corrupt(rgb, kind, level, key).transpose(2, 0, 1).astype(np.float32))
                mean, std = (torch.tensor(cfg.data_preprocessor[k]).view(3, 1, 1) for k in ("mean", "std"))
                with torch.no_grad():
                    wrong += model(((pixels - mean) / std)[None]).argmax().item() != label
                images += 1
        assert last[f"generated/{kind}/{level}/error"] == pytest.approx(100 * wrong / images, rel=1e-12)
    assert "all digits" in capsys.readouterr().out


def test_a_part_of_the_images_is_drawn_by_its_seed(run, call, tmp_path):
    checkpoint, words, _ = run
    found = []
    for seed in (1, 1):
        code = call(
            robustness_main, CONFIG, checkpoint, "--sets", "clean", "--limit", "7", "--limit-seed", seed,
            "--work-dir", tmp_path, *words,
        )  # fmt: skip
        assert code == 0
        record = json.loads((tmp_path / "robustness_result.json").read_text())
        assert record["last"]["clean/images"] == 7
        assert record["sets"]["clean"]["limit"] == 7
        found.append(record["last"])
    assert found[0] == found[1]
    whole = ImageSet("x", tuple(map(Path, "abcdefgh")), tuple(range(8)))
    parts = [whole.subset(5, seed) for seed in range(4)]
    assert len({part.files for part in parts}) > 1
    assert all(len(p.files) == 5 and list(p.labels) == sorted(p.labels) for p in parts)
    assert all(str(f) == "abcdefgh"[n] for p in parts for f, n in zip(p.files, p.labels, strict=True))


def test_wrong_calls_end_in_a_sentence(run, call, tmp_path, capsys):
    checkpoint, words, _ = run
    cases = [
        ((CONFIG, tmp_path / "no.pth"), "no such checkpoint"),
        ((CONFIG, checkpoint, "--sets", "v3"), "no such set"),
        ((CONFIG, checkpoint, "--corruptions", "rain"), "is no corruption"),
    ]
    cases = [((*start, *words), message) for start, message in cases]
    cases.append((("configs/mini/upernet_vit-mini_ade20k.py", checkpoint), "trains no classifier"))
    for start, message in cases:
        assert call(robustness_main, *start[:2], "--work-dir", tmp_path, *start[2:]) == 2
        assert message in capsys.readouterr().err
