"""What kinds of files a set of images has: found by their first bytes, their header, and by decoding them."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from PIL import Image

from cmae_mm.data.decode import ORIENTATION, BrokenImageError, decode_bgr
from cmae_mm.data.sources import Source

SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "PPM": {".ppm", ".pgm"},
    "TIFF": {".tif", ".tiff"},
}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"P5": "PPM",
    b"P6": "PPM",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_CHUNK = 64
_WITH_EXIF = ("JPEG", "MPO")


@dataclass
class Facts:
    """Counts over images.

    Attributes:
        images: How many were looked at.
        formats: By content.
        modes: Pillow's: ``RGB``, ``L`` (greyscale), ``CMYK``.
        misnamed: Files whose name says another format than their content.
        cmyk: Their names.
        turned: Files with an EXIF orientation other than upright.
        broken: Name and reason of each file that cannot be read.
    """

    images: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    misnamed: list[str] = field(default_factory=list)
    cmyk: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Facts) -> None:
        """Count another part of the set too."""
        self.images += other.images
        self.formats += other.formats
        self.modes += other.modes
        for mine, theirs in (
            (self.misnamed, other.misnamed),
            (self.cmyk, other.cmyk),
            (self.turned, other.turned),
        ):
            mine += theirs
        self.broken += other.broken


def format_of(data: bytes) -> str:
    """The format that the first bytes tell, ``unknown`` for others."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "unknown")


def look(source: Source, rows: Sequence[int]) -> Facts:
    """Read and decode images.

    Args:
        source: Where they are.
        rows: Which ones.

    Returns:
        What was found.
    """
    facts = Facts(images=len(rows))
    for row in rows:
        name = source.name(row)
        try:
            data = source.read(row)
            decode_bgr(data, upright=False)
        except (BrokenImageError, OSError) as error:
            facts.broken.append((name, str(error)))
            continue
        _look_at_header(facts, name, data)
    return facts


def _look_at_header(facts: Facts, name: str, data: bytes) -> None:
    kind = format_of(data)
    facts.formats[kind] += 1
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in set().union(*SUFFIXES.values()) and suffix not in SUFFIXES.get(kind, {suffix}):
        facts.misnamed.append(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF: the pixels are good
        with Image.open(io.BytesIO(data)) as image:
            facts.modes[image.mode] += 1
            if image.mode == "CMYK":
                facts.cmyk.append(name)
            try:
                turned = image.format in _WITH_EXIF and image.getexif().get(ORIENTATION, 1) not in (0, 1)
            except Exception:  # what cameras write is not always EXIF
                turned = False
            if turned:
                facts.turned.append(name)


def look_at_all(
    source: Source, rows: Sequence[int], workers: int, progress: Callable[[int, int], None]
) -> Facts:
    """Read and decode images in parallel processes.

    Args:
        source: Where they are.
        rows: Which ones, in ascending order.
        workers: Processes; 0 takes this one.
        progress: Called with images done and their number.

    Returns:
        What was found; names in the order of the rows.
    """
    parts = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    total = Facts()
    if workers == 0:
        for part in parts:
            total.add(look(source, part))
            progress(total.images, len(rows))
        return total
    with ProcessPoolExecutor(
        min(workers, max(len(parts), 1)), initializer=_begin, initargs=(source,)
    ) as pool:
        for facts in pool.map(_look_at_part, parts):
            total.add(facts)
            progress(total.images, len(rows))
    return total


_source: Source | None = None  # of a worker process: sent once, not with each part


def _begin(source: Source) -> None:
    global _source
    _source = source


def _look_at_part(rows: Sequence[int]) -> Facts:
    assert _source is not None
    return look(_source, rows)


def usual_workers() -> int:
    """Processes that a check starts unless told."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
