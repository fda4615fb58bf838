"""Answers that are no file, redirects, no network, no room: one sentence, and nothing is lost."""

import errno
import io
import shutil
import socket
import ssl
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import DATA, leftovers, ranges, sentence, sha

from cmae_mm.checkpoints import download as download_module
from cmae_mm.checkpoints import web
from cmae_mm.checkpoints.fetch import fetch
from cmae_mm.errors import UserError


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
