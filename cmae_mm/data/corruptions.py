"""ImageNet-C's corruptions made on the fly, by the package ``imagecorruptions`` that mmdet depends on."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np
from PIL import Image

from cmae_mm.errors import UserError

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for group in GROUPS.values() for name in group)
"""The 15 of the test."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""ImageNet-C's validation corruptions: not part of mCE."""

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # px of a side, as the package has it
_OWN_GENERATOR = ("impulse_noise", "glass_blur")  # they do not draw from NumPy's global one


def corruption_key(image: str, corruption: str, severity: int, seed: int = 0) -> int:
    """The number that all random draws of one corrupted image start from.

    Args:
        image: Name of the image in its data set.
        corruption: Of `CORRUPTIONS` or `EXTRA`.
        severity: 1 to 5.
        seed: Of the whole set.

    Returns:
        32 bits.
    """
    text = f"{seed}/{corruption}/{severity}/{image}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def corrupt(image: np.ndarray, corruption: str, severity: int, key: int, jpeg: bool = True) -> np.ndarray:
    """Corrupt one image, as ImageNet-C was made: after resize and crop, then saved as JPEG of quality 85.

    Strengths are in pixels: on images below 224 px they are stronger. The package is a port to Python: motion blur and
    snow have a kernel of their own, elastic transforms no affine part, frost is scaled to the image (docs/imagenet.md).

    Args:
        image: (H, W, 3) uint8, RGB, at least 32 px a side.
        corruption: Of `CORRUPTIONS` or `EXTRA`.
        severity: 1 to 5.
        key: See `corruption_key`.
        jpeg: Also the round trip through JPEG. Without it noise is stronger: the chroma of a JPEG is coarse.

    Returns:
        The same shape, uint8, RGB.
    """
    package = _package()
    options = {"seed": key} if corruption in _OWN_GENERATOR else {}
    with _global_seed(key), contextlib.redirect_stdout(io.StringIO()):  # it prints what it catches
        out = package.corrupt(image, severity=severity, corruption_name=corruption, **options)
    return _through_jpeg(out) if jpeg else out


def check_corruptions(names: Sequence[str], severities: Sequence[int]) -> None:
    """Make sure that corruptions can be made here, by making one of each; also compiles what is compiled.

    Args:
        names: Of `CORRUPTIONS` or `EXTRA`.
        severities: Of `SEVERITIES`.

    Raises:
        UserError: A name or severity is unknown, or the package does not work here.
    """
    unknown = sorted(set(names) - {*CORRUPTIONS, *EXTRA}) + sorted(set(severities) - {*SEVERITIES})
    if unknown:
        raise UserError(
            f"'{unknown[0]}' is no corruption or severity; choose from {', '.join([*CORRUPTIONS, *EXTRA])} and 1 to 5"
        )
    ramp = np.linspace(0, 255, 40 * 40 * 3).astype(np.uint8).reshape(40, 40, 3)
    for name in names:
        try:
            corrupt(ramp, name, severities[0], key=0)
        except UserError:
            raise
        except Exception as error:  # versions of the package break in many ways
            raise UserError(
                f"the package imagecorruptions cannot make '{name}' here ({type(error).__name__}: {error}); install "
                f"the version of constraints.txt, or leave it out with --corruptions"
            ) from error


def _package() -> ModuleType:
    try:
        import imagecorruptions
    except ImportError as error:
        raise UserError(
            f"corruptions need the package imagecorruptions ({error}); install imagecorruptions-imaug as in "
            f"constraints.txt"
        ) from error
    return imagecorruptions  # type: ignore[no-any-return]


@contextlib.contextmanager
def _global_seed(key: int) -> Iterator[None]:
    """The package draws from NumPy's global generator, which others use too."""
    before = np.random.get_state()
    np.random.seed(key)
    try:
        yield
    finally:
        np.random.set_state(before)


def _through_jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85, optimize=True)
    return np.asarray(Image.open(file).convert("RGB"))
