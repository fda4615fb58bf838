"""A reference becomes a whole file or one sentence, whatever the server does."""

import contextlib
import errno
import hashlib
import http.server
import io
import json
import multiprocessing
import random
import shutil
import socket
import ssl
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmae_mm.checkpoints import download as download_module
from cmae_mm.checkpoints import fetch as fetch_module
from cmae_mm.checkpoints import web
from cmae_mm.checkpoints.fetch import cache_folder, fetch
from cmae_mm.checkpoints.hub import fetch_from_hub
from cmae_mm.checkpoints.progress_line import ProgressLine
from cmae_mm.errors import UserError

DATA = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``site.data`` at /file.pth the way ``site`` says, and notes every request."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        site.seen.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if site.answers:
            code, headers = site.answers.pop(0)
            self.send_response(code)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        self._send(site, *self._piece(site))

    def _piece(self, site):
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        fresh = site.ignores_condition or condition in (site.etag, site.modified)
        if not (site.ranges and wanted and fresh):
            return 200, 0
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return (416, 0) if start >= len(site.data) else (206, start)

    def _send(self, site, code, start):
        self.send_response(code)
        date = "" if code == 206 and site.short_pieces else site.modified
        for name, value in (("ETag", site.etag), ("Last-Modified", date), *site.extra.items()):
            if value:
                self.send_header(name, value)
        if code == 206:
            last, total = len(site.data) - 1, len(site.data)
            self.send_header("Content-Range", f"bytes {start + site.shift}-{last}/{total}")
        body = b"" if code == 416 else site.data[start:]
        if site.framing == "length":
            self.send_header("Content-Length", str(len(body)))
        elif site.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        sent = body[:cut]
        if site.framing == "chunked":
            end = b"0\r\n\r\n" if cut is None else b""
            sent = b"%x\r\n%b\r\n" % (len(sent), sent) + end
        with contextlib.suppress(ConnectionError):  # a client may leave early
            self.wfile.write(sent)


@pytest.fixture
def site(monkeypatch):
    """A server on this machine; its behaviour can be changed between requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_module, "WAITS_S", (0.0, 0.0, 0.0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = SimpleNamespace(
        data=DATA, etag='"one"', modified=DATE, ranges=True, cuts=[], answers=[], seen=[]
    )
    vars(server.site).update(framing="length", ignores_condition=False, shift=0, extra={}, short_pieces=False)
    server.site.url = f"http://127.0.0.1:{server.server_port}/file.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(site, tmp_path):
    """Fetch the file of the site into a cache of this test."""

    def run(reference=None, **options):
        return fetch(reference or site.url, cache=tmp_path / "cache", **{"progress": False, **options})

    return run


def ranges(site):
    return [wanted for _, wanted, _ in site.seen]


def leftovers(tmp_path):
    """Files of the cache beside the lock."""
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock")


def sentence(caught, start):
    text = str(caught.value)
    assert text.startswith(start)
    assert "\n" not in text
    return text


# Whole files.


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_downloaded_once_then_taken_from_the_cache(site, get, tmp_path, framing):
    site.framing = framing
    path = get()
    assert path.name == "file.pth"
    assert path.read_bytes() == DATA
    assert leftovers(tmp_path) == ["file.pth", "file.pth.json"]
    site.answers = [(500, {})] * 9
    assert get() == path
    assert len(site.seen) == 1


def test_hash_as_argument_and_as_fragment(site, get):
    assert get(sha256=sha(DATA).upper()).read_bytes() == DATA
    assert get(f"{site.url}#sha256={sha(DATA)}").read_bytes() == DATA
    assert len(site.seen) == 1
    assert "#" not in site.seen[0][0]


def test_queries_are_different_files_and_stay_secret(site, get):
    one, two = get(f"{site.url}?token=abc"), get(f"{site.url}?token=def")
    assert one != two
    assert [p for p, _, _ in site.seen] == ["/file.pth?token=abc", "/file.pth?token=def"]
    assert all("abc" not in p.read_text() for p in one.parent.glob("*.json"))
    site.answers = [(404, {})]
    with pytest.raises(UserError) as caught:
        get(f"{site.url}?token=ghi")
    assert "ghi" not in sentence(caught, f"{site.url}: the server has no such file (404)")


def test_names_cannot_leave_the_cache(site, get, tmp_path):
    base = site.url.removesuffix("file.pth")
    for tail, name in (
        ("a/..%2F..%2Fx.pth", ".._.._x.pth".lstrip(".")),
        ("", "download"),
        ("%2e%2e", "download"),
    ):
        path = get(base + tail)
        assert path.name == name
        assert path.resolve().is_relative_to(tmp_path / "cache")
    assert get(base + "ä b.pth").name == "__b.pth"


# Interruptions.


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_a_cut_download_goes_on_where_it_stopped(site, get, framing, validator):
    setattr(site, {"etag": "modified", "modified": "etag"}[validator], "")
    site.cuts = [1_000_000, 500_000]
    assert get().read_bytes() == DATA
    starts = [None, "bytes=1000000-", "bytes=1500000-"]
    if framing == "length":
        assert ranges(site) == starts
    assert site.seen[1][2] == getattr(site, validator)


def test_a_piece_need_not_repeat_the_date(site, get):
    site.short_pieces, site.cuts = True, [1_000_000]
    assert get().read_bytes() == DATA
    assert ranges(site) == [None, "bytes=1000000-"]


def test_a_later_call_resumes(site, get, tmp_path, monkeypatch):
    site.cuts = [1_000_000]
    with monkeypatch.context() as once:
        once.setattr(download_module, "WAITS_S", ())
        with pytest.raises(UserError) as caught:
            get()
    text = sentence(
        caught, f"{site.url}: not downloaded, the connection ended after 1000000 of 3000000 bytes"
    )
    assert "1.0 MB are kept; run the command again" in text
    assert leftovers(tmp_path) == ["file.pth.part", "file.pth.part.json"]
    assert get().read_bytes() == DATA
    assert ranges(site) == [None, "bytes=1000000-"]
    assert leftovers(tmp_path) == ["file.pth", "file.pth.json"]


def test_as_many_cuts_as_it_takes_while_bytes_come(site, get):
    site.cuts = [150_000] * 19
    assert get().read_bytes() == DATA
    assert len(site.seen) == 20


def test_cuts_without_progress_end(site, get):
    site.cuts = [1_000_000, 0, 0, 0, 0, 0, 0]
    with pytest.raises(
        UserError, match="not downloaded, the connection ended after 1000000 of 3000000 bytes"
    ):
        get()
    assert len(site.seen) == 4  # one that brings something, and one after each of three waits


def test_no_range_support_starts_again_and_does_not_run_for_ever(site, get, caplog):
    site.ranges, site.cuts = False, [1_000_000]
    assert get().read_bytes() == DATA
    assert "cannot be resumed or was changed, downloading it from the start" in caplog.text
    site.cuts = [1_000_000] * 50
    with pytest.raises(UserError, match="the connection ended after"):
        get(f"{site.url}?again")
    assert len(site.cuts) > 40


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("longer", [False, True])
def test_a_changed_file_is_not_glued_to_an_old_part(site, get, monkeypatch, ignores, longer):
    """Also where the server ignores ``If-Range``, and where only the tag tells the versions apart."""
    site.cuts = [1_000_000]
    with monkeypatch.context() as once:
        once.setattr(download_module, "WAITS_S", ())
        with pytest.raises(UserError, match=r"1.0 MB are kept"):
            get()
    site.data, site.etag, site.ignores_condition = OTHER + b"x" * longer, '"two"', ignores
    assert get().read_bytes() == site.data
    assert ranges(site)[1] == "bytes=1000000-"


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_firm_version_nothing_is_resumed(site, get, tag):
    site.etag, site.modified, site.cuts = tag, "", [1_000_000]
    assert get().read_bytes() == DATA
    assert ranges(site) == [None, None]


def test_a_shorter_file_than_the_part(site, get, monkeypatch):
    site.cuts = [1_000_000]
    with monkeypatch.context() as once:
        once.setattr(download_module, "WAITS_S", ())
        with pytest.raises(UserError):
            get()
    site.data, site.ignores_condition = DATA[:1000], True
    assert get().read_bytes() == DATA[:1000]


def test_a_piece_at_another_place_is_not_taken(site, get):
    site.cuts, site.shift = [1_000_000], 7
    assert get().read_bytes() == DATA
    assert ranges(site) == [None, "bytes=1000000-", None]


def test_a_part_that_is_whole_is_not_asked_for_again(site, get, tmp_path, monkeypatch):
    def stop(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(fetch_module.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert leftovers(tmp_path) == ["file.pth.json", "file.pth.part", "file.pth.part.json"]
    assert get().read_bytes() == DATA
    assert len(site.seen) == 1


@pytest.mark.parametrize("code", [500, 502, 503, 429, 408])
def test_passing_failures_are_tried_again(site, get, monkeypatch, code):
    waited = []
    monkeypatch.setattr(download_module.time, "sleep", waited.append)
    monkeypatch.setattr(download_module, "WAITS_S", (1.0, 2.0, 4.0))
    site.answers = [(code, {}), (code, {"Retry-After": "7"}), (code, {"Retry-After": "99999"})]
    assert get().read_bytes() == DATA
    assert waited == [1.0, 7.0, web.LONGEST_WAIT_S]
    site.answers = [(code, {})] * 4
    with pytest.raises(UserError) as caught:
        get(f"{site.url}?b")
    assert sentence(caught, site.url).endswith(
        f"not downloaded, the server answers {code}; run the command again when the connection works, or give the "
        f"path of a file that is here"
    )
    assert waited[3:] == [1.0, 2.0, 4.0]


# Files that are not what they should be.


def test_wrong_hash_keeps_nothing(site, get, tmp_path):
    with pytest.raises(UserError) as caught:
        get(sha256="0" * 64)
    assert f"has the SHA-256 {sha(DATA)}, asked for was {'0' * 64}" in sentence(caught, site.url)
    assert leftovers(tmp_path) == []
    assert len(site.seen) == 1


def test_a_damaged_part_is_noticed_by_the_hash_and_left(site, get, tmp_path, monkeypatch, caplog):
    site.cuts = [1_000_000]
    with monkeypatch.context() as once:
        once.setattr(download_module, "WAITS_S", ())
        with pytest.raises(UserError):
            get(sha256=sha(DATA))
    part = next((tmp_path / "cache").rglob("*.part"))
    part.write_bytes(bytes(1_000_000))
    assert get(sha256=sha(DATA)).read_bytes() == DATA
    assert "the resumed download is damaged, downloading it from the start" in caplog.text
    assert ranges(site) == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("harm", ["cut", "altered", "note lost"])
def test_a_cached_file_that_was_harmed_is_never_used(site, get, caplog, harm):
    path = get()
    if harm == "cut":
        path.write_bytes(DATA[:-1])
    elif harm == "altered":
        path.write_bytes(OTHER)
    else:
        path.with_name("file.pth.json").unlink()
    site.answers = [(404, {})]
    with pytest.raises(UserError, match="no such file"):
        get()
    assert get() == path
    assert path.read_bytes() == DATA
    assert "the cached file was altered or cut, downloading it again" in caplog.text


def test_another_hash_than_the_cached_file_has(site, get, caplog):
    get()
    site.data, site.etag = OTHER, '"two"'
    assert get().read_bytes() == DATA
    assert get(sha256=sha(OTHER)).read_bytes() == OTHER
    assert "is not the one asked for, downloading it again" in caplog.text
    with pytest.raises(UserError, match="asked for was"):
        get(sha256=sha(DATA))
    assert get().read_bytes() == OTHER  # what was good stays


def test_a_size_that_is_not_told(site, get):
    site.framing = "none"
    with pytest.raises(UserError, match="does not tell the size, so a cut would not show; give a sha256"):
        get()
    assert get(sha256=sha(DATA)).read_bytes() == DATA
    site.cuts = [1_000_000]
    with pytest.raises(UserError, match="asked for was"):
        get(f"{site.url}?b", sha256=sha(DATA))


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "answers with a web page"),
        ({"Content-Encoding": "gzip"}, "another encoding"),
    ],
)
def test_answers_that_are_no_file(site, get, headers, what):
    site.extra = headers
    with pytest.raises(UserError, match=what):
        get()
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (404, "no such file"),
        (410, "no such file"),
        (401, "permission"),
        (403, "permission"),
        (400, "refuses"),
    ],
)
def test_answers_that_stay(site, get, tmp_path, code, what):
    site.answers = [(code, {})]
    with pytest.raises(UserError, match=what) as caught:
        get()
    assert f"({code})" in sentence(caught, site.url)
    assert len(site.seen) == 1
    assert leftovers(tmp_path) == []


# Redirects and addresses.


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(site, get, code):
    site.answers, site.cuts = [(code, {"Location": "/there.pth"})], [1_000_000]
    assert get().read_bytes() == DATA
    assert [p for p, _, _ in site.seen] == ["/file.pth", "/there.pth", "/file.pth"]
    site.answers = [(code, {"Location": "/there.pth"})]
    site.cuts = [1_000_000]
    site.seen.clear()
    site.answers.append((503, {}))
    assert get(f"{site.url}?b").read_bytes() == DATA


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/"]
)
def test_redirects_off_the_web_are_refused(site, get, tmp_path, target):
    site.answers = [(302, {"Location": target})]
    with pytest.raises(UserError, match="refused, the server sends on to"):
        get()
    assert leftovers(tmp_path) == []
    assert len(site.seen) == 1


def test_redirects_in_a_circle_end(site, get):
    site.answers = [(302, {"Location": "/file.pth"})] * 50
    with pytest.raises(UserError, match="again and again"):
        get()


def test_a_redirect_never_leaves_encryption():
    handler = web._StaysOnTheWeb()
    request = urllib.request.Request("https://example.org/a?token=x")
    with pytest.raises(
        UserError, match=r"https://example.org/a: refused, the server sends on to http://example.org/b;"
    ):
        handler.redirect_request(request, None, 302, "", {}, "http://example.org/b?token=x")
    assert handler.redirect_request(request, None, 302, "", {}, "https://example.org/b").full_url.endswith(
        "/b"
    )


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("ftp://host/x.pth", "ftp:// is not supported; give a path, https://... or hf://"),
        ("file:///etc/hostname", "file:// is not supported"),
        ("s3://bucket/x.pth", "s3:// is not supported"),
        ("https:///x.pth", "not an address that can be fetched"),
        ("http://[::1/x", "not an address that can be fetched"),
        (
            "https://user:secret@host/x.pth",
            "https://host/x.pth: is not an address .* without user and password",
        ),
        ("https://host:99999999/x", "not an address that can be fetched"),
    ],
)
def test_references_that_are_refused(tmp_path, reference, what):
    with pytest.raises(UserError, match=what) as caught:
        fetch(reference, cache=tmp_path, progress=False)
    assert "secret" not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]


@pytest.mark.parametrize("target", ["http://127.0.0.1:port/", "http://[::1/"])
def test_redirects_to_nonsense_are_refused(site, get, target):
    site.answers = [(302, {"Location": target})]
    with pytest.raises(UserError, match="not valid; check it"):
        get()


# Offline and full.


def failing(monkeypatch, error):
    def connect(*args, **kwargs):
        calls.append(args)
        raise error

    calls = []
    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return calls


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(-2, "Name or service not known"), OSError(errno.ENETUNREACH, "Network is unreachable")],
)
def test_offline_is_one_sentence_at_once(monkeypatch, tmp_path, error):
    calls = failing(monkeypatch, error)
    monkeypatch.setattr(download_module.time, "sleep", lambda s: pytest.fail("waits although offline"))
    with pytest.raises(UserError) as caught:
        fetch("https://example.org/mae.pth", cache=tmp_path)
    assert sentence(caught, "https://example.org/mae.pth: ") == (
        "https://example.org/mae.pth: not downloaded, example.org cannot be reached; run the command again when the "
        "connection works, or give the path of a file that is here"
    )
    assert len(calls) == 1


def test_a_refused_connection_is_tried_again(monkeypatch, tmp_path):
    calls = failing(monkeypatch, ConnectionRefusedError(111, "Connection refused"))
    monkeypatch.setattr(download_module, "WAITS_S", (0.0, 0.0))
    with pytest.raises(UserError, match=r"not downloaded, .*Connection refused"):
        fetch("http://example.org/mae.pth", cache=tmp_path)
    assert len(calls) == 3


def test_a_certificate_that_is_not_trusted_is_told(monkeypatch, tmp_path):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    calls = failing(monkeypatch, error)
    with pytest.raises(UserError, match=r"certificate is not trusted .self-signed certificate"):
        fetch("https://example.org/mae.pth", cache=tmp_path)
    assert len(calls) == 1


def test_no_room_is_told_before_anything_is_read(site, get, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=66_000_000))
    with pytest.raises(
        UserError, match=r"the download needs 70 MB, 66 MB are free; make room, or set CMAE_MM_CACHE"
    ):
        get()
    assert "file.pth.part" not in leftovers(tmp_path)
    site.framing = "chunked"  # a body without an announced end must not fill the disk either
    with pytest.raises(UserError, match="the download needs 67 MB, 66 MB are free"):
        get(f"{site.url}?b")


def test_a_disk_that_fills_up_meanwhile(site, get, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 1_500_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with monkeypatch.context() as once:
        opened = Path.open
        once.setattr(
            Path, "open", lambda p, *a, **k: Full(p, "a") if p.suffix == ".part" else opened(p, *a, **k)
        )
        with pytest.raises(UserError, match=r"cannot be written \(the disk is full\); make room"):
            get()
    kept = next((tmp_path / "cache").rglob("*.part")).stat().st_size
    assert 0 < kept <= 1_500_000
    assert get().read_bytes() == DATA
    assert ranges(site) == [None, f"bytes={kept}-"]


def test_a_cache_that_cannot_be_used(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the cache cannot be used \(.*\); set CMAE_MM_CACHE to another folder"
    ):
        fetch(site.url, cache=tmp_path / "file")


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


# The hub.


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The two requests that the hub's library makes for a file, for one repository with one file."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.server.seen.append(self.path)
        known = self.path in [f"/org/vit/resolve/{r}/sub/model.pth" for r in ("main", "v1", "refs%2Fpr%2F1")]
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{sha(DATA)}"')
            self.send_header("X-Repo-Commit", "c" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound" if "/vit/" in self.path else "RepoNotFound")
        data = DATA if known else b""
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's own library beside a server on this machine."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.seen = []
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("revision", ["", "@v1", "@refs%2Fpr%2F1"])
def test_a_file_of_the_hub(hub, tmp_path, revision):
    reference = f"hf://org/vit{revision}/sub/model.pth"
    path = fetch(reference, cache=tmp_path)
    assert path.name == "model.pth"
    assert path.read_bytes() == DATA
    assert path.is_relative_to(tmp_path / "hub")
    assert fetch(f"{reference}#sha256={sha(DATA)}", cache=tmp_path) == path
    with pytest.raises(UserError, match="asked for was"):
        fetch(reference, sha256="0" * 64, cache=tmp_path)


def test_an_altered_file_of_the_hub_is_downloaded_again(hub, tmp_path, caplog):
    path = fetch("hf://org/vit/sub/model.pth", cache=tmp_path)
    path.resolve().write_bytes(DATA[:-1])
    assert fetch("hf://org/vit/sub/model.pth", cache=tmp_path).read_bytes() == DATA
    assert "was altered or cut, downloading it again" in caplog.text


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("hf://org/vit/other.pth", "the repository has no file other.pth; check the name"),
        ("hf://org/none/model.pth", "there is no such repository, or it is private"),
        ("hf://org/vit", "is not a file of the hub; write hf://org/name/file"),
        ("hf://org/vit/../x", "is not a file of the hub"),
        ("hf://org/-/x.pth", "cannot be downloaded"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, reference, what):
    with pytest.raises(UserError, match=what) as caught:
        fetch(reference, cache=tmp_path)
    sentence(caught, reference)


def test_the_hub_offline(hub, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the library waits between its attempts
    closed = "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        closed + "/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(UserError) as caught:
        fetch("hf://org/vit/sub/model.pth", cache=tmp_path)
    assert "the hub cannot be reached and the file is not in the cache" in sentence(
        caught, "hf://org/vit/sub/model.pth"
    )


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"huggingface_hub is not installed; install it with `pip install 'cmae-mm\[hub\]'`"
    ):
        fetch_from_hub("hf://org/vit/model.pth", tmp_path)


def test_the_note_beside_a_file_holds_its_hash(site, get):
    path = get()
    assert json.loads(path.with_name("file.pth.json").read_text()) == {"url": site.url, "sha256": sha(DATA)}
