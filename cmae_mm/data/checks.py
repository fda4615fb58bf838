"""Checks of image folders before a run (COCO: ``coco_checks.py``, label maps: ``ade20k_checks.py``).

What is wrong is said in one sentence, before hours of computing. All files are looked at; only a sample is decoded in
full, so that a check takes seconds.
"""

from __future__ import annotations

from pathlib import Path

from cmae_mm.data.image_files import check_images, existing_folder, listing
from cmae_mm.errors import UserError


def check_image_folder(root: Path, split: str = "train") -> dict[str, int]:
    """Check an ImageNet-style folder `root/split/<class>/<image>`.

    Args:
        root: Data root.
        split: Sub-folder, such as train or val.

    Returns:
        Number of images of each class.

    Raises:
        UserError: A folder is missing or empty, or an image cannot be read.
    """
    folder = existing_folder(Path(root) / split, "image")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders; it must hold one folder of images for each class")
    images = {p.name: listing(p) for p in classes}
    for name, found in images.items():
        if not found:
            raise UserError(f"the class folder {folder / name} has no images; fill it or remove it")
    check_images([p for found in images.values() for p in found])
    return {name: len(found) for name, found in images.items()}
