"""Features of a frozen encoder, and the cache that keeps them: stops, damage, several processes."""

import json
import shutil

import numpy as np
import pytest
import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import MODELS

from cmae_mm.errors import UserError
from cmae_mm.transfer import feature_cache, feature_extraction
from cmae_mm.transfer.feature_cache import FeatureCache
from cmae_mm.transfer.feature_extraction import Loading, fill_cache
from cmae_mm.transfer.feature_images import KeyedImages, digest_of_images, names_and_labels
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.frozen_features import FrozenFeatures, TokenViT, digest_of_weights
from cmae_mm.transfer.imagenet import ImageNetViT

ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
PARTS = ["cls-2", "cls-1", "avg-1"]
RANDOM = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=32),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]


def encoder(seed=0, kind=FrozenFeatures, backbone_file=None, **backbone):
    torch.manual_seed(seed)
    cfg = dict(
        type=ImageNetViT, arch=ARCH, img_size=32, patch_size=8, backbone_file=backbone_file, **backbone
    )
    model = kind(cfg, dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True))
    model.init_weights()
    return model


@pytest.fixture
def images(mini_data, monkeypatch):
    monkeypatch.setattr(feature_cache, "BLOCK", 7)
    return CustomDataset(data_root=str(mini_data / "imagenet"), data_prefix="train", pipeline=RANDOM)


def filled(root, model, images, parts=PARTS, views=2, about=None, **options):
    cache = FeatureCache(root, about or {"it": 1}, len(images), 48, options.pop("storage", "float32"))
    fill_cache(cache, model, images, parts, views, Loading(4, 0, **options))
    return cache


def test_tokens_are_those_of_the_blocks():
    """Against hooks on the blocks, and the plain class token of the encoder itself."""
    model, x = encoder(), torch.randn(3, 3, 32, 32)
    seen = []
    for block in model.backbone.layers:
        block.register_forward_hook(lambda m, i, out: seen.append(out.detach()))
    found = model(x, PARTS)
    norm = model.backbone.ln1
    assert torch.allclose(found["cls-2"], norm(seen[0])[:, 0])
    assert torch.allclose(found["cls-1"], norm(seen[1])[:, 0])
    assert torch.allclose(found["avg-1"], norm(seen[1])[:, 1:].mean(1), atol=1e-6)
    plain = encoder(out_type="cls_token").backbone
    plain.out_type, plain.out_indices = "cls_token", [1]
    assert torch.allclose(plain(x)[0], found["cls-1"])
    tokens = TokenViT(parts=PARTS, arch=ARCH, img_size=32, patch_size=8)
    tokens.load_state_dict(model.backbone.state_dict())
    assert torch.equal(tokens(x)[0], torch.cat([found[p] for p in PARTS], 1))


def test_is_frozen_and_knows_its_parts():
    model = encoder()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.train().training
    model.check_parts(PARTS)
    for parts, message in (
        (["cls-3"], "before the first of 2 blocks"),
        (["max-1"], "there is no part"),
        (["cls-0"], "there is no part"),
        ([], "no part is asked for"),
    ):
        with pytest.raises(UserError, match=message):
            model.check_parts(parts)
    with pytest.raises(UserError, match="no class token; use avg-1"):
        encoder(with_cls_token=False).check_parts(["cls-1"])


def test_digests_tell_encoders_and_data_apart(images, backbone_file):
    digests = {
        digest_of_weights(m) for m in (encoder(0), encoder(1), encoder(0, backbone_file=str(backbone_file)))
    }
    assert len(digests) == 3
    assert digest_of_weights(encoder(0)) in digests
    names, labels = names_and_labels(images)
    assert names[0].split("/")[0] == sorted({n.split("/")[0] for n in names})[0]
    whole = digest_of_images(images, names, labels)
    assert whole == digest_of_images(images, names, labels)
    assert whole != digest_of_images(images, names, labels[::-1].copy())


def test_content_of_files_counts(mini_data, tmp_path):
    """The same names with other pictures are another data set."""
    shutil.copytree(mini_data / "imagenet/val", tmp_path / "val")
    data = CustomDataset(data_root=str(tmp_path), data_prefix="val", pipeline=RANDOM)
    before = digest_of_images(data, *names_and_labels(data))
    first, last = (data.get_data_info(i)["img_path"] for i in (0, len(data) - 1))
    shutil.copy(last, first)
    assert digest_of_images(data, *names_and_labels(data)) != before


def test_cache_holds_what_the_encoder_says(tmp_path, images):
    """Each view of each image by its own draws, whatever the order in which it was read."""
    model = encoder()
    cache = filled(tmp_path, model, images)
    for view in (0, 1):
        keyed = KeyedImages(images, view, 0)
        inputs = torch.stack([keyed[i][1] for i in reversed(range(len(images)))]).flip(0)
        expected = model(model.data_preprocessor({"inputs": inputs})["inputs"], PARTS)
        for part in PARTS:
            assert np.allclose(cache.read(part, view), expected[part].numpy(), atol=1e-5), (part, view)
    assert not np.allclose(cache.read("cls-1", 0), cache.read("cls-1", 1), atol=1e-3)
    again = filled(tmp_path / "b", model, images)
    assert np.array_equal(cache.read("avg-1", 1), again.read("avg-1", 1))
    other = filled(tmp_path / "c", model, images, seed=1)
    assert not np.allclose(cache.read("avg-1", 0), other.read("avg-1", 0), atol=1e-3)
    half = filled(tmp_path / "d", model, images, storage="float16")
    assert half.read("cls-1", 0).dtype == np.float16
    assert np.allclose(half.read("cls-1", 0), cache.read("cls-1", 0), atol=2e-3)


def test_random_generators_stay_as_they_were(images):
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    KeyedImages(images)[3]
    assert np.random.rand() == expected


class Kill(BaseException):
    pass


def test_goes_on_after_a_kill(tmp_path, images, monkeypatch):
    model = encoder()
    whole = filled(tmp_path / "whole", model, images)
    count = 0

    def dying(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 4:
            maps, _, block, values = args[:4]
            rows = self.rows(block)
            for part, value in values.items():  # killed between the write and the note
                maps[part][rows.start : rows.stop] = -value
            raise Kill
        return write(self, *args, **kwargs)

    write = FeatureCache.write
    monkeypatch.setattr(FeatureCache, "write", dying)
    with pytest.raises(Kill):
        filled(tmp_path / "part", model, images)
    monkeypatch.setattr(FeatureCache, "write", write)
    cache = FeatureCache(tmp_path / "part", {"it": 1}, len(images), 48)
    assert cache.missing(PARTS, 0) == list(range(3, cache.blocks))
    with pytest.raises(
        UserError, match=r"3 of \d blocks are missing|blocks are missing; run the same command"
    ):
        cache.read("cls-1", 0)
    seen = []
    forward = FrozenFeatures.forward
    monkeypatch.setattr(FrozenFeatures, "forward", lambda s, x, p: seen.append(len(x)) or forward(s, x, p))
    filled(tmp_path / "part", model, images)
    assert sum(seen) == 2 * len(images) - 3 * 7  # what was done is not done again
    for part in PARTS:
        for view in (0, 1):
            assert np.array_equal(cache.read(part, view), whole.read(part, view))


def test_parts_are_added_later(tmp_path, images):
    model = encoder()
    filled(tmp_path, model, images, ["cls-1"], 1)
    cache = filled(tmp_path, model, images, ["cls-1", "avg-1"], 1)
    whole = filled(tmp_path / "whole", model, images, PARTS, 1)
    for part in ("cls-1", "avg-1"):
        assert np.array_equal(cache.read(part, 0), whole.read(part, 0))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_work(tmp_path, images, monkeypatch, world):
    """Each writes rows of its own; one that starts with another number of processes goes on from their notes."""
    model = encoder()
    whole = filled(tmp_path / "whole", model, images, PARTS, 1)
    plan = FeatureCache(tmp_path / "shared", {"it": 1}, len(images), 48)
    plan.create(PARTS, 1)
    blocks = list(range(plan.blocks))
    monkeypatch.setattr(feature_extraction, "_agreed", lambda *args: {0: blocks})
    for rank in range(world - 1):  # the last one never starts
        monkeypatch.setattr(feature_extraction, "get_dist_info", lambda rank=rank: (rank, world))
        filled(tmp_path / "shared", model, images, PARTS, 1)
    monkeypatch.undo()
    monkeypatch.setattr(feature_cache, "BLOCK", 7)
    assert plan.missing(PARTS, 0) == blocks[world - 1 :: world]
    assert len(list(plan.folder.glob("view-000/done-*.json"))) == world - 1
    cache = filled(tmp_path / "shared", model, images, PARTS, 1)
    for part in PARTS:
        assert np.array_equal(cache.read(part, 0), whole.read(part, 0))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "damaged .checksum of block"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "these features are damaged"),
        (lambda p: p.write_bytes(b"nonsense"), "these features are damaged"),
        (lambda p: np.save(p, np.zeros((3, 4), np.float32)), r"damaged .\(3, 4\) of float32"),
        (lambda p: p.unlink(), "these features are damaged"),
    ],
)
def test_damage_is_refused(tmp_path, images, damage, message):
    cache = filled(tmp_path, encoder(), images, ["cls-1"], 1)
    damage(cache.file("cls-1", 0))
    with pytest.raises(UserError, match=message + r".*|remove the folder .* and run again"):
        cache.read("cls-1", 0)


def test_a_damaged_note_costs_work_only(tmp_path, images):
    cache = filled(tmp_path, encoder(), images, ["cls-1"], 1)
    before = np.array(cache.read("cls-1", 0))
    note = cache.file("cls-1", 0).with_name("done-0000.json")
    for text in ("{", "[1]", json.dumps({"cls-1": {"x": 1, "-3": 2, "99": 4}}), json.dumps({"cls-1": [1]})):
        note.write_text(text)
        assert cache.missing(["cls-1"], 0) == list(range(cache.blocks))
    filled(tmp_path, encoder(), images, ["cls-1"], 1)
    assert np.array_equal(cache.read("cls-1", 0), before)


def test_a_full_disk_is_told_before_work_starts(tmp_path, images, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"6 files of features need 0.0 GB, but only 0.0 GB are free"):
        filled(tmp_path, encoder(), images)
    assert not list(tmp_path.rglob("*.npy"))


def test_images_that_cannot_be_read_are_named(tmp_path, mini_data, monkeypatch):
    shutil.copytree(mini_data / "imagenet/val", tmp_path / "val")
    broken = sorted((tmp_path / "val").rglob("*.*"))[5]
    broken.write_bytes(b"no image")
    data = CustomDataset(data_root=str(tmp_path), data_prefix="val", pipeline=RANDOM)
    with pytest.raises(UserError, match=f"cannot read the image .*{broken.name}"):
        filled(tmp_path / "cache", encoder(), data, ["cls-1"], 1)


def test_a_broken_encoder_is_told(tmp_path, images):
    model = encoder()
    with torch.no_grad():
        model.backbone.ln1.weight.fill_(torch.inf)
    with pytest.raises(UserError, match="cls-1 is not finite"):
        filled(tmp_path, model, images, ["cls-1"], 1)


def test_tables_read_rows_and_parts():
    draws = np.random.default_rng(0)
    views = [
        [draws.normal(size=(9, 2)).astype(np.float32), draws.normal(size=(9, 3)).astype(np.float32)]
        for _ in "ab"
    ]
    table = FeatureTable(views, np.arange(9) % 4, 4, rows=np.array([8, 2, 5, 0]))
    side = np.concatenate(views[1], 1)
    assert np.array_equal(table.take([1, 3], 1), side[[2, 0]])
    assert np.array_equal(torch.cat(list(table.tiles(3, 1))), side[[8, 2, 5, 0]])
    assert np.array_equal(table.subset([3, 0]).take(slice(None), 1), side[[0, 8]])
    assert table.labels.tolist() == [0, 2, 1, 0]
    assert table.subset(torch.tensor([1])).labels.tolist() == [2]
    assert (len(table), table.views, table.widths, table.width) == (4, 2, [2, 3], 5)
    places = torch.tensor([2, 2, 0])
    assert np.array_equal(table.reader(1, torch.device("cpu"))(places), side[[5, 5, 8]])


def test_rows_that_do_not_fit_are_read_from_the_disk(monkeypatch):
    monkeypatch.setattr("cmae_mm.transfer.feature_table._room", lambda device: 0.0)
    part = np.arange(20, dtype=np.float16).reshape(10, 2)
    found = FeatureTable([[part]], np.zeros(10), 1).reader(0, torch.device("cpu"))(torch.tensor([7, 1]))
    assert found.dtype == torch.float32
    assert np.array_equal(found, part[[7, 1]])


def test_registered():
    assert MODELS.get("FrozenFeatures") is FrozenFeatures
