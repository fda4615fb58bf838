"""How fast is a training step of CMAE, and how does it compare with mmpretrain's MAE?

    python tools/benchmarks/pretrain_step.py                                                # small, any CPU
    python tools/benchmarks/pretrain_step.py --size base --batch 128 --precision bf16 --steps 10   # a GPU

Both models have the same encoder arch and pixel decoder; CMAE's step includes making its views. Measurements
alternate, so that whatever else the machine does hits both alike. With its second encoder and decoder,
CMAE ViT-B does about 1.9 times the work of MAE.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor

import cmae_mm.compat  # noqa: F401  (before torchvision)
from cmae_mm.cli import guard

SIZES: dict[str, dict[str, Any]] = {
    "mini": {
        "width": 128,
        "depth": 6,
        "heads": 4,
        "patch": 8,
        "image": 64,
        "shift": 7,
        "decoder": (64, 2, 4),
    },
    "small": {
        "width": 384,
        "depth": 12,
        "heads": 6,
        "patch": 16,
        "image": 224,
        "shift": 31,
        "decoder": (256, 4, 8),
    },
    "base": {
        "width": 768,
        "depth": 12,
        "heads": 12,
        "patch": 16,
        "image": 224,
        "shift": 31,
        "decoder": (512, 8, 16),
    },
}


def build_models(size: str) -> dict[str, Any]:
    """Build CMAE as released and mmpretrain's MAE (75 % random mask), with one encoder arch.

    Args:
        size: A key of `SIZES`.
    """
    from mmpretrain.registry import MODELS

    import cmae_mm.pretrain  # noqa: F401

    s = SIZES[size]
    arch = {
        "embed_dims": s["width"],
        "num_layers": s["depth"],
        "num_heads": s["heads"],
        "feedforward_channels": 4 * s["width"],
    }
    width, depth, heads = s["decoder"]
    decoder = {
        "num_patches": (s["image"] // s["patch"]) ** 2,
        "patch_size": s["patch"],
        "embed_dim": s["width"],
        "decoder_embed_dim": width,
        "decoder_num_heads": heads,
    }
    mlp = {
        "type": "NonLinearNeck",
        "hid_channels": 2 * s["width"],
        "out_channels": 256,
        "with_bias": True,
        "with_last_bn": False,
        "with_avg_pool": False,
        "norm_cfg": {"type": "BN1d", "eps": 1e-6},
    }
    encoder = {"arch": arch, "img_size": s["image"], "patch_size": s["patch"]}
    loss = {"type": "PixelReconstructionLoss", "criterion": "L2"}
    cmae = {
        "type": "CMAE",
        "data_preprocessor": {"type": "CMAEDataPreprocessor", "size": s["image"], "max_shift": s["shift"]},
        "backbone": {"type": "CMAEViT", **encoder},
        "pixel_decoder": {"type": "CMAEPixelDecoder", "decoder_depth": depth, **decoder},
        "feature_decoder": {"type": "CMAEFeatureDecoder", "decoder_depth": max(1, depth // 4), **decoder},
        "projector": {"in_channels": s["width"], **mlp},
        "head": {
            "type": "CMAEPretrainHead",
            "patch_size": s["patch"],
            "predictor": {"in_channels": 256, **mlp},
        },
    }
    mae = {
        "type": "MAE",
        "data_preprocessor": {
            "type": "SelfSupDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
        },
        "backbone": {"type": "MAEViT", **encoder},
        "neck": {"type": "MAEPretrainDecoder", "decoder_depth": depth, **decoder},
        "head": {"type": "MAEPretrainHead", "norm_pix": True, "patch_size": s["patch"], "loss": loss},
    }
    return {"CMAE": MODELS.build(cmae), "MAE": MODELS.build(mae)}


def make_step(model: Any, precision: str, device: torch.device) -> Callable[[Tensor], None]:
    """Wrap a model into one whole training step: views, forward, backward, AdamW, moving average.

    Args:
        model: mmpretrain self-supervised model.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (autocast, without a loss scaler).
        device: Where it runs.
    """
    model.init_weights()
    model.to(device).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def step(master: Tensor) -> None:
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            batch = model.data_preprocessor({"inputs": master, "data_samples": None}, True)
            losses = model(**batch, mode="loss")
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if hasattr(model, "momentum_update"):
            model.momentum_update()

    return step


def timed(step: Callable[[Tensor], None], master: Tensor, steps: int) -> float:
    """Time ``steps`` steps, in images per second."""
    wait = torch.cuda.synchronize if master.is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step(master)
    wait()
    return steps * len(master) / (time.perf_counter() - start)


def measure(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Time both models in turn.

    Args:
        args: Command line.
        device: Where they run.

    Returns:
        Images/s of each round, and the peak memory of a step in bytes (empty on the CPU; both models'
        weights and optimizer states count in it).
    """
    s = SIZES[args.size]
    steps = {}
    rates: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for name, model in build_models(args.size).items():
        if args.compile:
            for child in model.children():
                child.compile()
        # CMAE cuts its views from a master crop; MAE's pipeline crops to the size at once.
        side = s["image"] + (s["shift"] + 1 if name == "CMAE" else 0)
        master = torch.randint(0, 256, (args.batch, 3, side, side), dtype=torch.uint8, device=device)
        steps[name] = (make_step(model, args.precision, device), master)
        rates[name] = []
    for name, (step, master) in steps.items():
        timed(step, master, args.warmup)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            timed(step, master, 1)
            peaks[name] = torch.cuda.max_memory_allocated()
    for _ in range(args.rounds):
        for name, (step, master) in steps.items():
            rates[name].append(timed(step, master, args.steps))
    return rates, peaks


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    parser = argparse.ArgumentParser(description="Images/s of a CMAE training step beside mmpretrain's MAE.")
    parser.add_argument("--size", choices=SIZES, default="mini", help="encoder and decoder size")
    parser.add_argument("--batch", type=int, default=32, help="images in a step")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first measurement")
    parser.add_argument("--steps", type=int, default=3, help="steps in one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each model, in turn")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="torch.compile encoders and decoders")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    MMLogger.get_current_instance().setLevel("WARNING")  # else every parameter's initialisation is listed
    rates, peaks = measure(args, device)
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    compiled = ", compiled" if args.compile else ""
    print(f"{args.size}, batch {args.batch}, {args.precision}{compiled}, torch {torch.__version__}, {where}")
    for name, values in rates.items():
        peak = f", peak {peaks[name] / 2**30:.1f} GiB" if peaks else ""
        print(
            f"{name:5s} {statistics.median(values):9.1f} images/s ({min(values):.1f} to {max(values):.1f}){peak}"
        )
    ratios = [c / m for c, m in zip(rates["CMAE"], rates["MAE"], strict=True)]
    print(f"CMAE / MAE {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    guard(main)
