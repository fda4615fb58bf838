"""``cmae-mm data check imagenet``: every layout, every odd file, every wrong order of labels."""

import io
import json
import random
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from cmae_mm.cli import run
from cmae_mm.data.image_facts import format_of, look_at_all
from cmae_mm.data.imagenet_layout import find_split, wnids
from cmae_mm.errors import UserError

SYNSETS = ("n01440764", "n02105855", "n03028079")
WORDS = ("--workers", "0")


def encoded(mode="RGB", kind="JPEG", turned=False, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((24, 16), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, kind, **({"exif": exif.tobytes()} if turned else {}))
    return file.getvalue()


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if data is None else data)


def folders(root, count=2, synsets=SYNSETS):
    for split in ("train", "val"):
        for number, wnid in enumerate(synsets):
            for i in range(count):
                name = (
                    f"{wnid}_{i}.JPEG"
                    if split == "train"
                    else f"ILSVRC2012_val_{number * count + i + 1:08d}.JPEG"
                )
                put(root / split / wnid / name)


def check(root, *words):
    return run(["data", "check", "imagenet", str(root), *WORDS, *words])


def test_a_good_folder(tmp_path, capsys):
    folders(tmp_path)
    assert check(tmp_path) == 0
    out = capsys.readouterr().out
    assert "6 images of 3 classes, 3 of them of ImageNet-1k; 2 to 2 images a class" in out
    assert "no problems found" in out


def test_every_odd_file_is_counted_and_broken_ones_are_named(tmp_path, capsys):
    folders(tmp_path)
    folder = tmp_path / "train/n02105855"
    put(folder / "n02105855_2933.JPEG", encoded(kind="PNG"))
    put(folder / "n02105855_7.JPEG", encoded(mode="CMYK"))
    put(folder / "n02105855_8.JPEG", encoded(mode="L"))
    put(folder / "n02105855_9.JPEG", encoded(turned=True))
    put(folder / "n02105855_10.JPEG", encoded()[:300])
    put(folder / "n02105855_11.JPEG", b"")
    record = tmp_path / "record.json"
    assert check(tmp_path, "--json", str(record)) == 1
    out = capsys.readouterr().out
    for line in (
        "12 decoded: JPEG 9, PNG 1; 2 cannot be read",
        "named otherwise than they are: 1 (n02105855_2933.JPEG)",
        "greyscale 1, CMYK 1 (n02105855_7.JPEG)",
        "EXIF orientation 1 (n02105855_9.JPEG)",
        "n02105855_11.JPEG (the file is empty)",
        "2 problems",
    ):
        assert line in out
    facts = json.loads(record.read_text())["splits"][0]["facts"]
    assert facts["modes"] == {"RGB": 8, "CMYK": 1, "L": 1}
    assert sorted(name[-7:] for name, _ in facts["broken"]) == ["10.JPEG", "11.JPEG"]


def test_processes_find_the_same(tmp_path):
    folders(tmp_path, count=30)
    put(tmp_path / "train/n01440764/n01440764_5.JPEG", b"\xff\xd8\xff no image")
    source = find_split(tmp_path, "train")
    told = []
    both = [look_at_all(source, range(90), n, lambda done, of: told.append((done, of))) for n in (0, 2)]
    assert both[0] == both[1]
    assert told[: len(told) // 2] == told[len(told) // 2 :] == [(64, 90), (90, 90)]


def test_a_quick_check_says_that_it_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmae_mm.data.imagenet_check.QUICK", 4)
    folders(tmp_path, count=5)
    put(tmp_path / "val/n02105855/ILSVRC2012_val_00000007.JPEG", b"")  # not among the four that are decoded
    assert check(tmp_path) == 0
    assert "no problems found; 8 of 30 images were decoded, --full decodes all" in capsys.readouterr().out
    assert check(tmp_path, "--full") == 1
    assert "ILSVRC2012_val_00000007.JPEG" in capsys.readouterr().out


def test_splits_that_differ(tmp_path, capsys):
    folders(tmp_path)
    for path in (tmp_path / "val/n03028079").iterdir():
        path.unlink()
    (tmp_path / "val/n03028079").rmdir()
    (tmp_path / "train/n04254777").mkdir()
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert "train and val have different classes (n03028079, n04254777)" in out
    assert "train: 1 classes have no images (n04254777)" in out


def devkit(root, labels):
    """The devkit of ILSVRC2012: its own numbers 1 to 1000 in a drawn order, and synsets above that are no classes."""
    from scipy.io import savemat

    order = list(wnids())
    random.Random(0).shuffle(order)
    names = [*order, "n00001740", "n00001930"]
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O")]
    table = np.array([(i + 1, name) for i, name in enumerate(names)], dtype=kinds)
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": table})
    numbers = [order.index(wnids()[label]) + 1 for label in labels]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, numbers)) + "\n")
    return numbers


def flat_val(folder, count):
    for i in range(count):
        put(folder / f"ILSVRC2012_val_{i + 1:08d}.JPEG")


def test_flat_val_with_the_devkit(tmp_path, capsys):
    labels = [5, 999, 0, 5, 17]
    numbers = devkit(tmp_path, labels)
    assert numbers != [label + 1 for label in labels]
    flat_val(tmp_path / "val", 5)
    source = find_split(tmp_path, "val")
    assert [source.label(i) for i in range(5)] == labels
    assert "devkit" in source.kind
    check(tmp_path, "--splits", "val")
    assert "have no label" not in capsys.readouterr().out
    # a list that takes the devkit's numbers for labels
    (tmp_path / "meta").mkdir()
    lines = [f"ILSVRC2012_val_{i + 1:08d}.JPEG {n - 1}" for i, n in enumerate(numbers)]
    (tmp_path / "meta/val.txt").write_text("\n".join(lines))
    assert check(tmp_path, "--splits", "val") == 1
    assert "OpenMMLab's meta/ and the devkit disagree about 5 images" in capsys.readouterr().out


def test_a_list_is_written_that_training_reads(tmp_path, capsys):
    from mmengine.config import Config
    from mmpretrain.datasets import ImageNet

    import cmae_mm.compat  # noqa: F401  (before torchvision)
    from cmae_mm.engine.preflight import check_datasets

    labels = [5, 999, 0, 5, 17]
    devkit(tmp_path, labels)
    flat_val(tmp_path / "val", 5)
    dataset = {"type": ImageNet, "data_root": str(tmp_path), "split": "val", "pipeline": []}
    cfg = Config({"val_dataloader": {"dataset": dataset}})
    with pytest.raises(UserError, match="no class folders"):
        check_datasets(cfg, ("val",))
    assert check(tmp_path, "--splits", "val", "--write-list") == 1  # five images are no ImageNet
    assert "meta/val.txt: written, 5 labels" in capsys.readouterr().out
    assert check_datasets(cfg, ("val",)) == [f"{tmp_path}/meta/val.txt: 5 images"]
    built = ImageNet(data_root=str(tmp_path), split="val")
    assert [built.get_data_info(i)["gt_label"] for i in range(5)] == labels
    check(tmp_path, "--splits", "val", "--write-list")
    assert "is there already" in capsys.readouterr().out
    folders(tmp_path / "other")
    with pytest.raises(UserError, match="class folders need no list"):
        check(tmp_path / "other", "--write-list")


def test_flat_val_without_labels(tmp_path, capsys):
    flat_val(tmp_path / "val", 3)
    assert check(tmp_path, "--splits", "val") == 1
    assert "val: 3 images have no label; add the devkit" in capsys.readouterr().out


def test_kaggle(tmp_path):
    labels = [3, 700, 3]
    data = tmp_path / "ILSVRC/Data/CLS-LOC"
    flat_val(data / "val", 3)
    put(data / "train" / wnids()[1] / f"{wnids()[1]}_4.JPEG")
    rows = [f"ILSVRC2012_val_{i + 1:08d},{wnids()[n]} 1 2 3 4 " for i, n in enumerate(labels)]
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "\n".join(rows[::-1]) + "\n"
    )
    val = find_split(tmp_path, "val")
    assert [val.label(i) for i in range(3)] == labels
    assert find_split(tmp_path, "train").classes == (wnids()[1],)


@pytest.mark.parametrize("right", [True, False])
def test_lists_of_openmmlab(right, tmp_path, capsys):
    """mmpretrain reads a list where there is one, whatever the folders are called."""
    names = [f"{wnids()[n]}/{wnids()[n]}_{n}.JPEG" for n in (0, 1, 207)]
    for name in names:
        put(tmp_path / "train" / name)
    (tmp_path / "meta").mkdir()
    labels = (0, 1, 207) if right else (0, 1, 208)
    (tmp_path / "meta/train.txt").write_text(
        "".join(f"{n} {k}\n" for n, k in zip(names, labels, strict=True))
    )
    check(tmp_path, "--splits", "train")
    out = capsys.readouterr().out
    assert ("1 images have another label than their synset's place" in out) != right
    assert "train: 3 images, 1,281,164 fewer than the published 1,281,167" in out


def test_tars(tmp_path, capsys):
    whole = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(whole, "w") as outer:
        for wnid in SYNSETS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i in range(2):
                    info = tarfile.TarInfo(f"{wnid}_{i}.JPEG")
                    info.size = len(data := encoded(seed=i))
                    tar.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo(f"{wnid}.tar")
            info.size = len(inner.getvalue())
            outer.addfile(info, io.BytesIO(inner.getvalue()))
    for place in (tmp_path, whole):
        assert check(place, "--splits", "train") == 0
        out = capsys.readouterr().out
        assert "train: one tar" in out
        assert "6 images of 3 classes" in out


def test_all_thousand_classes_are_counted(tmp_path, capsys):
    data = encoded()
    for wnid in wnids():
        put(tmp_path / "val" / wnid / "ILSVRC2012_val_00000001.JPEG", data)
    assert check(tmp_path, "--splits", "val") == 1
    out = capsys.readouterr().out
    assert "1,000 images of the 1000 classes of ImageNet-1k; 1 to 1 images a class" in out
    assert "val: 1,000 images, 49,000 fewer than the published 50,000" in out
    (tmp_path / "val").rename(tmp_path / "sample")
    assert check(tmp_path / "sample") == 0  # a folder of classes, whatever it is
    assert "sample: folder of class folders" in capsys.readouterr().out


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    put(tmp_path / "data/train-00000-of-00001.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        find_split(tmp_path, "train")


def test_parquet(tmp_path, capsys):
    arrow = pytest.importorskip("pyarrow", reason="parquet files need pyarrow")
    import pyarrow.parquet as parquet

    labels = [0, 1, 207, 3, 4]
    images = [{"bytes": encoded(seed=n), "path": f"{wnids()[n]}_{n}.JPEG"} for n in labels]
    (tmp_path / "data").mkdir()
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        table = arrow.table({"image": images[part], "label": labels[part]})
        parquet.write_table(table, tmp_path / f"data/train-0000{number}-of-00002.parquet", row_group_size=2)
    source = find_split(tmp_path, "train")
    assert [source.label(i) for i in range(5)] == labels
    assert [source.read(i) for i in (4, 0, 2)] == [images[i]["bytes"] for i in (4, 0, 2)]
    assert source.name(3).endswith("_3.JPEG")
    check(tmp_path, "--splits", "train")
    out = capsys.readouterr().out
    assert "another label" not in out
    assert "5 decoded: JPEG 5" in out
    table = arrow.table({"image": images, "label": [0, 1, 207, 4, 3]})
    parquet.write_table(table, tmp_path / "data/train-00000-of-00002.parquet")
    check(tmp_path, "--splits", "train")
    assert "2 images have another label" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "message"), [("nothing", "there is no"), ("", "layout that is known")])
def test_nothing_there(place, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check(tmp_path / place)


def test_damaged_lists_are_named(tmp_path):
    flat_val(tmp_path / "val", 1)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/val.txt").write_text("ILSVRC2012_val_00000001.JPEG\n")
    with pytest.raises(UserError, match=r"val\.txt: line 1 is not of the form"):
        check(tmp_path)
    (tmp_path / "meta/val.txt").unlink()
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,cat 1 2 3 4\n"
    )
    with pytest.raises(UserError, match=r"LOC_val_solution\.csv: cannot be read"):
        check(tmp_path)


def test_formats_by_their_first_bytes():
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF"):
        assert format_of(encoded(kind=kind)) == kind
    assert format_of(b"GIF89a") == "unknown"
