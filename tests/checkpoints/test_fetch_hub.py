"""Files of the hub, by its own library."""

import http.server
import sys
import threading
import time

import pytest
from file_server import DATA, sentence, sha

from cmae_mm.checkpoints.fetch import fetch
from cmae_mm.checkpoints.hub import fetch_from_hub
from cmae_mm.errors import UserError

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
