"""Archives that show different readers different files, or unpack to more than they are."""

import struct
import zipfile

import pytest
import torch

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError

END, LOCATOR, END64 = 22, 20, 56


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.arange(1000.0), "v": torch.ones(2)}, path)
    return path


def refused(path, says):
    with pytest.raises(UserError, match=says) as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable()


def repack(path, change=lambda name, data: (name, data), extra=()):
    with zipfile.ZipFile(path) as old:
        parts = [change(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in [*parts, *extra]:
            new.writestr(name, data)


def patch(path, at, data):
    whole = bytearray(path.read_bytes())
    at = at if at >= 0 else len(whole) + at
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def test_archives_of_other_packers_are_read(path):
    """Without the long directory that torch writes."""
    repack(path)
    assert path.read_bytes()[-END - LOCATOR :][:4] != b"PK\6\7"
    assert torch.equal(load_checkpoint(path)["w"], torch.arange(1000.0))


@pytest.mark.parametrize("comment", [b"x", b"PK\5\6" + b"\0" * 18])
def test_a_comment_at_the_end(path, comment):
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    refused(path, "does not end as an archive does|not at its end")


def test_bytes_before_and_behind(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    refused(path, "not a readable checkpoint")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/y", b"z")
    path.write_bytes(path.read_bytes() + whole)
    refused(path, "its directory of entries is not at its end")


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (-END + 8, struct.pack("<2H", 3, 3)),
        (-END + 16, struct.pack("<L", 7)),
        (-END + 12, struct.pack("<L", 7)),
    ],
    ids=["number", "place", "length"],
)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_directory_that_lies(path, at, data, long):
    if not long:
        repack(path)
        patch(path, at, data)
    else:  # the same fields in the long directory, twice as wide
        field = {8: 24, 16: 48, 12: 40}[at + END]
        value = struct.unpack("<L", data)[0] if len(data) == 4 and field != 24 else 3
        wide = struct.pack("<Q", value) * (2 if field == 24 else 1)
        patch(path, -END - LOCATOR - END64 + field, wide)
    refused(path, "not a readable checkpoint|refused, its directory|refused, it is an archive but not one")


def test_two_long_directories(path):
    """A locator that points elsewhere: one reader follows it, another looks right before it."""
    patch(path, -END - LOCATOR + 8, struct.pack("<Q", 4))
    refused(path, "its directory of entries is not at its end")


def test_more_entries_than_a_checkpoint_has(path):
    patch(path, -END - LOCATOR - END64 + 24, struct.pack("<2Q", 10**6, 10**6))
    refused(path, "has 1000000 entries, a checkpoint at most 100000")


@pytest.mark.parametrize(
    "extra",
    [
        [("x/data.pkl\0y", b"")],
        [("x/data/0", b"")],
        [("y/data/7", b"")],
        [("data.pkl", b"")],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_are_there_twice_or_elsewhere(path, extra):
    with zipfile.ZipFile(path) as old:
        assert old.namelist()[0].startswith("x/")
    repack(path, extra=extra)
    refused(path, "refused, it is an archive but not one that torch.save wrote")


def test_an_archive_without_a_pickle(path):
    repack(path, change=lambda name, data: (name.replace("data.pkl", "data.txt"), data))
    refused(path, "not one that torch.save wrote")


@pytest.mark.parametrize("content", [b"PK\3\4", b"PK\3\4" + b"\0" * 18, b"PK\3\4" + b"PK\5\6" + b"\0" * 18])
def test_hardly_an_archive(path, content):
    path.write_bytes(content)
    refused(path, "not a readable checkpoint|refused")


def test_torchscript_is_refused(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(path))
    refused(path, "refused|not a readable checkpoint")
