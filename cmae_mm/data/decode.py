"""From the bytes of an image file to pixels: fast for JPEG, patient with everything else, deaf to damaged files."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112
"""EXIF tag: how the camera was held, 1 (upright) to 8."""

MAX_PIXELS = 2 * (1024**3 // 4 // 3)
"""Larger images are refused, as Pillow does: they are mistakes, or made to fill the memory."""

_JPEG = b"\xff\xd8\xff"
_APP1, _START_OF_SCAN = 0xE1, 0xDA
# What libjpeg says when a part of the picture is lost. Pillow and OpenCV fill the hole with grey and say nothing.
_DAMAGE = ("corrupt jpeg data", "premature end")


class BrokenImageError(Exception):
    """The bytes are no complete image. Internal: data sets skip the image and count it."""


def decode_bgr(data: bytes, upright: bool = True) -> np.ndarray:
    """Decode an image file to 8-bit colour.

    JPEG goes through libjpeg-turbo (simplejpeg), which gives the same pixels as Pillow. CMYK, other formats and
    unusual JPEG go through Pillow. Grey becomes colour, alpha is dropped, and 16 bits become 8.

    Args:
        data: The whole file.
        upright: Apply the EXIF orientation. The code behind published ImageNet numbers does not.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        BrokenImageError: The bytes are empty, cut short, damaged, or of no known format.
    """
    if not data:
        raise BrokenImageError("the file is empty")
    try:
        pixels = _decode_jpeg(data, upright) if data.startswith(_JPEG) else None
        return _decode_any(data, upright) if pixels is None else pixels
    except BrokenImageError:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImageError("it is of no known image format") from error
    except Exception as error:  # the decoders of Pillow raise what they like on damaged files
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _decode_jpeg(data: bytes, upright: bool) -> np.ndarray | None:
    """Pixels of an ordinary JPEG; None if Pillow has to look at it."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in ("Gray", "RGB", "YCbCr"):
            return None
        _check_size(width, height)
        pixels = simplejpeg.decode_jpeg(data, "BGR")
    except ValueError as error:
        if any(word in str(error).lower() for word in _DAMAGE):
            raise BrokenImageError(str(error)) from error
        return None
    exif = _exif(data) if upright else b""
    return _upright(pixels, _orientation(exif)) if exif else pixels


def _decode_any(data: bytes, upright: bool) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of palettes and EXIF
        with Image.open(io.BytesIO(data)) as file:
            _check_size(*file.size)
            image = ImageOps.exif_transpose(file) if upright else file
            if image.mode.startswith("I"):  # 16 bits in one channel; Pillow's own conversion would clip
                grey = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            if image.mode == "F":
                raise BrokenImageError("its pixels are floats, whose range is not known")
            # Palettes with transparency go through RGBA; the colour under transparent pixels is kept.
            rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
            return np.ascontiguousarray(np.asarray(rgb)[..., ::-1])


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"{width} x {height} pixels are too many")


def _exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG, or b"". Blocks before the picture: marker, length, content (JPEG, B.1.1.4)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == _START_OF_SCAN or length < 2:
            break
        if kind == _APP1 and data.startswith(b"Exif\0\0", at + 4):
            return data[at + 4 : at + 2 + length]
        at += 2 + length
    return b""


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    try:
        tags.load(exif)
        return int(tags.get(ORIENTATION, 1))
    except Exception:  # cameras write all sorts of things; the picture is good without
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation: 5 to 8 swap the axes, then some axes are reversed."""
    if not 2 <= orientation <= 8:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        orientation
    ]
    return np.ascontiguousarray(pixels[::down, ::across])
