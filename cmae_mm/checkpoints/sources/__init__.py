"""Families of checkpoints that can be imported, by the name that ``--source`` takes."""

from cmae_mm.checkpoints.sources import (
    beit,
    cae,
    cmae,
    convmae,
    data2vec,
    dino,
    dinov2,
    huggingface,
    ibot,
    mae,
    maskfeat,
    mmpretrain,
    mocov3,
    simmim,
    swin,
    timm,
)
from cmae_mm.checkpoints.sources.layout import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        cmae.FAMILY,
        mae.FAMILY,
        mocov3.FAMILY,
        dino.FAMILY,
        ibot.FAMILY,
        beit.BEIT,
        beit.BEIT2,
        data2vec.FAMILY,
        cae.FAMILY,
        simmim.FAMILY,
        maskfeat.FAMILY,
        dinov2.FAMILY,
        convmae.FAMILY,
        *mmpretrain.FAMILIES,
        timm.VIT,
        timm.BEIT,
        *swin.FAMILIES,
        *huggingface.FAMILIES,
    )
}

__all__ = ["FAMILIES"]
