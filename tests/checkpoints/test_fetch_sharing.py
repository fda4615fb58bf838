"""Several processes, local files, where the cache is, and the line that tells how far it is."""

import io
import multiprocessing
import sys
import threading
from pathlib import Path

import pytest
from file_server import DATA, sha

from cmae_mm.checkpoints.fetch import cache_folder, fetch
from cmae_mm.checkpoints.progress_line import ProgressLine
from cmae_mm.errors import UserError

# Two at once.


def _fetch_in_process(url, cache, results):
    results.put(fetch(url, cache=cache, progress=False).read_bytes() == DATA)


def test_two_processes_download_once(site, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_fetch_in_process, args=(site.url, tmp_path, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=20) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(site.seen) == 1


def test_threads_download_once_and_the_second_says_that_it_waits(site, get, caplog):
    site.cuts = [10_000] * 50
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert len(site.seen) == 51
    assert "another process downloads it, waiting" in caplog.text


# Local files and folders.


def test_a_local_path_is_returned_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(DATA)
    assert fetch("a.pth") == Path("a.pth")
    assert fetch(tmp_path / "a.pth", sha256=sha(DATA)) == tmp_path / "a.pth"
    assert fetch(f"a.pth#sha256={sha(DATA)}") == Path("a.pth")
    with pytest.raises(
        UserError, match=r"a.pth: has the SHA-256 \w{64}, asked for was 0{64}; it is damaged or"
    ):
        fetch("a.pth", sha256="0" * 64)
    with pytest.raises(UserError, match=r"b.pth: no such file; check the path"):
        fetch("b.pth")
    with pytest.raises(UserError, match="is a folder"):
        fetch(tmp_path)


def test_hashes_that_contradict_or_are_none(tmp_path):
    with pytest.raises(UserError, match=r"https://h/a.pth: two different SHA-256 are given; leave one out"):
        fetch(f"https://h/a.pth?key=1#sha256={'0' * 64}", sha256="1" * 64, cache=tmp_path)
    for bad in ("abc", "", "g" * 64):
        with pytest.raises(UserError, match="is not a SHA-256; it has 64 hexadecimal digits"):
            fetch(f"https://h/a.pth#sha256={bad}", cache=tmp_path)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("CMAE_MM_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("CMAE_MM_CACHE")
    assert cache_folder() == tmp_path / "user" / "cmae_mm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "cmae_mm"


# The line that tells how far it is.


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line_with_remaining_time():
    stream, now = Terminal(), [0.0]
    line = ProgressLine("mae.pth", stream, lambda: now[0])
    line(100_000_000, 400_000_000)  # resumed: what was there does not count as speed
    for now[0], done in ((0.1, 101_000_000), (10.0, 150_000_000), (20.0, 300_000_000)):
        line(done, 400_000_000)
    line.close()
    shown = stream.getvalue().split("\r")[1:]
    assert shown[0].rstrip() == "mae.pth: 150.0 of 400.0 MB (37 %), 5.0 MB/s, 0:50 left"
    assert shown[1].rstrip() == "mae.pth: 300.0 of 400.0 MB (75 %), 10.0 MB/s, 0:10 left"
    assert len(shown) == 2
    assert stream.getvalue().endswith("\n")


def test_progress_in_a_file_is_a_line_now_and_then():
    stream, now = io.StringIO(), [0.0]
    line = ProgressLine("mae.pth", stream, lambda: now[0])
    for now[0] in range(0, 100):
        line(int(now[0]) * 1_000_000, None if now[0] < 50 else 10_000_000_000)
    line.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "mae.pth: 30.0 MB, 1.0 MB/s"
    assert lines[1] == "mae.pth: 60.0 of 10000.0 MB (0 %), 1.0 MB/s, 2:45:40 left"
    assert len(lines) == 3


def test_progress_goes_to_standard_error(site, get, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("cmae_mm.checkpoints.progress_line.SCREEN_S", 0.0)
    get(progress=True)
    assert "file.pth: 3.0 of 3.0 MB (100 %)" in stream.getvalue()
