"""``cmae-mm import``, ``export`` and ``inspect``: words in, sentences out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cmae_mm.checkpoints.acquire import SUFFIX, acquire, default_name, encoder_from, is_made_of
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.import_report import architecture_words, input_words
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.inspecting import inspect_file, inspect_json
from cmae_mm.checkpoints.targets.writing import SUFFIXES, convert, how_to_load, write
from cmae_mm.checkpoints.training_checkpoint import timm_difference
from cmae_mm.errors import UserError

TOLERANCE = 1e-5  # largest difference of features that rounding explains
_MODELS = ("MAE", "BEiT", "VisionTransformer")


def import_command(args: argparse.Namespace) -> int:
    """Make a backbone file of a checkpoint and print what was done.

    A file that is there is overwritten only if it was made of the same checkpoint, or with ``--force``.

    Args:
        args: See `cli`.

    Returns:
        Exit code 0.

    Raises:
        UserError: For a user's mistake.
    """
    path = acquire(args.checkpoint, args.sha256)
    out = Path(args.out or f"{default_name(args.checkpoint)}{SUFFIX}")
    _keep_what_is_there(out, path, args.force, allowed=is_made_of(out, path))
    done = import_checkpoint(
        path, out, args.source, args.channel_order, args.normalization, args.heads, args.branch
    )
    print(done.report)
    print(f"written: {out} ({_megabytes(out)}); {_next_step(done.header, out)}")
    if not done.header.family and done.header.kind == "vit":
        difference = timm_difference(path, out)
        print(
            f"timm's ViT on this file against mmpretrain's on the checkpoint: largest difference {difference:.2e}"
        )
        if difference > TOLERANCE:
            raise UserError(f"{out}: features differ by {difference:.2e} > {TOLERANCE}; do not use this file")
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Write an encoder for another library and print how it is loaded there.

    Args:
        args: See `cli`.

    Returns:
        Exit code 0.

    Raises:
        UserError: For a user's mistake.
    """
    if args.to not in SUFFIXES:
        raise UserError(
            f"{'--to ' + ascii(args.to) + ' is not known' if args.to else 'for which library is not said'}; give --to "
            f"{', '.join(SUFFIXES)} (a backbone file is made of a checkpoint with `cmae-mm import`)"
        )
    if args.model not in _MODELS:
        raise UserError(
            f"--model {args.model!r} is no backbone of mmseg for plain ViTs; give {', '.join(_MODELS)}"
        )
    out = Path(args.out or f"{default_name(args.file)}{SUFFIXES[args.to]}")
    _keep_what_is_there(out, Path(args.file), args.force)
    state, header, report = encoder_from(args.file)
    if report:
        print(report)
    if args.fold_input:
        state = fold_input(state, header)
    exported = convert(state, header, args.to, args.model)
    write(exported, header, args.to, out)
    print(f"written: {out}, {len(exported)} tensors: {architecture_words(header)}")
    print("\n".join(how_to_load(header, args.to, out, args.model)))
    print(f"feed it with {_input(header, args.fold_input)}")
    return 0


def inspect_command(args: argparse.Namespace) -> int:
    """Print what is in a file of weights.

    Args:
        args: See `cli`.

    Returns:
        Exit code 0.

    Raises:
        UserError: For a user's mistake.
    """
    path = acquire(args.file)
    print(json.dumps(inspect_json(path), indent=1, allow_nan=False) if args.json else inspect_file(path))
    return 0


def _next_step(header: BackboneHeader, out: Path) -> str:
    if header.kind == "vit":
        return f"`tools/train.py CONFIG --backbone {out}` starts from it"
    if header.kind == "swin":
        return f"`cmae-mm export {out} --to mmdet` (or mmseg, mmpretrain, timm) writes it for their SwinTransformer"
    return "docs/hybrid.md says how CMAEHybridViT reads it"


def _input(header: BackboneHeader, folded: bool) -> str:
    return input_words(BackboneHeader("", 1, 1, 1, 1, 1, 1) if folded else header)


def _keep_what_is_there(out: Path, source: Path, force: bool, allowed: bool = False) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out}: is the file that is read; give another --out")
    if out.exists() and not (force or allowed):
        raise UserError(f"{out}: is there already; give another --out, or --force to overwrite it")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
