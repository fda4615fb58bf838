"""A reference becomes a whole file or one sentence, however the download is cut."""

import json

import pytest
from file_server import DATA, OTHER, leftovers, ranges, sentence, sha

from cmae_mm.checkpoints import download as download_module
from cmae_mm.checkpoints import fetch as fetch_module
from cmae_mm.checkpoints import web
from cmae_mm.errors import UserError

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


def test_the_note_beside_a_file_holds_its_hash(site, get):
    path = get()
    assert json.loads(path.with_name("file.pth.json").read_text()) == {"url": site.url, "sha256": sha(DATA)}
