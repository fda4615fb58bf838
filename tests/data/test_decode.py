"""Pixels of all kinds of image files, against Pillow and OpenCV; damaged files are refused."""

import io
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from cmae_mm.data import decode
from cmae_mm.data.decode import BrokenImageError, decode_bgr
from cmae_mm.data.mini import picture_rng
from cmae_mm.data.scene import coco_scene


def scene(width=96, height=64):
    """A rendered scene, RGB."""
    image, _ = coco_scene(picture_rng(0, "coco_train", 0))
    return Image.fromarray(np.ascontiguousarray(image)).resize((width, height))


def file_of(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pillow_bgr(data):
    """What a training pipeline on Pillow sees: upright, converted to RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(image)[..., ::-1]


JPEGS = {
    "plain": {"quality": 90},
    "progressive": {"quality": 80, "progressive": True},
    "no subsampling": {"quality": 95, "subsampling": 0},
    "4:2:2": {"quality": 95, "subsampling": 1},
    "coarse": {"quality": 10},
    "restart markers": {"quality": 90, "restart_marker_blocks": 2},
    "profile": {"quality": 90, "icc_profile": b"\xff\xda" * 700},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(96, 64), (33, 7), (1, 1)])
def test_jpeg_has_the_pixels_of_pillow(options, size):
    data = file_of(scene(*size), **options)
    pixels = decode_bgr(data)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, pillow_bgr(data))


def test_colour_order_is_blue_first():
    pixels = decode_bgr(file_of(Image.new("RGB", (16, 16), (250, 10, 60)), quality=100))
    assert np.abs(pixels.reshape(-1, 3).mean(0) - (60, 10, 250)).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_as_by_pillow_and_opencv(orientation, kind):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    exif[0x010F] = "maker"
    data = file_of(scene(), kind, exif=exif)
    pixels = decode_bgr(data)
    assert pixels.shape == ((64, 96, 3) if orientation < 5 else (96, 64, 3))
    assert np.array_equal(pixels, pillow_bgr(data))
    if kind == "JPEG":
        assert np.array_equal(pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_nonsense_in_exif_does_no_harm():
    data = file_of(scene(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff nonsense")
    assert np.array_equal(decode_bgr(data), decode_bgr(file_of(scene())))


OTHERS = {
    "grey JPEG": lambda i: file_of(i.convert("L"), quality=90),
    "CMYK JPEG": lambda i: file_of(i.convert("CMYK"), quality=90),
    "PNG": lambda i: file_of(i, "PNG"),
    "grey PNG": lambda i: file_of(i.convert("L"), "PNG"),
    "two colours": lambda i: file_of(i.convert("1"), "PNG"),
    "palette": lambda i: file_of(i.convert("P"), "PNG"),
    "palette, transparent": lambda i: file_of(i.convert("P"), "PNG", transparency=b"\x10" * 256),
    "alpha": lambda i: file_of(Image.merge("RGBA", (*i.split(), i.convert("L"))), "PNG"),
    "grey and alpha": lambda i: file_of(i.convert("LA"), "PNG"),
    "WebP": lambda i: file_of(i, "WEBP", lossless=True),
    "BMP": lambda i: file_of(i, "BMP"),
    "GIF": lambda i: file_of(i.convert("P"), "GIF"),
    "TIFF": lambda i: file_of(i, "TIFF"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_whatever_their_name(kind):
    data = OTHERS[kind](scene())
    assert np.array_equal(decode_bgr(data), pillow_bgr(data))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_become_8(suffix, channels):
    deep = np.linspace(0, 65535, 64 * 48 * channels).reshape(64, 48, channels).astype(np.uint16)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    if suffix == ".tiff" and channels == 3:
        data = cv2.imencode(suffix, deep, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
    expected = np.broadcast_to(deep / 257, (64, 48, 3))
    assert np.abs(decode_bgr(data) - expected).max() <= 1


def half(data):
    return data[: len(data) // 2]


def zero_tail(data):
    return half(data) + bytes(len(data) - len(data) // 2)


def hole(data):
    return half(data) + b"\xff\xd9"


def flipped_byte(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [half, zero_tail, hole, lambda d: d[:-3], lambda d: d[:100]])
@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpeg_is_refused(damage, progressive):
    data = file_of(scene(256, 192), quality=90, progressive=progressive)
    with pytest.raises(BrokenImageError):
        decode_bgr(damage(data))


def test_a_spoiled_byte_is_noticed_where_pillow_and_opencv_are_silent():
    data = flipped_byte(file_of(scene(256, 192), quality=90))
    assert pillow_bgr(data).shape == (192, 256, 3)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(BrokenImageError, match=r"extraneous bytes|premature end|Corrupt"):
        decode_bgr(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_other_formats_cut_short_are_refused(kind):
    with pytest.raises(BrokenImageError):
        decode_bgr(half(file_of(scene(), kind)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no known image format"),
        (b"\xff\xd8\xff\xe0", "no known image format"),
        (bytes(3000), "no known image format"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 50, "no known image format"),
    ],
)
def test_what_is_no_image_is_refused(data, says):
    with pytest.raises(BrokenImageError, match=says):
        decode_bgr(data)


def test_floats_are_refused():
    data = file_of(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")
    with pytest.raises(BrokenImageError, match="floats"):
        decode_bgr(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_huge_images_are_refused_before_they_are_decoded(kind, monkeypatch):
    data = file_of(scene(), kind)
    monkeypatch.setattr(decode, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(BrokenImageError, match="96 x 64 pixels are too many"):
        decode_bgr(data)


def test_bytes_after_the_end_do_no_harm():
    data = file_of(scene())
    assert np.array_equal(decode_bgr(data + b"camera maker's notes"), decode_bgr(data))
