"""A server on this machine whose behaviour a test can change between requests: the fixtures ``site`` and ``get``."""

import contextlib
import hashlib
import http.server
import random
import threading
from types import SimpleNamespace

import pytest

from cmae_mm.checkpoints import download as download_module
from cmae_mm.checkpoints.fetch import fetch

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
