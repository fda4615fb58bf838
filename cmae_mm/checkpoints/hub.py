"""Files of the Hugging Face hub, through its own library."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import unquote

from cmae_mm.checkpoints.backbone_file import sha256_of
from cmae_mm.errors import UserError

_FORM = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)", re.IGNORECASE)
_log = logging.getLogger(__name__)


def fetch_from_hub(reference: str, cache: Path | None) -> Path:
    """Download a file with ``huggingface_hub``, or take it from its cache.

    Large files lie in that cache under their SHA-256, so an altered one is noticed and downloaded again.

    Args:
        reference: ``hf://org/name/file`` or ``hf://org/name@revision/file``; a slash inside a revision is
            written ``%2F``.
        cache: Folder of the hub's cache; None is the library's own, shared with other programs.

    Returns:
        The file.

    Raises:
        UserError: If the library is not installed or the file cannot be had.
    """
    form = _FORM.fullmatch(reference)
    if form is None or ".." in form[3].split("/"):
        raise UserError(
            f"{reference}: is not a file of the hub; write hf://org/name/file or hf://org/name@revision/file"
        )
    path = _download(reference, form, cache, again=False)
    if _is_altered(path):
        _log.warning("%s: the cached file %s was altered or cut, downloading it again", reference, path)
        path = _download(reference, form, cache, again=True)
        if _is_altered(path):
            raise UserError(
                f"{reference}: came damaged, its SHA-256 is not the one that the hub names; run it again"
            )
    return path


def _download(reference: str, form: re.Match[str], cache: Path | None, again: bool) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{reference}: huggingface_hub is not installed; install it with `pip install 'cmae-mm[hub]'`, or download "
            f"the file by hand and give its path"
        ) from None
    repository, revision, name = form[1], unquote(form[2]) if form[2] else None, form[3]
    place = None if cache is None else str(cache)
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repository, name, revision=revision, cache_dir=place, force_download=again
            )
        )
    except errors.GatedRepoError:
        why = (
            "the repository wants its terms accepted; accept them on its page and log in with `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        why = f"the repository has no revision {revision}; check it"
    except errors.RepositoryNotFoundError:
        why = "there is no such repository, or it is private; check the name, or log in with `hf auth login`"
    except errors.RemoteEntryNotFoundError:
        why = f"the repository has no file {name}; check the name"
    except errors.LocalEntryNotFoundError:
        why = "the hub cannot be reached and the file is not in the cache; try again later, or give the path of a file"
    except Exception as error:  # a dozen kinds, also those of the library's HTTP client
        first = (str(error) or type(error).__name__).splitlines()[0][:150]
        why = f"cannot be downloaded ({first}); try again later, or give the path of a file"
    raise UserError(f"{reference}: {why}")


def _is_altered(path: Path) -> bool:
    name = path.resolve().name
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None and sha256_of(path) != name
