"""From whatever a user names - a path, an address, a file of the hub, imported or not - to a file that can be read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

from cmae_mm.checkpoints.backbone_file import HEADER_KEY, load_backbone, sha256_of
from cmae_mm.checkpoints.fetch import fetch
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.import_report import ImportReport
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.safetensors_file import open_safetensors
from cmae_mm.errors import UserError

SUFFIX = ".backbone.safetensors"
_SIDECARS = ("config.json", "preprocessor_config.json")
# Names that say nothing: the folder or repository says more.
_GENERIC = re.compile(r"(pytorch_)?model|weights|last|latest|best.*|checkpoint[-_\d]*|(epoch|iter)_\d+")


def acquire(reference: str, sha256: str | None = None) -> Path:
    """Fetch a checkpoint, and for a file of the hub the JSON files beside it, which say what tensors do not.

    Args:
        reference: See `fetch`.
        sha256: What the file must have.

    Returns:
        The file.

    Raises:
        UserError: If it cannot be had.
    """
    path = fetch(reference, sha256)
    bare = reference.partition("#sha256=")[0]
    if bare.lower().startswith("hf://"):
        for name in _SIDECARS:
            with contextlib.suppress(UserError):  # most repositories lack one of them
                fetch(f"{bare.rpartition('/')[0]}/{name}")
    return path


def header_text(path: str | Path) -> str | None:
    """Returns: The JSON of a backbone file's header, unchecked; None if the file is none or not there."""
    try:
        with open_safetensors(path, "") as handle:
            return (handle.metadata() or {}).get(HEADER_KEY)
    except UserError:
        return None


def is_made_of(path: str | Path, checkpoint: str | Path) -> bool:
    """Whether a file is a backbone file that says it was made of a checkpoint as it is now."""
    text = header_text(path)
    try:
        made_of = BackboneHeader.from_json(text, str(path)).source_sha256 if text else ""
    except UserError:
        return False
    return bool(made_of) and made_of == sha256_of(checkpoint)


def default_name(reference: str) -> str:
    """A name for what is made of a checkpoint, without folder and suffix.

    Args:
        reference: As the user gave it.

    Returns:
        The stem of its file; with that of the folder or repository in front where it is one like ``model``.
    """
    parts = [p for p in re.split(r"[/\\]+", reference.partition("#sha256=")[0].partition("?")[0]) if p]
    stem = re.sub(r"(\.backbone)?\.(safetensors|pth|pt|tar|bin|ckpt|pth\.tar)$", "", parts[-1])
    if _GENERIC.fullmatch(stem) and len(parts) > 1 and parts[-2] not in (".", ".."):
        stem = f"{parts[-2].partition('@')[0]}-{stem}"
    return re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII) or "backbone"


def encoder_from(reference: str) -> tuple[dict[str, torch.Tensor], BackboneHeader, ImportReport | None]:
    """Read a backbone file, or import a checkpoint where nothing has to be asked.

    Args:
        reference: See `backbone_from`.

    Returns:
        Tensors under the names of a backbone file, the header, and the report if it was imported.

    Raises:
        UserError: See `backbone_from`.
    """
    path = acquire(reference)
    if header_text(path) is not None:
        return *load_backbone(path), None
    with _naming_the_command(reference):
        done = import_checkpoint(path)
    return done.state, done.header, done.report


def backbone_from(reference: str, folder: str | Path) -> tuple[Path, ImportReport | None]:
    """Find the backbone file that is meant, importing a checkpoint where nothing has to be asked.

    Processes that do so at the same time wait for one another, and the first one's work serves all.

    Args:
        reference: A backbone file, or a checkpoint of this suite or of a known family; see `fetch`.
        folder: Where an imported one is written.

    Returns:
        The backbone file, and the report if it was imported just now.

    Raises:
        UserError: If there is no such file, or something has to be said about it; the sentence names the command.
    """
    path = acquire(reference)
    if header_text(path) is not None:
        return path, None
    target = Path(folder) / f"{default_name(reference)}{SUFFIX}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), _naming_the_command(reference):
            if is_made_of(target, path):
                return target, None
            return target, import_checkpoint(path, target).report
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); choose another place"
        ) from None


@contextlib.contextmanager
def _naming_the_command(reference: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error} (this is no backbone file; `cmae-mm import {reference}` makes one, and takes what has to be said)"
        ) from None
