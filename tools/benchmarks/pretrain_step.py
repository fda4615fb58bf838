"""How fast is a training step of CMAE, and how much memory does it need?

    python tools/benchmarks/pretrain_step.py --device cpu                        # a few minutes on two cores
    python tools/benchmarks/pretrain_step.py --device cuda --precision bf16      # batch 128 on one GPU
    python tools/benchmarks/pretrain_step.py --official ../CMAE                  # also the official code

A step is everything that one iteration does after the loader: views, forward, backward, optimizer, moving
average. Ours is built from the main recipe, with the views made from uint8 masters within the step. Baselines:
mmpretrain's MAE (75 % random masks), and the official CMAE if a checkout of it is given; the latter gets its views
ready-made. With its second encoder and decoder, CMAE ViT-B does about 1.9 times the work of MAE.

Each model has a process of its own, which waits while another works. Measurements alternate, so that whatever else
the machine does hits all alike; ratios are medians over rounds. Peak memory is what torch allocated on a GPU, else
what the process held at most, libraries included. On a CPU ours runs as `tools/train.py` runs it: it keeps freed
memory, and takes oneDNN's matrix products where they are faster. The others run as their own programs run them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from _pretrain_recipes import DTYPES, SIZES, Setting, TrainingStep, mae_recipe, master_batch, our_recipe
from _workers import in_turn, report, serve
from mmengine.logging import MMLogger

from cmae_mm.cli import guard
from cmae_mm.engine.cpu import fit_to_cpu, keep_memory
from cmae_mm.errors import UserError

OURS, MAE, OFFICIAL = "CMAE", "MAE", "official"


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Setting]:
    """Read the command line and fill in what depends on the device.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", choices=SIZES, default="base", help="small and mini: for slow machines")
    parser.add_argument("--batch", type=int, help="images in a step; default 8 on a CPU, 128 on a GPU")
    parser.add_argument("--steps", type=int, help="steps of one measurement; default 1 on a CPU, 10 on a GPU")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each model, in turn")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="bf16 and fp16: autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks of all models")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time of all threads, steadier where other programs run; best with --threads 1",
    )
    parser.add_argument(
        "--official",
        type=Path,
        metavar="PATH",
        help="checkout of github.com/ZhichengHuang/CMAE to time as well; its code is executed",
    )
    parser.add_argument("--serve", choices=(OURS, MAE, OFFICIAL), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu.")
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if on_gpu and args.clock == "cpu":
        raise UserError("--clock cpu: a GPU's work takes no processor time; use --clock wall.")
    args.steps = args.steps or (10 if on_gpu else 1)
    batch = args.batch or (128 if on_gpu else 8)
    device = torch.device("cuda" if on_gpu else "cpu")
    return args, Setting(args.size, batch, device, args.precision, args.compile)


def our_step(setting: Setting) -> TrainingStep:
    """Build our step, on a CPU with what a run of the suite does there."""
    if setting.device.type == "cuda":
        return TrainingStep(our_recipe(), master_batch(setting, margin=True), setting)
    keep_memory()
    return TrainingStep(our_recipe(), master_batch(setting, margin=True), setting, fit=fit_to_cpu)


def make_step(name: str, official: Path | None, setting: Setting, stack: ExitStack) -> TrainingStep:
    """Build the step of one model.

    Args:
        name: `OURS`, `MAE` or `OFFICIAL`.
        official: Checkout of the official code, which only `OFFICIAL` needs.
        setting: How all are measured.
        stack: Holds what the official code needs.
    """
    if name == OURS:
        return our_step(setting)
    if name == MAE:
        return TrainingStep(mae_recipe(), master_batch(setting, margin=False), setting)
    from _official_cmae import official_code, official_step

    assert official is not None
    stack.enter_context(official_code(official.resolve(), setting.device))
    return official_step(official.resolve(), setting)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args, setting = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.serve:
        MMLogger.get_current_instance().setLevel("ERROR")  # else it lists every parameter
        torch.manual_seed(0)
        with ExitStack() as stack:
            step = make_step(args.serve, args.official, setting, stack)
            serve(step, setting.batch, args.steps, setting.device, args.clock)
        return 0
    if args.official:
        from _official_cmae import check_checkout

        check_checkout(args.official)
    names = [OURS, MAE] + ([OFFICIAL] if args.official else [])
    rates, peaks = in_turn(__file__, names, sys.argv[1:] if argv is None else argv, args.rounds)
    gpu = setting.device.type == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    compiled = ", compiled" if setting.compile else ""
    print(
        f"{where}, torch {torch.__version__}, {setting.size}, batch {setting.batch}, {setting.precision}{compiled}"
    )
    report(rates, peaks)
    return 0


if __name__ == "__main__":
    guard(main)
