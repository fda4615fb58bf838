"""Each mistake in a folder of ADE20K layout is named in one sentence, before a run; and class lists are read."""

import warnings

import numpy as np
import pytest
from PIL import Image

from cmae_mm.data.ade20k_checks import check_ade20k
from cmae_mm.data.class_names import read_class_names
from cmae_mm.errors import UserError

K = 5
SIZE = (8, 12)


def labels(seed=0, low=0, high=K):
    drawn = np.random.default_rng(seed).integers(low, high + 1, SIZE, dtype=np.uint8)
    drawn[0, :2] = low, high
    return drawn


@pytest.fixture
def root(tmp_path):
    for part in ("images", "annotations"):
        (tmp_path / part / "training").mkdir(parents=True)
    for k in range(6):
        Image.new("RGB", SIZE[::-1], (k, 90, 200)).save(tmp_path / f"images/training/p{k}.jpg")
        Image.fromarray(labels(k)).save(tmp_path / f"annotations/training/p{k}.png")
    return tmp_path


def check(root, **options):
    return check_ade20k(root / "images/training", root / "annotations/training", K, **options)


def put(root, name, image):
    image.save(root / "annotations/training" / f"{name}.png")


def test_a_good_set_is_described(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check(root)
    maps = np.stack([labels(k) for k in range(6)])
    assert (found.images, found.decoded, found.used, found.classes) == (6, 6, K, K)
    assert found.void == (maps == 0).mean()
    assert (
        str(found)
        == f"6 images with label maps, {100 * found.void:.1f} % of the pixels void, 5 of 5 classes occur"
    )
    assert "(of 3 label maps)" in str(check(root, sample=3))


def test_missing_pairs_are_named_in_both_directions(root):
    for k in (1, 2, 4, 5):
        (root / f"annotations/training/p{k}.png").unlink()
    with pytest.raises(
        UserError, match=r"4 images have no label map in .*: p1.png, p2.png, p4.png and 1 more are missing"
    ):
        check(root)
    for k in (1, 2, 4, 5):
        put(root, f"p{k}", Image.fromarray(labels(k)))
    (root / "images/training/p3.jpg").unlink()
    with pytest.raises(UserError, match=r"one label map has no image in .*: p3.jpg is missing; add it"):
        check(root)


def test_empty_and_absent_folders(root, tmp_path):
    with pytest.raises(UserError, match="no label map folder"):
        check_ade20k(root / "images/training", root / "nowhere", K)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \*.jpg images; check the data root"):
        check_ade20k(tmp_path / "empty", root / "annotations/training", K)
    with pytest.raises(UserError, match=r"no \*.png label maps"):
        check_ade20k(root / "images/training", tmp_path / "empty", K)
    with pytest.raises(UserError, match=r"no \*.jpg images; it has 6 other files, such as p0.png: rename"):
        check_ade20k(root / "annotations/training", root / "annotations/training", K)


def palette(values):
    image = Image.fromarray(values, "P")
    image.putpalette(list(range(256)) * 3)
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", SIZE[::-1]), r"colour image \(RGB\); it must have one channel of class numbers"),
        (Image.new("RGBA", SIZE[::-1]), r"colour image \(RGBA\)"),
        (
            Image.fromarray(np.full(SIZE, 3, np.uint16)),
            "16 or 32 bits a pixel, of which loading would keep the lowest 8",
        ),
        (palette(labels(0, 0, 200)), "palette image whose indices are no class numbers"),
        (
            Image.fromarray(labels(0, 0, K + 1)),
            rf"label {K + 1}, but there are only {K} classes \(1 to {K}, 0 for void",
        ),
        (Image.new("L", (9, 9)), r"is 9x9 but its image p3.jpg is 12x8"),
    ],
)
def test_a_label_map_of_another_kind(root, image, message):
    put(root, "p3", image)
    with pytest.raises(UserError, match=message) as raised:
        check(root)
    assert "p3.png" in str(raised.value)


def test_a_truncated_label_map(root):
    path = root / "annotations/training/p2.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"cannot read the label map .*p2.png"):
        check(root)


def test_labels_numbered_from_zero(root):
    """With 255 for void it is certain; without, the last class may just be rare, so it is a warning."""
    for k in range(6):
        put(root, f"p{k}", Image.fromarray(labels(k, 0, K - 1)))
    with pytest.warns(
        UserWarning, match=rf"uses the label {K}, but some use 0 and {K - 1}: are the classes numbered"
    ):
        check(root)
    shifted = labels(1, 0, K - 1)
    shifted[3] = 255
    put(root, "p1", Image.fromarray(shifted))
    with pytest.raises(UserError, match="numbered from 0 with 255 for void; add 1 to every label"):
        check(root)


def test_a_palette_image_of_class_numbers_is_fine(root):
    put(root, "p3", palette(labels(3)))
    assert check(root).images == 6


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "wall\nfloor\nnight stand\n"),
        ("classes.txt", "0\tvoid\n1\twall\n2\tfloor\n3\tnight stand\n"),
        (
            "objectInfo150.csv",
            'Idx,Ratio,Name\n1,0.1,wall\n2,0.1,"floor, flooring"\n3,0.1,night stand;table\n',
        ),
        (
            "objectInfo150.txt",
            "Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tfloor, flooring\n3\t0.1\tnight stand\n",
        ),
    ],
)
def test_class_lists(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert read_class_names(tmp_path) == ("wall", "floor", "night stand")


@pytest.mark.parametrize("text", ["", "1\twall\n3\tfloor\n", "2\twall\n1\tfloor\n"])
def test_class_lists_out_of_order(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match="does not number its classes"):
        read_class_names(tmp_path)
    with pytest.raises(UserError, match="no class list"):
        read_class_names(tmp_path / "absent")


def test_a_folder_with_its_own_classes_is_read(root):
    from mmcv.transforms import LoadImageFromFile
    from mmengine.registry import init_default_scope
    from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs

    from cmae_mm.transfer.ade20k_data import SegmentationFolder

    init_default_scope("mmseg")
    (root / "classes.txt").write_text("wall\nfloor\nbed\nlamp\nbook\n")
    dataset = SegmentationFolder(
        data_root=str(root),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)],
    )
    assert dataset.metainfo["classes"] == ("wall", "floor", "bed", "lamp", "book")
    expected = np.where(labels(4) == 0, 255, labels(4).astype(int) - 1)
    assert np.array_equal(dataset[4]["data_samples"].gt_sem_seg.data[0].numpy(), expected)


def test_a_run_is_refused_before_the_first_iteration(root, call, tmp_path, capsys):
    """The training command says it, and names the option where the heads have another number of classes."""
    from cmae_mm.engine.launch import train_main

    for part in ("images", "annotations"):
        (root / part / "validation").symlink_to(root / part / "training")
    (root / "classes.txt").write_text("\n".join("abcde"))
    config = "configs/mini/upernet_vit-mini_folder.py"
    words = (config, "--data-root", root, "--work-dir", tmp_path / "work")
    assert call(train_main, *words) == 2
    assert f"add --cfg-options model.decode_head.num_classes={K}" in capsys.readouterr().err
    put(root, "p3", Image.new("RGB", SIZE[::-1]))
    heads = [f"model.{part}.num_classes={K}" for part in ("decode_head", "auxiliary_head")]
    assert call(train_main, *words, "--cfg-options", *heads) == 2
    assert "colour image (RGB)" in capsys.readouterr().err
