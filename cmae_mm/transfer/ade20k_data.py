"""A folder in ADE20K layout whose class list lies in it."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from cmae_mm.data.class_names import read_class_names


@DATASETS.register_module()
class SegmentationFolder(BaseSegDataset):
    """Images and label maps in ADE20K layout: 0 is void, 1 to K are the classes of ``classes.txt``.

    Args:
        data_root: Folder with the class list, see :func:`~cmae_mm.data.class_names.read_class_names`.
        reduce_zero_label: Whether 0 is void; only False if the labels are numbered from 0.
        **kwargs: See mmseg.
    """

    def __init__(self, data_root: str, reduce_zero_label: bool = True, **kwargs: Any) -> None:
        classes = read_class_names(data_root)
        super().__init__(
            data_root=data_root,
            reduce_zero_label=reduce_zero_label,
            **{**kwargs, "metainfo": {"classes": classes}},
        )
