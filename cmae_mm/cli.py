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
    """Run a command and exit: a user's mistake ends with one sentence and code 2, a lost process with code 74.

    Args:
        command: Returns the exit code.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
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
    _add_bench(commands)
    _add_transfer(commands)
    _add_data(commands)
    _add_import(commands)
    _add_export(commands)
    _add_inspect(commands)
    _add_table(commands)
    _add_report(commands)
    commands.add_parser("doctor", help="check this installation and machine").set_defaults(run=_doctor)
    args = parser.parse_args(argv)
    return int(args.run(args))


def _add_bench(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser("bench", help="a whole table: pretrain, import, transfer, evaluate, report")
    bench.add_argument("recipe", help="recipe (.toml), or the name of one in configs/benchmark/")
    _add_bench_words(bench, "work_dirs/bench/RECIPE")
    bench.set_defaults(run=_bench)
    demo = commands.add_parser("demo", help="the same for configs/benchmark/mini.toml, on embedded data")
    demo.add_argument("--recipe", default="mini", help="another recipe (default: %(default)s)")
    _add_bench_words(demo, "work_dirs/demo")
    demo.set_defaults(run=_demo)


def _add_transfer(commands: argparse._SubParsersAction) -> None:
    transfer = commands.add_parser("transfer", help="one's own encoder on ImageNet, COCO and ADE20K")
    transfer.add_argument(
        "--backbone", required=True, help="backbone file, or any checkpoint: path, https://... or hf://..."
    )
    transfer.add_argument(
        "--tasks", default="linear,coco,ade20k", help="with commas: linear, finetune, coco, ade20k ..."
    )
    transfer.add_argument(
        "--preset", default="full", help="full: published protocols; short; mini (default: %(default)s)"
    )
    transfer.add_argument("--name", default="", help="name of the row (default: that of the file)")
    transfer.add_argument(
        "--arch", default="", help="architecture (default: what the file says, or ViT-B/16)"
    )
    _add_bench_words(transfer, "work_dirs/transfer/NAME")
    transfer.set_defaults(run=_transfer)


def _add_bench_words(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", help=f"where everything goes (default: {out})")
    parser.add_argument("--data-root", help="folder of the data sets (default: the recipe's)")
    parser.add_argument("--seeds", nargs="+", help="how many (3), or which (0,1,2); default: the recipe's")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        help="kinds of stages, or names of backbones or tasks (* matches)",
    )
    parser.add_argument("--launcher", choices=["local", "slurm"], default="local", help="where stages run")
    parser.add_argument("--sbatch", metavar="WORDS", help="further words for sbatch, such as '--partition=a'")
    parser.add_argument("--jobs", type=int, help="programs without a GPU at a time (default: up to 2)")
    parser.add_argument(
        "--retries", type=int, default=3, help="further attempts after a failure from outside (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print plan, commands and GPU hours only")


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="make and check data sets").add_subparsers(
        dest="kind", required=True
    )
    mini = data.add_parser("mini", help="render the embedded sets (ImageNet, COCO and ADE20K layout)")
    mini.add_argument("--out", required=True, help="folder to make")
    mini.add_argument("--seed", type=int, default=0)
    mini.add_argument(
        "--sheets", type=Path, metavar="DIR", help="also write contact sheets (PNG) to this folder"
    )
    mini.set_defaults(run=_data_mini)
    check = data.add_parser("check", help="check a data set").add_subparsers(dest="which", required=True)
    imagenet = check.add_parser("imagenet", help="folders, flat val, Kaggle, tars, shards or parquet")
    imagenet.add_argument("path", type=Path, help="folder that holds train and val, or a tar")
    imagenet.add_argument(
        "--full", action="store_true", help="decode every image (default: 2,000 of each split)"
    )
    imagenet.add_argument("--splits", nargs="+", choices=["train", "val"], default=["train", "val"])
    imagenet.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    imagenet.add_argument("--json", type=Path, metavar="FILE", help="also write every name to this file")
    imagenet.add_argument(
        "--write-list", action="store_true", help="flat val: write meta/val.txt, which training reads"
    )
    imagenet.set_defaults(run=_data_check_imagenet)


def _add_import(commands: argparse._SubParsersAction) -> None:
    words = commands.add_parser("import", help="turn any checkpoint into a backbone file")
    words.add_argument(
        "checkpoint", help="path, https://... or hf://org/name/file; of this suite or another project"
    )
    words.add_argument(
        "--out", help="backbone file to write (default: named after CHECKPOINT, in this folder)"
    )
    words.add_argument(
        "--source", default="auto", help="family, such as mae (default: %(default)s; see docs/checkpoints.md)"
    )
    words.add_argument("--channel-order", help="rgb or bgr: what the encoder was fed")
    words.add_argument("--normalization", help="imagenet or half: how its images were normalised")
    words.add_argument("--heads", type=int, help="attention heads, where nothing tells")
    words.add_argument("--branch", help="which encoder, where a file has several, such as student")
    words.add_argument("--sha256", help="SHA-256 that the checkpoint must have")
    words.add_argument("--force", action="store_true", help="overwrite what is there")
    words.set_defaults(run=_import)


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write an encoder for another library")
    export.add_argument("file", help="backbone file (or a checkpoint that `cmae-mm import` takes as it is)")
    export.add_argument("--to", help="timm, mmpretrain, mmseg, mmdet or hf (transformers)")
    export.add_argument("--out", help="file, for hf a folder (default: named after FILE, in this folder)")
    export.add_argument(
        "--model", default="MAE", help="for mmseg: MAE, BEiT or VisionTransformer (default: %(default)s)"
    )
    export.add_argument(
        "--fold-input",
        action="store_true",
        help="rewrite the stem so that RGB images with ImageNet statistics can be fed",
    )
    export.add_argument("--force", action="store_true", help="overwrite what is there")
    export.set_defaults(run=_export)


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    inspect = commands.add_parser(
        "inspect", help="tell what is in a file of weights, and what is odd about it"
    )
    inspect.add_argument("file", help="backbone file or any checkpoint: path, https://... or hf://...")
    inspect.add_argument("--json", action="store_true", help="print JSON with every tensor")
    inspect.set_defaults(run=_inspect)


def _add_records(parser: argparse.ArgumentParser) -> None:
    """What `table` and `report` read."""
    parser.add_argument(
        "target", type=Path, metavar="RECIPE|DIR", help="recipe, or the folder of a benchmark"
    )
    parser.add_argument(
        "--work-dir", type=Path, help="folder that the recipe was run in (default: work_dirs/bench/RECIPE)"
    )


def _add_table(commands: argparse._SubParsersAction) -> None:
    table = commands.add_parser("table", help="print a benchmark's table, beside published numbers")
    _add_records(table)
    table.add_argument(
        "--format", default="md", choices=("md", "csv", "latex", "json"), help="default: %(default)s"
    )
    table.add_argument("--measured-only", action="store_true", help="without rows that are only published")
    table.set_defaults(run=_table)


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="write a benchmark's report: one HTML page, and tables")
    _add_records(report)
    report.add_argument(
        "--out", type=Path, help="folder to write (default: report/ in the benchmark's folder)"
    )
    report.set_defaults(run=_report)


def _bench(args: argparse.Namespace) -> int:
    from cmae_mm.benchmark.command import bench_command

    return bench_command(args)


def _demo(args: argparse.Namespace) -> int:
    args.out = args.out or "work_dirs/demo"
    return _bench(args)


def _transfer(args: argparse.Namespace) -> int:
    from cmae_mm.benchmark.command import transfer_command

    return transfer_command(args)


def _data_mini(args: argparse.Namespace) -> int:
    from cmae_mm.data.command import make_with_progress

    return make_with_progress(Path(args.out), args.seed, args.sheets)


def _data_check_imagenet(args: argparse.Namespace) -> int:
    from cmae_mm.data.image_facts import usual_workers
    from cmae_mm.data.imagenet_check import check_command

    workers = usual_workers() if args.workers is None else args.workers
    return check_command(args.path, args.splits, args.full, workers, args.json, args.write_list)


def _import(args: argparse.Namespace) -> int:
    from cmae_mm.checkpoints.commands import import_command

    return import_command(args)


def _export(args: argparse.Namespace) -> int:
    from cmae_mm.checkpoints.commands import export_command

    return export_command(args)


def _inspect(args: argparse.Namespace) -> int:
    from cmae_mm.checkpoints.commands import inspect_command

    return inspect_command(args)


def _table(args: argparse.Namespace) -> int:
    from cmae_mm.report.command import table_command

    return table_command(args)


def _report(args: argparse.Namespace) -> int:
    from cmae_mm.report.command import report_command

    return report_command(args)


def _doctor(args: argparse.Namespace) -> int:
    from cmae_mm.engine.doctor import run_doctor

    return run_doctor()
