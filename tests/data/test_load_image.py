"""Reading images for ImageNet: as Pillow's convert("RGB") does, whatever the file is, and not turned."""

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split
import numpy as np
import pytest
from PIL import Image

from cmae_mm.data.load_image import LoadImage
from cmae_mm.data.masters import MasterImages
from cmae_mm.errors import UserError

ORIENTATION = 0x0112


def picture(side=(48, 32)):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return small.resize(side, Image.Resampling.BICUBIC)


def _turned(image):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return dict(format="JPEG", exif=exif.tobytes())


KINDS = {
    "jpeg": (lambda im: im, lambda im: dict(format="JPEG")),
    "grey": (lambda im: im.convert("L"), lambda im: dict(format="JPEG")),
    "cmyk": (lambda im: im.convert("CMYK"), lambda im: dict(format="JPEG")),
    "png named JPEG": (lambda im: im, lambda im: dict(format="PNG")),
    "grey with alpha": (lambda im: im.convert("LA"), lambda im: dict(format="PNG")),
    "turned": (lambda im: im, _turned),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind, tmp_path):
    convert, options = KINDS[kind]
    path = tmp_path / "n02105855_2933.JPEG"
    image = convert(picture())
    image.save(path, **options(image))
    with Image.open(path) as file:
        expected = np.asarray(file.convert("RGB"))[..., ::-1]  # no EXIF orientation
    found = LoadImage()(dict(img_path=str(path)))
    assert found["img"].dtype == np.uint8
    np.testing.assert_array_equal(found["img"], expected)
    assert found["img_shape"] == found["ori_shape"] == (32, 48)


def test_orientation_on_request_only(tmp_path):
    path = tmp_path / "x.jpg"
    picture().save(path, **_turned(None))
    assert LoadImage(upright=True)(dict(img_path=str(path)))["img"].shape == (48, 32, 3)
    folder = tmp_path / "data/train/n00000001"
    folder.mkdir(parents=True)
    path.rename(folder / "a.jpg")
    for upright, aspect in ((True, 32 / 48), (False, 48 / 32)):
        data = MasterImages(tmp_path / "data", size=16, crop="whole", upright=upright)
        assert data[0]["aspect"] == pytest.approx(aspect)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_broken_file_is_named(damage, tmp_path):
    path = tmp_path / "n01440764_10026.JPEG"
    if damage != "missing":
        picture().save(path, format="JPEG")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(UserError, match=r"n01440764_10026\.JPEG"):
        LoadImage()(dict(img_path=str(path)))
