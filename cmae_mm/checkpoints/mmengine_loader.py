"""Let the libraries' own loaders read files safely too.

`SuiteRunner` never uses them, but ``init_cfg=dict(type="Pretrained", ...)`` anywhere in a model does. The installed
mmengine first tries ``weights_only=True`` and, where that fails, unpickles the file with code execution allowed: the
very file that must not be read so. What it downloads it unpickles so at once. Its readers of ``.pkl`` and ``.yaml``
files execute what is in them as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError


def make_mmengine_load_safely() -> None:
    """Replace every way in which mmengine, and with it mmpretrain, mmdet and mmseg, reads a file of a user.

    Local checkpoints go through `load_checkpoint`. Addresses are refused with a sentence: a file is fetched first, and
    looked at. torch itself is told to refuse whatever else would unpickle, here and in child processes. Calling it
    again changes nothing. Can go when mmengine has no fall-back to unpickling.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch stops where both are set
    import mmengine.runner.checkpoint as library

    library._safe_torch_load = _load  # for callers that go past the schemes
    known = library.CheckpointLoader
    known.register_scheme([prefix for prefix in known._schemes if prefix], loader=load_from_web, force=True)
    known.register_scheme("", loader=load_from_file, force=True)
    _replace_file_handlers()


def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls for a local path.

    Args:
        filename: The path; ``~`` is the home folder.
        map_location: Unused: tensors come on the CPU, the caller copies them into its model.

    Returns:
        The checkpoint.

    Raises:
        UserError: See `load_checkpoint`.
    """
    if "://" in filename:
        return load_from_web(filename)
    return load_checkpoint(Path(filename).expanduser())


def load_from_web(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls for an address.

    Args:
        filename: ``https://...``, ``torchvision://...`` and the like.
        map_location: Unused.

    Raises:
        UserError: Always.
    """
    raise UserError(
        f"{filename}: weights are not fetched while a model is built; download the file and give its path"
    )


def _load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
    if not isinstance(file, (str, Path)):
        raise UserError(
            f"a checkpoint that mmengine has fetched into memory ({type(file).__name__}) is not read; download the "
            f"file and give its path"
        )
    return load_checkpoint(file)


def _replace_file_handlers() -> None:
    from mmengine.fileio import PickleHandler, YamlHandler, register_handler

    class NoPickle(PickleHandler):
        """Writes pickles, but reads none."""

        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            raise UserError(
                "a .pkl file of annotations is not read, it could execute code; give the same content as .json"
            )

    class PlainYaml(YamlHandler):
        """Reads plain values, no Python objects."""

        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            import yaml

            return yaml.safe_load(file)

    register_handler(["pkl", "pickle"])(NoPickle)
    register_handler(["yaml", "yml"])(PlainYaml)
