"""How fast is UperNet with a ViT, and how much memory does it need?

    python tools/benchmarks/upernet_step.py                              # ViT-B, 512 px, a training step
    python tools/benchmarks/upernet_step.py --what slide                 # sliding windows over an image of 512 x 768
    python tools/benchmarks/upernet_step.py --what backbone --size mini  # seconds

The baseline is mmseg's UperNet with its ``MAE`` backbone, built from the config that is installed with it. A step is
everything that one iteration does after the loader: normalisation, forward, backward, optimizer. Each model has
a process of its own, which waits while the other works; measurements alternate, so that whatever else the machine
does hits both alike, and ratios are medians over rounds. Peak memory is what torch allocated on a GPU, else
what the process held at most, libraries included. On a CPU ours runs as `tools/train.py` runs it: it keeps freed
memory, and takes oneDNN's matrix products where they are faster. The other runs as mmseg's own program runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from _workers import in_turn, report, serve
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import nn

from cmae_mm.cli import guard
from cmae_mm.engine.cpu import fit_to_cpu, keep_memory
from cmae_mm.errors import UserError

OURS, THEIRS = "cmae_mm", "mmseg"
RECIPE = Path(__file__).parents[2] / "configs/ade20k/upernet_vit-b-p16_8xb2-amp-160k_ade20k-512x512.py"
BASELINE = "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py"
# width, heads, side of a crop, channels of the heads; depth stays 12
SIZES = {"base": (768, 12, 512, 768), "small": (384, 6, 512, 384), "mini": (48, 3, 128, 32)}
Step = Callable[[], object]


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """Read the command line and fill in what depends on the device.

    Raises:
        UserError: A GPU is asked for and there is none, or a step of one image.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("step", "backbone", "slide"), default="step")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--batch", type=int, help="images; default 2, for --what slide 1, for backbone on a CPU 1"
    )
    parser.add_argument("--steps", type=int, help="steps of one measurement; default 1 on a CPU, 10 on a GPU")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each model, in turn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing in our backbone")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time")
    parser.add_argument("--serve", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu.")
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if on_gpu and args.clock == "cpu":
        raise UserError("--clock cpu: a GPU's work takes no processor time; use --clock wall.")
    args.batch = args.batch or (2 if args.what == "step" or (on_gpu and args.what == "backbone") else 1)
    if args.what == "step" and args.batch == 1:
        raise UserError("--batch 1: batch norm of a map of one place needs two images; use at least 2.")
    args.steps = args.steps or (10 if on_gpu else 1)
    args.precision = args.precision or ("bf16" if on_gpu else "fp32")
    return args, torch.device("cuda" if on_gpu else "cpu")


def config_of(name: str, args: argparse.Namespace) -> Config:
    """Read the recipe of one model and bring it to the size and precision that are measured."""
    import mmseg

    path = RECIPE if name == OURS else Path(mmseg.__file__).parent / ".mim/configs" / BASELINE
    cfg = Config.fromfile(path)
    width, heads, side, channels = SIZES[args.size]
    model, backbone = cfg.model, cfg.model.backbone
    model.pop("pretrained", None)
    model.data_preprocessor.size = (side, side)
    backbone.update(embed_dims=width, num_heads=heads, img_size=side if name == OURS else (side, side))
    if name == OURS:
        backbone.with_cp = args.recompute
    model.neck.embed_dim = width
    model.decode_head.update(in_channels=[width] * 4, channels=channels)
    model.auxiliary_head.in_channels = width
    model.test_cfg.update(crop_size=(side, side), stride=(side * 2 // 3, side * 2 // 3))
    amp = args.precision == "bf16" and args.device_type == "cuda"
    cfg.optim_wrapper.update(type=AmpOptimWrapper if amp else OptimWrapper)
    cfg.optim_wrapper.pop("dtype", None)
    if amp:
        cfg.optim_wrapper.update(dtype="bfloat16")
    return cfg


def batch_of(shape: tuple[int, int], count: int, device: torch.device) -> dict[str, Any]:
    """Make images and labels as a loader gives them."""
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, *shape), device=device))
        samples.append(sample)
    images = torch.randint(0, 256, (count, 3, *shape), dtype=torch.uint8, device=device)
    return dict(inputs=list(images), data_samples=samples)


def make_step(name: str, args: argparse.Namespace, device: torch.device) -> Step:
    """Build one model and what is measured of it."""
    if name == OURS and device.type == "cpu":
        keep_memory()
    cfg = config_of(name, args)
    init_default_scope("mmseg")
    model = MODELS.build(cfg.model)
    if device.type == "cpu":
        model = fit_to_cpu(model) if name == OURS else revert_sync_batchnorm(model)
    model.to(device)
    side = SIZES[args.size][2]
    autocast = dict(device_type=device.type, dtype=torch.bfloat16, enabled=args.precision == "bf16")
    if args.what == "slide":
        return _sliding(model.eval(), batch_of((side, side * 3 // 2), args.batch, device), autocast)
    if args.what == "backbone":
        images = torch.randn(args.batch, 3, side, side, device=device)
        return _backbone(model.train().backbone, images, autocast)
    wrapper = build_optim_wrapper(model.train(), cfg.optim_wrapper)
    batch = batch_of((side, side), args.batch, device)
    return lambda: model.train_step(batch, wrapper)


def _sliding(model: nn.Module, batch: dict[str, Any], autocast: dict[str, Any]) -> Step:
    def step() -> None:
        with torch.no_grad(), torch.autocast(**autocast):
            model.test_step(batch)

    return step


def _backbone(backbone: nn.Module, images: torch.Tensor, autocast: dict[str, Any]) -> Step:
    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        with torch.autocast(**autocast):
            loss = sum(m.float().square().mean() for m in backbone(images))
        loss.backward()

    return step


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args, device = parse(argv)
    args.device_type = device.type
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.serve:
        MMLogger.get_current_instance().setLevel("ERROR")
        torch.manual_seed(0)
        serve(make_step(args.serve, args, device), args.batch, args.steps, device, args.clock)
        return 0
    rates, peaks = in_turn(__file__, [OURS, THEIRS], sys.argv[1:] if argv is None else argv, args.rounds)
    gpu = device.type == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{where}, torch {torch.__version__}, {args.what}, {args.size}, {SIZES[args.size][2]} px, "
        f"batch {args.batch}, {args.precision}"
    )
    report(rates, peaks)
    return 0


if __name__ == "__main__":
    guard(main)
