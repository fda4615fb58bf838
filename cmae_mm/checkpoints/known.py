"""Published files whose layout alone does not tell their family, by the start of their SHA-256.

OpenMMLab's file names end with the first eight digits of it; these are from mmpretrain's model index. A file that is
found here must still fit its family in every key and shape.
"""

from __future__ import annotations

_PREFIX = 8
_FAMILIES = {
    "c0a4df23": "mmpretrain-beit",  # beit-base_3rdparty_in1k
    "ab79e626": "mmpretrain-beit",  # beit_vit-base-p16, 300 epochs
    "73e11905": "mmpretrain-beit2",  # beitv2-base_3rdparty_in1k
    "a157be30": "mmpretrain-beit2",  # beitv2_vit-base-p16, 300 epochs
    "808170f3": "mmpretrain-cae",  # cae_vit-base-p16, 300 epochs
    "c2cf66ba": "mmpretrain-mae",  # mae_vit-base-p16, 300 epochs
    "bc79e40b": "mmpretrain-mae",  # 400 epochs
    "5d81fbc4": "mmpretrain-mae",  # 800 epochs
    "f7569ca2": "mmpretrain-mae",  # 1600 epochs
    "b11d0425": "mmpretrain-mae",  # mae_vit-large-p16, 400 epochs
    "df72726a": "mmpretrain-mae",  # 800 epochs
    "cc7e98c9": "mmpretrain-mae",  # 1600 epochs
    "ff848775": "mmpretrain-mae",  # mae_vit-huge-p16, 1600 epochs
    "08bc52f7": "mmpretrain-mocov3",  # mocov3_vit-small-p16, 300 epochs
    "25213343": "mmpretrain-mocov3",  # mocov3_vit-base-p16, 300 epochs
    "9b88a442": "mmpretrain-mocov3",  # mocov3_vit-large-p16, 300 epochs
}


def known_family(sha256: str) -> str:
    """Returns: The family of a published file; empty if its SHA-256 (hexadecimal) is not known."""
    return _FAMILIES.get(sha256[:_PREFIX], "")
