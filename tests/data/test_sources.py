"""The same images are found in every layout; tars are read where they lie and indexed once."""

import gzip
import io
import os
import pickle
import tarfile
import threading
import time

import numpy as np
import pytest

from cmae_mm.data.sources import open_source, tar_index, tar_scan
from cmae_mm.data.sources.names import Names
from cmae_mm.errors import UserError

CLASSES = ("n01440764", "n02102040", "n03000684")
LONG = "x" * 120  # longer than a plain tar header holds


@pytest.fixture
def images():
    """Class to file name to bytes. The bytes need not be images here."""
    rng = np.random.default_rng(0)
    names = ("b.JPEG", "a-1.jpg", "a.jpg", "a_1.png", f"{LONG}.jpeg")
    return {c: {f"{c}_{n}": rng.bytes(int(rng.integers(1, 3000))) for n in names} for c in CLASSES}


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path, files, kind=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files.items():
            add(tar, name, data)
    return path


def noise():
    return {"._hidden.jpg": b"no", "readme.txt": b"no"}


def as_folder(images, root):
    for name, files in images.items():
        (root / "train" / name).mkdir(parents=True)
        for file, data in (files | noise()).items():
            (root / "train" / name / file).write_bytes(data)
    return root


def as_class_tars(images, root):
    for name, files in images.items():
        write_tar(root / "train" / f"{name}.tar", files | noise(), tarfile.GNU_FORMAT)
    return root


def as_tar_of_tars(images, root):
    inner = {
        f"{name}.tar": write_tar(root / "inner" / name, files | noise()).read_bytes()
        for name, files in reversed(images.items())
    }
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    return root


def as_tar_of_folders(images, root):
    flat = {f"./{name}/{file}": data for name, files in images.items() for file, data in files.items()}
    return write_tar(root / "whole.tar", flat | noise())  # named by the user


def as_tar_with_splits(images, root):
    flat = {f"set/train/{name}/{f}": data for name, files in images.items() for f, data in files.items()}
    flat |= {f"set/val/{name}/v.jpg": b"validation" for name in images}
    write_tar(root / "train.tar", flat)
    return root


def as_shards(images, root, text=False):
    """Two shards written by the package itself, the images of all classes mixed."""
    from webdataset import TarWriter

    (root / "train").mkdir(parents=True)
    samples = [(file, data, c) for c, files in enumerate(images.values()) for file, data in files.items()]
    for shard in range(2):
        with TarWriter(str(root / "train" / f"shard-{shard:06d}.tar")) as writer:
            for file, data, label in samples[shard::2]:
                key, _, kind = file.rpartition(".")
                value = CLASSES[label].encode() if text else label
                writer.write({"__key__": key, kind: data, "cls": value, "json": {"width": 1}})
    return root


def as_shards_with_names(images, root):
    return as_shards(images, root, text=True)


def as_shard_pattern(images, root):
    return f"{as_shards(images, root)}/train/shard-{{000000..000001}}.tar"


LAYOUTS = {
    as_folder: "folder of class folders",
    as_class_tars: "folder of class tars",
    as_tar_of_tars: "one tar",
    as_tar_of_folders: "one tar",
    as_tar_with_splits: "one tar",
    as_shards: "WebDataset shards",
    as_shards_with_names: "WebDataset shards",
    as_shard_pattern: "WebDataset shards",
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_gives_the_same_images_in_the_same_order(layout, images, tmp_path):
    source = open_source(layout(images, tmp_path))
    assert source.kind == LAYOUTS[layout]
    numbered = layout in (as_shards, as_shard_pattern)
    assert source.classes == (("0", "1", "2") if numbered else CLASSES)
    expected = [(label, file) for label, name in enumerate(CLASSES) for file in sorted(images[name])]
    assert len(source) == len(expected) == 15
    for i, (label, file) in enumerate(expected):
        assert source.label(i) == label
        assert source.name(i).endswith(file)
        assert source.read(i) == images[CLASSES[label]][file]


@pytest.mark.parametrize("layout", [as_class_tars, as_tar_of_tars, as_shards], ids=lambda f: f.__name__)
def test_the_index_is_made_once_and_again_when_a_tar_changes(layout, images, tmp_path, monkeypatch):
    root, scans = layout(images, tmp_path), []
    scan = tar_scan.scan_tar
    monkeypatch.setattr(tar_scan, "scan_tar", lambda path: (scans.append(path), scan(path))[1])
    first = open_source(root)
    count = len(scans)
    again = open_source(root)
    assert len(scans) == count > 0
    assert [again.name(i) for i in range(15)] == [first.name(i) for i in range(15)]
    assert [again.label(i) for i in range(15)] == [first.label(i) for i in range(15)]
    assert again.classes == first.classes

    changed = scans[0]
    stat = changed.stat()
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    open_source(root)
    assert len(scans) == 2 * count


def test_another_split_of_one_tar_has_an_index_of_its_own(images, tmp_path):
    tar = as_tar_with_splits(images, tmp_path) / "train.tar"
    assert len(open_source(tar, "train")) == 15
    assert [open_source(tar, "val").read(i) for i in range(3)] == [b"validation"] * 3
    assert len(open_source(tar, "train")) == 15


@pytest.mark.parametrize("content", [b"", b"PK", b"not an index"])
def test_a_damaged_index_is_made_again(content, images, tmp_path):
    root = as_class_tars(images, tmp_path / "data")
    keep = tmp_path / "indices"
    open_source(root, index_dir=keep)
    (kept,) = keep.glob("*.npz")
    good = kept.read_bytes()
    kept.write_bytes(content or good[: len(good) // 2])
    assert len(open_source(root, index_dir=keep)) == 15
    assert len(np.load(kept)["tar"]) == 15
    assert not list(keep.glob("*.part"))


def test_where_the_index_is_kept(images, tmp_path, monkeypatch):
    tar = as_tar_of_folders(images, tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_source(tar)
    (beside,) = (tmp_path / "data").glob(".whole-*.npz")
    beside.unlink()
    beside.mkdir()  # now nothing can be written there
    open_source(tar)
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    (tmp_path / "file").write_text("")
    assert len(open_source(tar, index_dir=tmp_path / "file")) == 15  # nowhere: made each time


def test_processes_that_start_at_once_make_one_index(images, tmp_path):
    tar = as_tar_of_folders(images, tmp_path)
    built = []

    def build():
        built.append(1)
        time.sleep(0.1)
        return tar_index.TarIndex((), *(np.zeros(1, int) for _ in range(4)), names=Names.of(["x"]))

    threads = [
        threading.Thread(target=tar_index.load_or_build, args=([tar], "rule", None, build)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_shards_agree_with_the_package(images, tmp_path):
    """The package's own reader is the oracle for which files are one sample."""
    from webdataset import WebDataset

    pattern = as_shard_pattern(images, tmp_path)
    theirs = {}
    for sample in WebDataset(pattern, shardshuffle=False):
        (kind,) = {"jpg", "jpeg", "png"} & set(sample)  # the package writes extensions small
        theirs[sample["__key__"]] = (sample[kind], int(sample["cls"]))
    ours = open_source(pattern)
    keys = [ours.name(i).rpartition(":")[2].rpartition(".")[0] for i in range(len(ours))]
    assert {key: (ours.read(i), ours.label(i)) for i, key in enumerate(keys)} == theirs


def test_offsets_agree_with_tarfile(images, tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"{LONG}/{LONG}/{i}.jpg": bytes([i]) * i * 300 for i in range(9)})
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [(m.name, m.offset, m.size) for m in tar_scan.scan_tar(path)] == expected


def test_images_without_classes(images, tmp_path):
    flat = images[CLASSES[0]]
    (tmp_path / "f" / "val").mkdir(parents=True)
    for file, data in flat.items():
        (tmp_path / "f" / "val" / file).write_bytes(data)
    write_tar(tmp_path / "t" / "ILSVRC2012_img_val.tar", flat)
    write_tar(tmp_path / "s" / "val.tar", {f"val/{file}": data for file, data in flat.items()})
    for i in range(2):
        write_tar(tmp_path / "w" / f"set-val-{i:03d}.tar", dict(sorted(flat.items())[i::2]))
    for layout in "ftsw":
        source = open_source(tmp_path / layout, "val")
        assert source.classes == ()
        assert {source.label(i) for i in range(5)} == {-1}
        assert [source.read(i) for i in range(5)] == [flat[file] for file in sorted(flat)]


def test_sources_travel_to_other_processes(images, tmp_path):
    for layout in (as_folder, as_tar_of_tars):
        source = open_source(layout(images, tmp_path / layout.__name__))
        data = source.read(7)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.read(7) == data
        assert copy.name(7) == source.name(7)


def test_few_tars_are_open_at_once(images, tmp_path, monkeypatch):
    monkeypatch.setattr(tar_scan, "_OPEN_TARS", 2)
    source = open_source(as_class_tars(images, tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for i in (0, 5, 10, 1, 6, 11, 14):
        source.read(i)
    assert len(os.listdir("/proc/self/fd")) - before <= 2


def test_a_tar_that_was_cut_after_indexing_is_noticed(images, tmp_path):
    root = as_tar_of_tars(images, tmp_path)
    source = open_source(root)
    os.truncate(root / "ILSVRC2012_img_train.tar", 4096)
    with pytest.raises(OSError, match="ends before byte"):
        source.read(14)


def cut_file(data):
    """Three files of one header and two blocks each; the last one lacks its end."""
    return data[: 3 * 1536 - 600]


def cut_header(data):
    return data[: 2 * 1536 + 100]


def damage_header(data):
    """Spoil the second header, which follows 1,000 bytes of the first file in two blocks."""
    return data[:1536] + b"garbage!" * 64 + data[2048:]


@pytest.mark.parametrize(
    "damage", [cut_file, cut_header, damage_header, gzip.compress, lambda d: b"no tar" * 200]
)
def test_a_damaged_tar_is_refused(damage, tmp_path):
    files = {f"{i}.jpg": bytes([65 + i]) * 1000 for i in range(3)}
    path = write_tar(tmp_path / "train.tar", files, tarfile.USTAR_FORMAT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train.tar cannot be read as a tar .*copy it again"):
        open_source(tmp_path)


def test_mistakes(images, tmp_path):
    with pytest.raises(UserError, match=r"neither a folder train/.*check the data root"):
        open_source(tmp_path / "none")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="has no images; check the data root"):
        open_source(tmp_path)
    write_tar(tmp_path / "s-1.tar", {"a.jpg": b"a"})
    with pytest.raises(UserError, match=r"there is no shard .*s-2.tar"):
        open_source(f"{tmp_path}/s-{{1..2}}.tar")
    write_tar(tmp_path / "s-2.tar", {"a.jpg": b"a", "a.cls": b"0"})
    with pytest.raises(UserError, match=r"a.jpg has no .cls beside it"):
        open_source(f"{tmp_path}/s-{{1..2}}.tar")


def test_training_images_are_not_taken_for_another_split(images, tmp_path):
    for root in (as_tar_of_folders(images, tmp_path / "a"), as_shard_pattern(images, tmp_path / "b")):
        assert len(open_source(root, "train")) == 15
        with pytest.raises(UserError, match="is not said to hold the split 'val'"):
            open_source(root, "val")
    both = as_tar_with_splits(images, tmp_path / "c") / "train.tar"
    assert len(open_source(both, "val")) == 3
    short = write_tar(
        tmp_path / "x.tar", {"val/a/1.jpg": b"1", "train/a/2.jpg": b"2", "interval/a/3.jpg": b"3"}
    )
    assert len(open_source(short, "val")) == 1
    with pytest.raises(UserError, match="is not said to hold the split 'inter'"):
        open_source(short, "inter")
    flat = write_tar(tmp_path / "d" / "my-val.tar", images[CLASSES[0]])
    assert len(open_source(flat, "val")) == 5


def test_names_are_kept_in_two_arrays():
    words = ["", "a", "ünïcode", "bad\udcff", "", "end"]
    names = Names.of(words)
    assert [names[i] for i in range(len(names))] == words
    assert len(Names.of([])) == 0
