"""Checkpoints: whole or not there, verified, the right ones kept, and a run that cannot save says so."""

import errno
import os
import runpy
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine import checkpoint_file, checkpoint_writer
from cmae_mm.engine.checkpoint_file import fault_of, newest_good, note_path, read_note, write_checkpoint
from cmae_mm.engine.checkpoint_hook import SuiteCheckpointHook
from cmae_mm.engine.checkpoint_writer import CheckpointWriter, size_of, snapshot
from cmae_mm.errors import UserError

pytestmark = pytest.mark.faults
MIB = 1 << 20


def state(value=0.0, iteration=1, numbers=1000):
    return {"meta": {"epoch": 0, "iter": iteration}, "state_dict": {"w": torch.full((numbers,), value)}}


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def cut(path):
    with open(path, "r+b") as handle:
        handle.truncate(path.stat().st_size - 100)


def three(folder):
    paths = [folder / f"iter_{i}.pth" for i in (1, 2, 3)]
    for i, path in enumerate(paths, 1):
        write_checkpoint(state(i, i), path)
    return paths


def test_the_hash_is_a_file_of_sha256sum(tmp_path):
    path = tmp_path / "epoch_1.pth"
    note = write_checkpoint(state(), path)
    assert read_note(path) == note
    assert note.size == path.stat().st_size
    command = ["sha256sum", "--strict", "-c", note_path(path).name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(path)["meta"]["iter"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_1.pth", "epoch_1.pth.sha256"]


@pytest.mark.parametrize("spoil", [flip, cut])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_spoilt_checkpoint_is_left_out_and_said(tmp_path, spoil, hashed):
    paths = three(tmp_path)
    spoil(paths[2])
    if not hashed:
        for path in paths:
            note_path(path).unlink()
    found, skipped = newest_good(tmp_path)
    assert found == paths[1]
    assert len(skipped) == 1
    assert str(paths[2]) in skipped[0]
    if hashed:
        assert ("SHA-256" if spoil is flip else "cut short") in skipped[0]


def test_the_time_of_writing_decides_not_the_number(tmp_path):
    """A run that started anew in an old work dir goes on from its own checkpoints."""
    paths = three(tmp_path)
    write_checkpoint(state(9, 1), paths[0])
    for path in paths[1:]:
        os.utime(path)  # as copying does
    assert newest_good(tmp_path)[0] == paths[0]


def test_no_whole_checkpoint_is_no_reason_to_start_anew(tmp_path):
    assert newest_good(tmp_path) == (None, [])
    for path in three(tmp_path):
        flip(path)
    with pytest.raises(UserError, match="no checkpoint in"):
        newest_good(tmp_path)


def test_a_broken_note_leaves_the_checksums_of_the_archive(tmp_path):
    path = three(tmp_path)[2]
    note_path(path).write_bytes(b"\xff\x00")
    assert fault_of(path) is None
    flip(path)
    assert "checksum" in fault_of(path)


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_crash_leaves_the_old_file(tmp_path, moment, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    write_checkpoint(state(1.0), path)

    def crash(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(checkpoint_file._Hashing, "write", crash)
    else:
        monkeypatch.setattr(checkpoint_file.os, moment, crash)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(state(2.0), path)
    monkeypatch.undo()
    assert fault_of(path) is None
    assert load_checkpoint(path)["state_dict"]["w"][0] == 1
    assert not list(tmp_path.glob(".*"))


def test_a_snapshot_has_memory_of_its_own_and_keeps_what_is_shared():
    weight = torch.zeros(10)
    tree = {"a": weight, "b": [weight, 1], "c": {"d": weight.view(2, 5)}}
    copied = snapshot(tree)
    weight.fill_(1)
    assert copied["a"].sum() == copied["c"]["d"].sum() == 0
    assert copied["b"][0] is copied["a"]
    assert copied["c"]["d"].shape == (2, 5)
    assert size_of(tree) == 40


def test_the_next_checkpoint_waits_and_mistakes_come_out(tmp_path, monkeypatch):
    free, order = threading.Event(), []

    def slow(state, path):
        if path.name == "iter_1.pth":
            free.wait(20)
        order.append(path.name)
        if path.name == "iter_2.pth":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", slow)
    writer = CheckpointWriter()
    writer.start(state(), tmp_path / "iter_1.pth")
    assert order == []  # training goes on
    threading.Timer(0.1, free.set).start()
    writer.start(state(), tmp_path / "iter_2.pth")
    with pytest.raises(
        UserError, match=r"iter_2.pth: not written, Input/output error; the checkpoint .*iter_1.pth is intact"
    ):
        writer.wait()
    assert order == ["iter_1.pth", "iter_2.pth"]
    writer.wait()


def test_room_is_looked_for_before_writing(tmp_path, monkeypatch):
    writer = CheckpointWriter()
    usage = type("Usage", (), {"free": 5 * MIB})
    monkeypatch.setattr(checkpoint_writer.shutil, "disk_usage", lambda folder: usage)
    writer.start(state(numbers=MIB // 4), tmp_path / "iter_1.pth")
    with pytest.raises(
        UserError, match=r"5 MiB free and the checkpoint takes 9 MiB; the checkpoint .*iter_1"
    ):
        writer.start(state(numbers=2 * MIB), tmp_path / "iter_2.pth")
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_1.pth"]


def names(work):
    return sorted(p.name for p in work.glob("*.pth"))


def test_the_last_and_every_so_many_are_kept(tmp_path, toy):
    toy.train(tmp_path, kind="iterations", max_keep_ckpts=2, keep_every=5)
    assert names(tmp_path) == ["iter_10.pth", "iter_13.pth", "iter_14.pth", "iter_5.pth"]
    assert len(list(tmp_path.glob("*.sha256"))) == 4
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_14.pth")


def test_a_resumed_run_removes_what_its_first_part_kept(tmp_path, toy):
    toy.train(tmp_path, stop_at=9, interval=1, max_keep_ckpts=3, keep_every=1)
    assert names(tmp_path) == ["epoch_1.pth", "iter_7.pth", "iter_8.pth", "iter_9.pth"]
    (tmp_path / "iter_99.pth").write_bytes(b"of somebody else")
    (tmp_path / ".iter_9.pth.1.part").write_bytes(b"of a writer that was killed")
    os.utime(tmp_path / "iter_99.pth", (1, 1))
    toy.train(tmp_path, resume=True, interval=1, max_keep_ckpts=3, keep_every=1)
    left = ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "iter_16.pth", "iter_17.pth", "iter_99.pth"]
    assert names(tmp_path) == left
    assert not list(tmp_path.glob(".*.part"))


def test_a_run_goes_on_from_the_last_good_checkpoint_and_says_which_was_not(tmp_path, toy):
    toy.train(tmp_path / "whole")
    toy.train(tmp_path / "parts", stop_at=8)
    flip(tmp_path / "parts" / "iter_8.pth")
    runner, _ = toy.train(tmp_path / "parts", resume=True)
    log = Path(runner.log_dir, f"{runner.timestamp}.log").read_text()
    assert "iter_8.pth is left out: its SHA-256 is not" in log
    assert f"resume from {tmp_path / 'parts' / 'iter_7.pth'}" in log
    toy.same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth")


def test_weights_alone_take_little_and_are_nothing_to_go_on_from(tmp_path, toy):
    toy.train(tmp_path, stop_at=2, save_optimizer=False)
    assert "optimizer" not in load_checkpoint(tmp_path / "iter_2.pth")
    with pytest.raises(UserError, match="holds no state of the optimizer"):
        toy.train(tmp_path, resume=True)


@pytest.mark.parametrize("option", [{"iter_interval": 0}, {"keep_every": 0}, {"out_dir": "s3://bucket"}])
def test_wrong_options(option):
    with pytest.raises(UserError, match="checkpoint hook"):
        SuiteCheckpointHook(interval=1, **option)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("looked", [True, False])
def test_a_full_disk_stops_with_the_last_checkpoint_intact(small_disk, looked, monkeypatch):
    writer = CheckpointWriter()
    first = small_disk / "iter_1.pth"
    writer.start(state(1.0, 1, MIB // 4), first)
    if not looked:  # another program takes the room between the look and the writing
        monkeypatch.setattr(checkpoint_writer, "check_space", lambda *_: None)

    def save():
        writer.start(state(2.0, 2, 3 * MIB // 4), small_disk / "iter_2.pth")
        writer.wait()

    with pytest.raises(UserError, match=f"not written, the disk .*the checkpoint {first} is intact"):
        save()
    assert newest_good(small_disk) == (first, [])
    assert sorted(p.name for p in small_disk.iterdir()) == ["iter_1.pth", "iter_1.pth.sha256"]


def test_the_benchmark_of_saving_runs(tmp_path):
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "benchmarks" / "checkpoint_save.py"))
    found = tool["measure"](tmp_path, 8, 1)
    assert set(found) == {"mmengine", "pause", "background", "check"}
    assert {p.name for p in tmp_path.glob("*.pth")} == {"library.pth", "iter_1.pth"}
