"""Corruptions made on the fly: repeatable, of the named strength, as JPEG; some against formulas written again."""

import io

import numpy as np
import pytest
from PIL import Image

from cmae_mm.data.corruptions import CORRUPTIONS, EXTRA, check_corruptions, corrupt, corruption_key
from cmae_mm.errors import UserError


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(30, 226, (7, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((64, 72), Image.Resampling.BICUBIC))


def distance(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("name", [*CORRUPTIONS, *EXTRA])
def test_each_corruption_follows_from_its_key(name, image):
    before = np.random.get_state()[1].copy()
    weak, strong = (corrupt(image, name, level, key=5, jpeg=False) for level in (1, 5))
    assert np.array_equal(np.random.get_state()[1], before)  # other users of the generator see nothing
    assert weak.shape == strong.shape == image.shape
    assert weak.dtype == strong.dtype == np.uint8
    assert np.array_equal(weak, corrupt(image, name, 1, key=5, jpeg=False))
    # saturate goes down first and then up; the sheared field of elastic transforms is as wide at every severity
    assert distance(strong, image) > 0.8 * distance(weak, image) > 0.2
    drawn = {
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "glass_blur",
        "motion_blur",
        "snow",
        "frost",
        "fog",
    }
    if name in drawn | {"elastic_transform", "speckle_noise", "spatter"}:
        assert not np.array_equal(weak, corrupt(image, name, 1, key=6, jpeg=False))


def written_again(name, level, x, key):
    """Formulas of ImageNet-C's generator."""
    x = x / 255.0
    if name == "gaussian_noise":
        noise = np.random.RandomState(key).normal(
            size=x.shape, scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level - 1]
        )
        return np.clip(x + noise, 0, 1) * 255
    if name == "shot_noise":
        photons = (60, 25, 12, 5, 3)[level - 1]
        return np.clip(np.random.RandomState(key).poisson(x * photons) / photons, 0, 1) * 255
    if name == "contrast":
        mean = x.mean((0, 1))
        return np.clip((x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level - 1] + mean, 0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(np.uint8(x * 255 + 0.5)).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level - 1])
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("level", [1, 3, 5])
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "contrast", "jpeg_compression"])
def test_against_formulas_written_again(name, level, image):
    found = corrupt(image, name, level, key=11, jpeg=False)
    np.testing.assert_array_equal(found, written_again(name, level, image, 11).astype(np.uint8))


def test_the_last_step_is_a_jpeg_of_quality_85(image):
    plain = corrupt(image, "impulse_noise", 3, key=1, jpeg=False)
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "JPEG", quality=85, optimize=True)
    np.testing.assert_array_equal(corrupt(image, "impulse_noise", 3, key=1), np.asarray(Image.open(file)))


def test_keys_differ_in_everything():
    names = [("a/1.jpg", "fog", 1, 0), ("a/2.jpg", "fog", 1, 0), ("a/1.jpg", "snow", 1, 0)]
    names += [("a/1.jpg", "fog", 2, 0), ("a/1.jpg", "fog", 1, 1)]
    keys = [corruption_key(*n) for n in names]
    assert len(set(keys)) == 5
    assert keys == [corruption_key(*n) for n in names]
    assert all(0 <= k < 2**32 for k in keys)


def test_unknown_names_are_refused():
    check_corruptions(["contrast"], [1, 5])
    with pytest.raises(UserError, match="'rain' is no corruption"):
        check_corruptions(["rain"], [1])
    with pytest.raises(UserError, match="'6' is no corruption or severity"):
        check_corruptions(["fog"], [6])
