"""Empty shells for what known training programs leave in their checkpoints beside tensors.

The list is fixed and published here. Each name is bound to a class that swallows what the pickle would have passed to
the real one, so nothing is imported or called, and the programs need not be installed. Dictionaries and lists keep
their entries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

# Options, paths, numbers and arrays, loss histories.
_SHELLS = {
    "argparse.Namespace",
    "builtins.getattr",
    "builtins.int",
    "builtins.slice",
    "mmcv.utils.config.Config",
    "mmengine.config.config.Config",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "typing.Any",
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String")
    ),
}
_SHELL_PREFIX = "numpy.dtypes."  # one class for each kind of number
DICTS = {
    "addict.addict.Dict",
    "builtins.dict",
    "detectron2.config.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
}

StandIn = Callable[..., Any] | tuple[Callable[..., Any], str]  # as torch declares them


class _Inert:
    """Swallows what a pickle would have passed to the real class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _empty_dict(*factory: Any) -> OrderedDict[Any, Any]:
    """In place of ``defaultdict``, whose first argument is called for missing keys."""
    return OrderedDict()


def known_names(names: Iterable[str] | None = None) -> list[str]:
    """Names that have a stand-in.

    Args:
        names: Those to look at; None for the whole list.

    Returns:
        The known ones among them, sorted.
    """
    fixed = _SHELLS | DICTS | {"builtins.list", "collections.defaultdict"}
    if names is None:
        return sorted(fixed)
    return sorted(name for name in names if name in fixed or name.startswith(_SHELL_PREFIX))


def stand_ins(names: Iterable[str]) -> list[StandIn]:
    """What to bind names to.

    Args:
        names: Known names, see :func:`known_names`.

    Returns:
        For ``torch.serialization.safe_globals``: pairs of a stand-in and the name it stands for.
    """
    return [(_stand_in(name), name) for name in names]


def _stand_in(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":
        return _empty_dict
    if name == "builtins.list":
        return list
    return OrderedDict if name in DICTS else type("Inert", (_Inert,), {})
