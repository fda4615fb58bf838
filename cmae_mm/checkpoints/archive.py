"""The archive around a checkpoint: its directory must be the one that ``torch.save`` writes.

``torch.save`` compresses nothing, puts the directory at the very end, and lists each entry once. Anything else is there
to unpack to more than the file is, or to show different readers different files.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import IO

from cmae_mm.errors import UserError

MAX_PICKLE = 1 << 28  # bytes; histories of very long mmengine runs take some 100 MB
MAX_ENTRIES = 100_000  # one for each tensor that is stored
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")


def read_pickle(handle: IO[bytes], path: object) -> bytes:
    """Check the directory of an archive, and read the one part of it that is no tensor.

    Args:
        handle: The open file, which has a name.
        path: Named in the error message.

    Returns:
        The pickle, ``data.pkl``.

    Raises:
        UserError: If the archive would unpack to more than it is, or is not as ``torch.save`` writes it.
        zipfile.BadZipFile, struct.error, OSError: If it is damaged.
    """
    count = _count_entries(handle, path)
    handle.seek(0)
    with zipfile.ZipFile(handle) as archive:
        entries = archive.infolist()
        _check_entries(entries, handle, path)
        names = [entry.filename for entry in entries]
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        folder = names[0].partition("/")[0] + "/"
        if (
            len(entries) != count
            or len(set(names)) < count
            or len(pickles) != 1
            or not all(name.startswith(folder) for name in names)
        ):
            raise UserError(
                f"{path}: refused, it is an archive but not one that torch.save wrote; save the weights again"
            )
        return archive.read(pickles[0])


def _count_entries(handle: IO[bytes], path: object) -> int:
    """Entries that the directory says it has; the directory must end where the file does."""
    size = handle.seek(0, os.SEEK_END)
    end = size - _END.size
    handle.seek(max(end, 0))
    mark, *_, count, length, start, comment = _END.unpack(handle.read(_END.size))
    if mark != b"PK\5\6" or comment:
        raise zipfile.BadZipFile("it does not end as an archive does")
    handle.seek(max(end - _LOCATOR.size, 0))
    mark, _, found, _ = _LOCATOR.unpack(handle.read(_LOCATOR.size))
    if mark == b"PK\6\7":
        end -= _LOCATOR.size + _END64.size
        handle.seek(max(end, 0))
        *_, count, length, start = _END64.unpack(handle.read(_END64.size))
    if start + length != end or (mark == b"PK\6\7" and found != end):
        raise UserError(
            f"{path}: refused, its directory of entries is not at its end; it may be damaged or cut short"
        )
    if count > MAX_ENTRIES:
        raise UserError(
            f"{path}: refused, it has {count} entries, a checkpoint at most {MAX_ENTRIES}; save the weights alone"
        )
    return int(count)


def _check_entries(entries: list[zipfile.ZipInfo], handle: IO[bytes], path: object) -> None:
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UserError(
                f"{path}: refused, its entry {ascii(entry.filename)[:80]} is compressed, which no checkpoint is; "
                f"if you trust it, unpack the archive and pack it again uncompressed"
            )
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
            raise UserError(
                f"{path}: refused, it holds {entry.file_size >> 20} MiB beside its tensors; save the weights alone"
            )
    if sum(entry.file_size for entry in entries) > handle.seek(0, os.SEEK_END):
        raise UserError(
            f"{path}: refused, its entries overlap: it would unpack to more than it is; it may be damaged"
        )
