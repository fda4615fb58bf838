"""``cmae-mm``: the command line, and the guard that turns mistakes into sentences."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cmae_mm import __version__
from cmae_mm.errors import UserError


def guard(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit: a user's mistake ends with one sentence and code 2.

    Args:
        command: Returns the exit code.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(
            "stopped: what was saved is kept; run the same command (tools/train.py: with --resume) to go on",
            file=sys.stderr,
        )
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Entry point of ``cmae-mm``."""
    guard(lambda: run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Parse and run one command.

    Args:
        argv: Words after ``cmae-mm``.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(
        prog="cmae-mm", description="Pretrain ViTs and measure how well they transfer."
    )
    parser.add_argument("--version", action="version", version=f"cmae-mm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_data(commands)
    _add_export(commands)
    commands.add_parser("doctor", help="check this installation and machine").set_defaults(run=_doctor)
    args = parser.parse_args(argv)
    return int(args.run(args))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser(
        "demo", help="the whole way on embedded data: pretrain, export, transfer, table"
    )
    demo.add_argument("--out", default="work_dirs/demo", help="where everything goes (default: %(default)s)")
    demo.add_argument(
        "--recipe", help="another benchmark recipe (.toml; default: configs/benchmark/mini.toml)"
    )
    demo.add_argument("--seeds", type=int, nargs="+", help="random seeds (default: those of the recipe)")
    demo.set_defaults(run=_demo)


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="make data sets").add_subparsers(dest="kind", required=True)
    mini = data.add_parser("mini", help="render the embedded sets (ImageNet, COCO and ADE20K layout)")
    mini.add_argument("--out", required=True, help="folder to make")
    mini.add_argument("--seed", type=int, default=0)
    mini.add_argument(
        "--sheets", type=Path, metavar="DIR", help="also write contact sheets (PNG) to this folder"
    )
    mini.set_defaults(run=_data_mini)


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="turn a pretraining checkpoint into a backbone file")
    export.add_argument("checkpoint", help="epoch_N.pth of a pretraining run")
    export.add_argument("--out", required=True, help="backbone file to write (.safetensors)")
    export.set_defaults(run=_export)


def _demo(args: argparse.Namespace) -> int:
    from cmae_mm.benchmark.demo import run_demo

    return run_demo(Path(args.out), args.recipe, args.seeds)


def _data_mini(args: argparse.Namespace) -> int:
    from cmae_mm.data.command import make_with_progress

    return make_with_progress(Path(args.out), args.seed, args.sheets)


def _export(args: argparse.Namespace) -> int:
    from cmae_mm.checkpoints.export import export_backbone, timm_difference

    header = export_backbone(args.checkpoint, args.out)
    print(
        f"{args.out}: {header.method} ViT, width {header.width}, {header.depth} blocks, {header.heads} heads, patch "
        f"{header.patch}, {header.image_size} px, {header.channel_order} input"
    )
    difference = timm_difference(args.checkpoint, args.out)
    print(
        f"timm's ViT on this file against mmpretrain's on the checkpoint: largest difference {difference:.2e}"
    )
    if difference > 1e-5:
        raise UserError(f"{args.out}: features differ by {difference:.2e} > 1e-5; do not use this file")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from cmae_mm.engine.doctor import run_doctor

    return run_doctor()
