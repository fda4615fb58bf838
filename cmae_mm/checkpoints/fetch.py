"""Turn a reference to a checkpoint - a path, a web address, a file of the hub - into a whole file on this disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from cmae_mm.checkpoints.backbone_file import sha256_of
from cmae_mm.checkpoints.download import Part, download
from cmae_mm.checkpoints.hub import fetch_from_hub
from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.checkpoints.progress_line import ProgressLine
from cmae_mm.checkpoints.web import shown
from cmae_mm.errors import UserError

CACHE_VARIABLE = "CMAE_MM_CACHE"
_log = logging.getLogger(__name__)


def fetch(
    reference: str | Path,
    sha256: str | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Return a local file for a reference, downloading it if need be.

    A downloaded file is kept, and later calls take it without asking the server, after comparing it with the
    SHA-256 that was noted when it came. An interrupted download goes on where it stopped. Processes that want
    the same file wait for one another.

    Args:
        reference: A path, ``https://...``, ``http://...``, ``hf://org/name/file`` or
            ``hf://org/name@revision/file``. It may end in ``#sha256=...``.
        sha256: What the file must have, in hexadecimal; a file that differs is never returned.
        cache: Folder for downloads; None is the environment variable ``CMAE_MM_CACHE``, else the user's cache.
        progress: Whether a line on standard error tells how far a download over HTTP is.

    Returns:
        The file: a local path as it was given, else its place in the cache.

    Raises:
        UserError: If the file does not exist, cannot be downloaded, or is not the one asked for.
    """
    text, wanted = _split_hash(str(reference), sha256)
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", text, re.IGNORECASE)
    if scheme is None:
        return _checked(_local(text), wanted, text)
    if scheme[1].lower() == "hf":
        chosen = cache or os.environ.get(CACHE_VARIABLE)
        return _checked(fetch_from_hub(text, Path(chosen) / "hub" if chosen else None), wanted, text)
    if scheme[1].lower() in ("http", "https"):
        return _from_web(_clean(text), wanted, cache_folder(cache), progress)
    raise UserError(
        f"{shown(text)}: {scheme[1]}:// is not supported; give a path, https://... or hf://org/name/file"
    )


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where downloads are kept.

    Args:
        cache: A choice that goes before all others.

    Returns:
        ``cache``, else the environment variable ``CMAE_MM_CACHE``, else ``cmae_mm`` in the user's cache folder.
    """
    if chosen := cache or os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmae_mm"


def _split_hash(text: str, sha256: str | None) -> tuple[str, str | None]:
    bare, mark, named = text.partition("#sha256=")
    where = shown(bare) if re.match(r"https?://", bare, re.IGNORECASE) else bare
    hashes = {h.lower() for h in (named if mark else None, sha256) if h is not None}
    if bad := [h for h in hashes if not re.fullmatch(r"[0-9a-f]{64}", h)]:
        raise UserError(f"{where}: '{bad[0]}' is not a SHA-256; it has 64 hexadecimal digits")
    if len(hashes) > 1:
        raise UserError(f"{where}: two different SHA-256 are given; leave one out")
    return bare, next(iter(hashes), None)


def _local(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise UserError(f"{text}: {'is a folder' if path.is_dir() else 'no such file'}; check the path")
    return path


def _checked(path: Path, wanted: str | None, where: str) -> Path:
    if wanted and (found := sha256_of(path)) != wanted:
        raise UserError(
            f"{where}: has the SHA-256 {found}, asked for was {wanted}; it is damaged or another file"
        )
    return path


def _clean(url: str) -> str:
    """The address as it is sent: without a fragment, with everything quoted that must be."""
    if not re.match(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?(/|$)", url, re.IGNORECASE):
        raise UserError(
            f"{shown(url)}: is not an address that can be fetched; write https://host/path, without user and password"
        )
    return quote(url.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")


def _from_web(url: str, wanted: str | None, cache: Path, progress: bool) -> Path:
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    name = re.sub(r"[^\w.-]", "_", last, flags=re.ASCII)[-100:].lstrip(".") or "download"
    path = cache / "web" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not _is_whole(path, wanted):
                _bring(url, path, wanted, progress)
    except OSError as error:
        raise UserError(
            f"{cache}: the cache cannot be used ({error.strerror or error}); set {CACHE_VARIABLE} to another folder"
        ) from None
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("%s: another process downloads it, waiting", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_whole(path: Path, wanted: str | None) -> bool:
    """Whether the cached file is the one that came, and the one asked for; the reader is told if not."""
    if not path.is_file():
        return False
    try:
        noted = parse_json(_note(path).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        noted = None
    found = sha256_of(path)
    if found == (wanted or noted):
        return True
    why = "is not the one asked for" if found == noted else "was altered or cut"
    _log.warning("%s: the cached file %s, downloading it again", path, why)
    return False


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _bring(url: str, path: Path, wanted: str | None, progress: bool) -> None:
    part, found = _download(url, path, wanted, progress)
    if wanted and found != wanted and part.resumed:
        _log.warning("%s: the resumed download is damaged, downloading it from the start", shown(url))
        part.drop()
        part, found = _download(url, path, wanted, progress)
    if wanted and found != wanted:
        part.drop()
        raise UserError(
            f"{shown(url)}: the file has the SHA-256 {found}, asked for was {wanted}; nothing was kept, check both"
        )
    _note(path).write_text(json.dumps({"url": shown(url), "sha256": found}))
    os.replace(part.path, path)
    part.drop()


def _download(url: str, path: Path, wanted: str | None, progress: bool) -> tuple[Part, str]:
    line = ProgressLine(path.name) if progress else None
    try:
        part = download(url, path, line or (lambda done, total: None), sized=wanted is None)
    finally:
        if line:
            line.close()
    return part, sha256_of(part.path)
