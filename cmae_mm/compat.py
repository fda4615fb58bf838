"""What the installed torch, torchvision and mm* versions need. Imported before any of them.

Every entry states its reason and the condition under which it can go. Nothing is done where
nothing is needed.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

_KEEP: list[Any] = []  # torch.library definitions live as long as their Library object


def define_missing_torchvision_ops() -> None:
    """Declare the two torchvision operators whose binary cannot load.

    Reason: a CPU build of torch beside the registry's CUDA build of torchvision. The binary of
    torchvision then fails to load, and ``import torchvision`` dies with "operator
    torchvision::nms does not exist". mmdet uses mmcv's own NMS, so nobody calls these.
    Can go when CPU builds of both are installed together.
    """
    import torch

    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        # A loadable binary has defined it: nothing to add.
        with contextlib.suppress(RuntimeError):
            library.define(name + signature)
    _KEEP.append(library)


def import_quietly() -> None:
    """Import the dataset packages once, without the noise they print to standard output.

    Reason: the forks print "Could not import OneDL" to standard output on import, which would
    spoil the output of commands. Can go when they log it instead.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mmdet.datasets  # noqa: F401
        import mmpretrain.datasets  # noqa: F401
        import mmseg.datasets  # noqa: F401


def leave_out_what_users_cannot_change() -> None:
    """Silence a notice of torch 2.13 that every process of a run would print.

    Reason: mmengine hands ``broadcast_buffers`` to torch's wrapper for several processes, which has another name for
    it since. Can go when mmengine uses the new one.
    """
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)


define_missing_torchvision_ops()
leave_out_what_users_cannot_change()
