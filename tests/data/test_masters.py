"""Master crops: the box rule, the resize, draws that depend on nothing but seed, epoch and image."""

import io
import math
import shutil
import tarfile

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image
from torch.utils.data import DataLoader

import cmae_mm.compat  # noqa: F401
from cmae_mm.data.broken import TooManyBrokenError
from cmae_mm.data.crop import Box, center_crop, crop_resize, random_box, resize
from cmae_mm.data.decode import decode_bgr
from cmae_mm.data.masters import MasterImages, check_masters, draw_key
from cmae_mm.data.sampler import EpochSampler
from cmae_mm.errors import UserError

SIZE = 24
FAST = {"collate_fn": default_collate, "batch_size": 4}


@pytest.fixture(scope="module")
def folder(mini_data, tmp_path_factory):
    """Forty rendered images of ten classes, some of them not square."""
    root = tmp_path_factory.mktemp("masters")
    shutil.copytree(mini_data / "imagenet" / "train", root / "train")
    for i, path in enumerate(sorted((root / "train").glob("*/*.jpg"))):
        if i % 3:
            with Image.open(path) as image:
                image.crop((0, 0, 60 - 3 * (i % 7), 40 + i % 5)).save(path, quality=90)
    return root


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def epoch_of(dataset, epoch=0, **options):
    """All samples of one epoch by image, through a real loader."""
    sampler = EpochSampler(dataset, seed=5)
    loader = DataLoader(dataset, sampler=sampler, **FAST, **options)
    sampler.set_epoch(epoch)
    order = [k % len(dataset) for k in sampler]
    batches = list(loader)
    joined = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return {key: values[np.argsort(order)] for key, values in joined.items()}


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


# The sample


def test_a_batch_has_what_the_device_needs(folder):
    batch = epoch_of(MasterImages(folder, size=SIZE))
    assert batch["inputs"].shape == (40, 3, SIZE, SIZE)
    assert batch["inputs"].dtype == torch.uint8
    assert batch["draw_key"].dtype == torch.int64
    assert len(set(batch["draw_key"].tolist())) == 40
    assert (batch["draw_key"] >= 0).all()
    assert batch["label"].tolist() == [label for label in range(10) for _ in range(4)]
    whole = epoch_of(MasterImages(folder, size=SIZE, crop="whole"))
    shapes = [Image.open(path).size for path in sorted((folder / "train").glob("*/*.jpg"))]
    assert whole["aspect"].tolist() == [w / h for w, h in shapes]


def test_channels_are_blue_green_red(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (30, 20), (255, 128, 0)).save(tmp_path / "train" / "a" / "a.png")
    for crop in ("random", "center", "whole"):
        inputs = MasterImages(tmp_path, size=8, crop=crop)[0]["inputs"]
        assert inputs.flatten(1).tolist() == [[0] * 64, [128] * 64, [255] * 64]


def test_crops_are_not_flipped(tmp_path):
    """A ramp that rises to the right rises in every crop."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    ramp = np.broadcast_to(np.linspace(0, 255, 90)[None, :, None], (60, 90, 3)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "train" / "a" / "a.png")
    dataset = MasterImages(tmp_path, size=16)
    for epoch in range(30):
        row = dataset[epoch]["inputs"][1, 8].int()
        assert (row.diff() >= 0).all()
        assert row[-1] > row[0]


def test_the_draws_depend_on_seed_epoch_and_image_alone(folder):
    first = epoch_of(MasterImages(folder, size=SIZE))
    assert same(first, epoch_of(MasterImages(folder, size=SIZE, seed=99), num_workers=1))
    assert same(first, epoch_of(MasterImages(folder, size=SIZE), num_workers=2, prefetch_factor=3))
    second = epoch_of(MasterImages(folder, size=SIZE), epoch=1)
    changed = (second["inputs"] != first["inputs"]).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.9
    assert (second["draw_key"] != first["draw_key"]).all()
    assert torch.equal(second["label"], first["label"])


def test_living_workers_that_load_ahead_know_the_epoch(folder):
    dataset = MasterImages(folder, size=SIZE)
    sampler = EpochSampler(dataset, seed=5)
    loader = DataLoader(dataset, sampler=sampler, num_workers=2, persistent_workers=True, **FAST)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = torch.cat([batch["draw_key"] for batch in loader]).tolist()
        assert sorted(keys) == sorted(draw_key(5, epoch, i) for i in range(40))


def test_spawned_workers_give_the_same(folder):
    whole = as_tar(folder / "train", folder / "spawned.tar")
    dataset = MasterImages(whole, size=SIZE)
    spawned = epoch_of(dataset, num_workers=1, multiprocessing_context="spawn")
    assert same(epoch_of(dataset), spawned)


def as_tar(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "train")
    return path


def as_tar_of_tars(folder, path):
    with tarfile.open(path, "w") as tar:
        for part in sorted(folder.iterdir()):
            inner = path.with_name(f"{part.name}.tar")
            with tarfile.open(inner, "w") as into:
                for file in part.iterdir():
                    into.add(file, file.name)
            tar.add(inner, inner.name)
    return path


def as_shards(folder, path):
    from webdataset import ShardWriter

    with ShardWriter(f"{path}-%04d.tar", maxcount=15, verbose=0) as writer:
        for label, part in enumerate(sorted(folder.iterdir())):
            for file in part.iterdir():
                writer.write({"__key__": file.stem, "jpg": file.read_bytes(), "cls": label})
    return f"{path}-{{0000..0002}}.tar"


@pytest.mark.parametrize("pack", [as_tar, as_tar_of_tars, as_shards], ids=lambda f: f.__name__)
def test_packed_data_gives_the_same_samples(pack, folder, tmp_path):
    packed = pack(folder / "train", tmp_path / "packed.tar")
    assert same(epoch_of(MasterImages(folder, size=SIZE)), epoch_of(MasterImages(packed, size=SIZE)))


def test_indices(folder):
    dataset = MasterImages(folder, size=SIZE)
    assert torch.equal(dataset[3]["inputs"], dataset[3]["inputs"])
    assert dataset[3 + 40]["draw_key"] == draw_key(0, 1, 3)
    assert dataset[3 + 40]["label"] == dataset[3]["label"]
    assert [s["draw_key"] for s in dataset] == [draw_key(0, 0, i) for i in range(40)]
    with pytest.raises(IndexError):
        dataset[-1]


def test_keys_are_spread_over_63_bits():
    keys = {draw_key(s, e, i) for s in range(10) for e in range(10) for i in range(100)}
    assert len(keys) == 10_000
    bits = np.array([[key >> b & 1 for b in range(64)] for key in keys]).mean(axis=0)
    assert bits[63] == 0
    assert np.abs(bits[:63] - 0.5).max() < 5 * 0.5 / math.sqrt(10_000)


def test_few_images_of_each_class(folder):
    dataset = MasterImages(folder, size=SIZE, per_class=2)
    every = MasterImages(folder, size=SIZE)
    assert len(dataset) == 20
    assert [dataset.name(i) for i in range(20)] == [every.name(i) for i in range(40) if i % 4 < 2]
    assert [dataset[i]["label"] for i in range(20)] == [label for label in range(10) for _ in range(2)]
    assert len(MasterImages(folder, per_class=100)) == 40


def test_sampler_is_the_default_sampler_plus_the_epoch(folder):
    from mmengine.dataset import DefaultSampler

    dataset = MasterImages(folder, size=SIZE)
    ours, theirs = EpochSampler(dataset, seed=7), DefaultSampler(dataset, seed=7)
    assert dataset.seed == 7
    for epoch in (0, 3):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == [epoch * 40 + i for i in theirs]
    with pytest.raises(UserError, match="EpochSampler works with MasterImages, not with list"):
        EpochSampler([1, 2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"crop": "middle"}, "crop is 'middle'; set one of random, center, whole"),
        ({"scale": (0, 1)}, "scale is"),
        ({"scale": (0.5, 0.2)}, "scale is"),
        ({"ratio": (2, 1)}, "ratio is"),
        ({"max_broken": 1}, "max_broken is 1"),
        ({"per_class": 0}, "per_class is 0"),
        ({"data_root": "/none"}, "check the data root"),
    ],
)
def test_mistakes(options, says, folder):
    with pytest.raises(UserError, match=says):
        MasterImages(**{"data_root": folder, **options})


# Boxes and resizing


def statistics(boxes, width, height):
    left, top, w, h = np.array(boxes, float).T
    area, aspect = w * h / (width * height), np.log(w / h)
    place_x, place_y = left / np.maximum(width - w, 1), top / np.maximum(height - h, 1)
    columns = [area, aspect, place_x, place_y, w / width, h / height]
    return np.stack([np.mean(columns, 1), np.std(columns, 1)])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (640, 120), (40, 30)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.5)])
def test_boxes_are_distributed_as_those_of_torchvision(size, scale):
    from torchvision.transforms import RandomResizedCrop

    width, height = size
    n, ratio = 4000, (3 / 4, 4 / 3)
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    theirs = [(left, top, w, h) for top, left, h, w in theirs]
    rng = np.random.default_rng(0)
    ours = [random_box(width, height, scale, ratio, rng) for _ in range(n)]
    for left, top, w, h in ours:
        assert 0 <= left <= width - w
        assert 0 <= top <= height - h
    a, b = statistics(ours, width, height), statistics(theirs, width, height)
    # All quantities have a spread of at most 1/2: a difference of means beyond 5 standard errors is no accident.
    assert np.abs(a - b).max() < 5 * 0.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("size", [(1000, 50), (50, 1000), (1, 1), (3, 2), (2, 999)])
def test_fallback_box_is_that_of_torchvision(size):
    from torchvision.transforms import RandomResizedCrop

    width, height = size
    ratio = (3 / 4, 4 / 3)
    # A share of the area that never fits in an image of such a shape leaves the fallback only.
    scale = (1.0, 1.0) if max(size) > 3 else (1e-9, 1e-9)
    top, left, h, w = RandomResizedCrop.get_params(torch.empty(1, height, width), list(scale), list(ratio))
    assert random_box(width, height, scale, ratio, np.random.default_rng(0)) == Box(left, top, w, h)


def photograph(width, height, seed=0):
    """Smooth forms with edges and grain, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (9, 12, 3)).astype(np.float32), (width, height))
    coarse[height // 3 :, width // 2 :] = 255 - coarse[height // 3 :, width // 2 :]
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def pillow_rows_first(pixels, width, height):
    """Pillow in two steps: newer versions begin with the columns where that is less work, which rounds differently."""
    bicubic = Image.Resampling.BICUBIC
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, image.height), bicubic).resize((width, height), bicubic))


@pytest.mark.parametrize("box", [(0, 0, 500, 375), (13, 57, 301, 222), (100, 100, 90, 120), (7, 3, 1, 1)])
@pytest.mark.parametrize("size", [64, 224, 256])
def test_resize_agrees_with_pillow(box, size):
    """torch's vector kernel has weights of 16 bits, Pillow 22: at most 2 levels, and rarely more than 0."""
    pixels, box = photograph(500, 375), Box(*box)
    ours = crop_resize(pixels, box, size).permute(1, 2, 0).numpy()
    theirs = pillow_rows_first(
        pixels[box.top : box.top + box.height, box.left : box.left + box.width], size, size
    )
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-4
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("shape", [(500, 375), (333, 512), (256, 256), (90, 400)])
@pytest.mark.parametrize("size", [64, 224])
def test_center_crop_is_the_evaluation_view_of_torchvision(shape, size):
    from torchvision.transforms.v2 import CenterCrop, InterpolationMode, Resize

    pixels = photograph(*shape)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = Resize(round(size * 256 / 224), InterpolationMode.BICUBIC, antialias=True)(image)
    assert torch.equal(center_crop(pixels, size), CenterCrop(size)(theirs))


def test_resize_to_the_same_size_changes_nothing():
    pixels = photograph(31, 17)
    assert np.array_equal(resize(pixels, 17, 31).permute(1, 2, 0).numpy(), pixels)


# Broken images


def spoil(root, numbers, content=b"\xff\xd8\xff spoiled"):
    files = sorted((root / "train").glob("*/*.jpg"))
    for i in numbers:
        files[i].write_bytes(content)
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_by_the_next_good_one(workers, copy, capfd):
    good = epoch_of(MasterImages(copy, size=SIZE))
    files = spoil(copy, [4, 5, 39])
    dataset = MasterImages(copy, size=SIZE, max_broken=0.1)
    capfd.readouterr()
    for again in (False, True):  # the second time nothing is said
        batch = epoch_of(dataset, num_workers=workers)
        assert batch["label"].tolist() == [*good["label"][:39].tolist(), 0]
        assert torch.equal(batch["draw_key"], good["draw_key"])
        untouched = [i for i in range(40) if i not in (4, 5, 39)]
        assert torch.equal(batch["inputs"][untouched], good["inputs"][untouched])
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == (0 if again else 3)
        assert sum(str(files[4]) in line for line in lines) == (0 if again else 1)
    assert dataset.broken.found() == [4, 5, 39]
    assert len(dataset.broken) == 3
    # The replacement is cut as the lost image would have been: by its draws, from other pixels.
    pixels = decode_bgr(files[6].read_bytes())
    rng = np.random.default_rng(draw_key(5, 0, 4))
    box = random_box(pixels.shape[1], pixels.shape[0], dataset.scale, dataset.ratio, rng)
    assert torch.equal(batch["inputs"][4], crop_resize(pixels, box, SIZE))


def test_a_missing_file_counts_as_broken(copy, capfd):
    dataset = MasterImages(copy, size=SIZE, max_broken=0.1)
    sorted((copy / "train").glob("*/*.jpg"))[0].unlink()
    assert dataset[0]["label"] == 0
    assert "No such file" in capfd.readouterr().err


@pytest.mark.parametrize(("fraction", "limit"), [(0, 0), (1e-9, 1), (0.001, 1), (0.05, 2), (0.99, 39)])
def test_how_many_may_be_broken(fraction, limit, folder):
    assert MasterImages(folder, max_broken=fraction).broken.limit == limit


@pytest.mark.parametrize(("workers", "broken"), [(0, range(40)), (0, range(20, 23)), (2, range(40))])
def test_too_many_broken_images_stop_with_one_sentence(workers, broken, copy):
    files = spoil(copy, broken)
    dataset = MasterImages(copy, size=SIZE, max_broken=0.05)
    loader = DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0, **FAST)
    with pytest.raises(TooManyBrokenError) as error:
        list(loader)
    if workers:  # the garbage collector would do it, but waits 5 s for each process
        loader._iterator._shutdown_workers()
    sentence = str(error.value)
    start = f" of 40 images cannot be read, and only 2 may (max_broken of the data set), for example {files[broken[0]]}"
    assert start in sentence
    assert 3 <= int(sentence.partition(" ")[0]) <= 3 * max(1, workers)  # what the processes found meanwhile
    assert sentence.count(".jpg") == 3
    assert "Traceback" not in sentence
    assert "\n" not in sentence


def test_a_check_reads_a_sample(copy):
    arguments = {"data_root": str(copy), "size": SIZE}
    check_masters(arguments)
    files = spoil(copy, [39])
    check_masters({**arguments, "max_broken": 0.05})
    with pytest.raises(UserError, match=rf"cannot read the image {files[39]} .*1 of the 32 images"):
        check_masters({**arguments, "max_broken": 0})
    spoil(copy, range(22))
    with pytest.raises(UserError, match="cannot read the image"):
        check_masters({**arguments, "max_broken": 0.9})


def test_jpeg_under_another_name(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    stream = io.BytesIO()
    Image.fromarray(photograph(40, 30)).save(stream, "PNG")
    (tmp_path / "train" / "a" / "a.JPEG").write_bytes(stream.getvalue())
    assert MasterImages(tmp_path, size=8)[0]["inputs"].shape == (3, 8, 8)
