"""Download one file in parts that fit together: interrupted, resumed, never glued to another version."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.checkpoints.web import OutOfRange, Passing, Unreachable, open_url, shown
from cmae_mm.errors import UserError

WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # between attempts that bring nothing new
BLOCK = 1 << 20
RESERVE = 64 << 20  # bytes to leave free on the disk
_log = logging.getLogger(__name__)
Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Version:
    """What tells one version of a remote file from another.

    Attributes:
        etag: Strong entity tag; empty if the server gives none.
        modified: Date of the last change; empty if the server gives none.
        total: Bytes; None if the server does not say.
    """

    etag: str
    modified: str
    total: int | None

    @classmethod
    def of(cls, answer: http.client.HTTPResponse) -> Version:
        """Read the version from an answer to a whole or partial request."""
        etag = answer.headers.get("ETag", "")
        size = answer.headers.get("Content-Length", "")
        if answer.status == 206:
            size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return cls(
            "" if etag.startswith("W/") else etag,  # weak tags do not promise equal bytes
            answer.headers.get("Last-Modified", ""),
            int(size) if size.isdigit() else None,
        )

    def fits(self, piece: Version) -> bool:
        """Whether nothing in the answer with a piece says that it is of another version.

        The standard (RFC 9110, 15.3.7) lets such an answer leave out the date.
        """
        pairs = ((self.etag, piece.etag), (self.modified, piece.modified))
        return self.total == piece.total and all(a == b for a, b in pairs if a and b)

    @property
    def condition(self) -> str:
        """The value of ``If-Range``; empty if the server gives nothing to compare."""
        return self.etag or self.modified


class Part:
    """The beginning of a file on disk, and the version it belongs to.

    Args:
        path: Where the bytes are; the version lies beside it as JSON.

    Attributes:
        path: See above.
        resumed: Whether the last attempt went on from bytes that were there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.resumed = path, False
        self._note = path.with_name(path.name + ".json")

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> Version | None:
        """The version of the bytes on disk; None if there is nothing to go on with."""
        try:
            version = Version(**parse_json(self._note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return version if self.size and version.condition else None

    def begin(self, version: Version) -> None:
        """Forget the bytes on disk and note the version of those to come."""
        self.drop()
        self.resumed = False
        self._note.write_text(json.dumps(asdict(version)))

    def drop(self) -> None:
        """Remove the bytes and the note."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)


def download(url: str, path: Path, progress: Progress, sized: bool = True) -> Part:
    """Bring a file to ``<path>.part``, in as many attempts as it takes while they bring something new.

    Args:
        url: ``http`` or ``https``.
        path: Final place; it is not written.
        progress: Called with the bytes on disk and those of the whole file.
        sized: Whether a server that does not tell the size is refused, since a cut would not show.

    Returns:
        The part, which is the whole file now.

    Raises:
        UserError: If the file cannot be had, does not fit the disk, or the connection fails again and again.
    """
    part = Part(path.with_name(path.name + ".part"))
    first = best = part.size
    failures = 0
    while True:
        try:
            _attempt(url, part, progress, sized)
            return part
        except Passing as reason:
            failures = 0 if part.size > best else failures
            best = max(best, part.size)
            # Offline is told at once; a connection that is lost on the way may come back.
            if failures == len(WAITS_S) or (isinstance(reason, Unreachable) and best == first):
                kept = f"{part.size / 1e6:.1f} MB are kept; " if part.size else ""
                raise UserError(
                    f"{shown(url)}: not downloaded, {reason}; {kept}run the command again when the connection "
                    f"works, or give the path of a file that is here"
                ) from None
            time.sleep(WAITS_S[failures] if reason.wait is None else reason.wait)
            failures += 1
        except OSError as error:
            raise _disk_error(path, error) from None


def _attempt(url: str, part: Part, progress: Progress, sized: bool) -> None:
    """Read as much as comes; raises `Passing` unless the file is whole then."""
    known = part.version()
    part.resumed = known is not None
    if known and known.total == part.size:
        return
    headers = {"Range": f"bytes={part.size}-", "If-Range": known.condition} if known else {}
    try:
        answer = open_url(url, headers)
    except OutOfRange:
        part.drop()
        raise
    with contextlib.closing(answer):
        version = Version.of(answer)
        if answer.status == 206:
            _check_piece(answer, part, known)
        else:
            if known:
                _log.warning(
                    "%s: cannot be resumed or was changed, downloading it from the start", shown(url)
                )
            part.begin(version)
        if version.total is None and sized and not answer.chunked:
            raise UserError(
                f"{shown(url)}: the server does not tell the size, so a cut would not show; give a sha256"
            )
        _read(answer, part, version.total, progress)


def _check_piece(answer: http.client.HTTPResponse, part: Part, known: Version | None) -> None:
    """A piece is taken only if it is the rest of the very version that the part began with."""
    begin = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if known and known.fits(Version.of(answer)) and begin and int(begin[1]) == part.size:
        return
    part.drop()  # some servers ignore If-Range and send a piece of whatever is there now
    raise Passing("the server sends a piece of another file than before", wait=0)


def _read(answer: http.client.HTTPResponse, part: Part, total: int | None, progress: Progress) -> None:
    done = part.size
    _check_room(part, (total or done) - done)
    with part.path.open("ab") as out:
        while total is None or done < total:
            try:
                block = answer.read1(BLOCK if total is None else min(BLOCK, total - done))
            except (OSError, http.client.HTTPException) as error:
                raise Passing(f"the connection broke ({error})") from None
            if not block:
                break
            if total is None:
                _check_room(part, 0)
            out.write(block)
            done += len(block)
            progress(done, total)
        out.flush()
        os.fsync(out.fileno())
    if total is not None and done < total:
        raise Passing(f"the connection ended after {done} of {total} bytes")


def _check_room(part: Part, needed: int) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if free < needed + RESERVE:
        raise UserError(
            f"{part.path.parent}: the download needs {(needed + RESERVE) / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            f"make room, or set CMAE_MM_CACHE to another disk"
        )


def _disk_error(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return UserError(
        f"{path.parent}: the download cannot be written ({'the disk is full' if full else error.strerror or error}); "
        f"make room, or set CMAE_MM_CACHE to another folder"
    )
