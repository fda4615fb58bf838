r"""Time of a linear probe on cached features against the frozen encoder run anew in each epoch (mmpretrain's way).

    python tools/benchmarks/linear_probe.py --data-root DIR                     # 250 images, small ViT: 2 to 3 minutes
    python tools/benchmarks/linear_probe.py --data-root DIR --images 4000 --measured 3    # the rest is extrapolated
    python tools/benchmarks/linear_probe.py --config configs/imagenet/linear-cached_vit-b-p16_in1k.py --data-root DIR \
        --images 1000000 --val-images 50000 --measured 1 --workers 8            # full size, on a GPU

Both sides see the same images in the same order through the same transform, start from the same layer and make the same
steps, so they must end at the same accuracy. Ours: extract all features once, store and check them, train on them. The
other: read, transform and encode the batch in each step, frozen, by mmpretrain's ImageClassifier. Both classify the
validation images once, at the end. With ``--measured N`` the other side runs N epochs only and its time is scaled up,
which is said; its accuracy then stays unknown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmae_mm.compat

# isort: split

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from cmae_mm.cli import guard
from cmae_mm.data.masters import draw_key
from cmae_mm.engine.config import load_config, set_backbone, set_data_root
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.transfer.feature_cache import FeatureCache
from cmae_mm.transfer.feature_extraction import Loading, fill_cache
from cmae_mm.transfer.feature_images import KeyedImages, names_and_labels, stack
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.frozen_features import FrozenFeatures, TokenViT
from cmae_mm.transfer.lars import LARS
from cmae_mm.transfer.linear_probe import LinearHead, LinearProbe
from cmae_mm.transfer.probe_features import ChosenImages
from cmae_mm.transfer.probe_loop import Schedule
from cmae_mm.transfer.probe_task import Task

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run both sides and compare."""
    args = parse()
    cmae_mm.compat.import_quietly()
    cfg = load_config(args.config)
    set_data_root(cfg, args.data_root)
    cfg.work_dir = tempfile.gettempdir()
    if args.backbone:
        set_backbone(cfg, args.backbone)
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    options = {
        k: v
        for k, v in cfg.probe.items()
        if k not in ("type", "min_steps", "val_interval", "epochs", "batch_size")
    }
    probe = LinearProbe(epochs=args.epochs, batch_size=args.batch, val_interval=args.epochs, **options)
    MMLogger.get_instance("benchmark", logger_name="mmengine", log_level="WARNING")  # no list of weights
    torch.manual_seed(0)
    encoder = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor})
    encoder.init_weights()
    encoder = encoder.to(get_device()) if torch.cuda.is_available() else fit_to_cpu(encoder)
    data = [
        some_of(cfg.train_dataloader.dataset, args.images),
        some_of(cfg.val_dataloader.dataset, args.val_images),
    ]
    ours, own, extraction = cached(probe, encoder, data, args, clock)
    other, theirs = end_to_end(probe, encoder, cfg, data, args, clock)
    report(args, [len(d) for d in data], (ours, own, extraction), (other, theirs))
    return 0


def parse() -> argparse.Namespace:
    """Words of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", required=True, help="folder with train/<class>/ and val/<class>/")
    parser.add_argument("--config", default=ROOT / "configs/mini/linear-cached_vit-mini_imagenet.py")
    parser.add_argument("--backbone", help="backbone file; without it the weights are random")
    parser.add_argument("--images", type=int, default=250, help="training images, evenly spread")
    parser.add_argument("--val-images", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument(
        "--measured", type=int, help="epochs that the end-to-end side really runs (default: all)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, without --workers"
    )
    return parser.parse_args()


def some_of(dataset: dict[str, Any], count: int) -> ChosenImages:
    """A data set of so many images, evenly spread."""
    whole = DATASETS.build(dataset)
    rows = np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int))
    return ChosenImages(whole, rows.tolist())


def cached(
    probe: LinearProbe,
    encoder: FrozenFeatures,
    data: list[Any],
    args: argparse.Namespace,
    clock: Callable[[], float],
) -> tuple[float, float, float]:
    """Extract, store, read, train. Returns seconds, accuracy in percent, seconds of the extraction."""
    start = clock()
    with tempfile.TemporaryDirectory() as folder:
        tables = []
        for name, images in zip(("train", "val"), data, strict=True):
            labels = names_and_labels(images)[1]
            cache = FeatureCache(folder, {"of": name}, len(images), encoder.width)
            fill_cache(cache, encoder, images, probe.parts, 1, Loading(args.batch, args.workers))
            tables.append(
                FeatureTable([[cache.read(p, 0) for p in probe.parts]], labels, 1 + int(labels.max()))
            )
        extraction = clock() - start
        task = Task(*tables, torch.device(get_device()), 0, Path(folder), lambda text: None)
        outcome = probe.run(task)
    return clock() - start, outcome.history[-1]["accuracy/top1"], extraction


def end_to_end(
    probe: LinearProbe,
    encoder: FrozenFeatures,
    cfg: Any,
    data: list[Any],
    args: argparse.Namespace,
    clock: Callable,
) -> tuple[float, float | None]:
    """Encode each batch anew. Returns seconds, scaled up where not all epochs ran, and the accuracy or None."""
    train, val = data
    labels = [names_and_labels(images)[1] for images in data]
    schedule, measured = probe.schedule, args.measured or args.epochs
    model, lr = classifier(encoder, cfg, probe, int(labels[0].max()) + 1, schedule.lr(len(train)))
    optimizer = LARS([p for p in model.parameters() if p.requires_grad], lr=lr)
    start = clock()
    model.train()
    for epoch in range(measured):
        train_epoch(model, optimizer, lr, schedule, train, labels[0], epoch, args)
    training = (clock() - start) * args.epochs / measured
    start = clock()
    model.eval()
    right = 0
    for rows, inputs in batches(val, np.arange(len(val)), args):
        samples = model.val_step({"inputs": list(inputs), "data_samples": [DataSample() for _ in rows]})
        right += sum(int(s.pred_label) == labels[1][row] for s, row in zip(samples, rows, strict=True))
    accuracy = 100 * right / len(val) if measured == args.epochs else None
    return training + clock() - start, accuracy


def classifier(
    encoder: FrozenFeatures, cfg: Any, probe: LinearProbe, classes: int, lr: float
) -> tuple[ImageClassifier, float]:
    """The same encoder in mmpretrain's model, with the layer that ours starts from."""
    vit = cfg.model.backbone
    blocks = encoder.backbone.num_layers
    backbone = {**vit, "type": TokenViT, "parts": probe.parts, "frozen_stages": blocks, "backbone_file": None}
    width = encoder.width * len(probe.parts)
    head = dict(type="LinearClsHead", num_classes=classes, in_channels=width)
    neck = dict(type="PooledBatchNorm", in_channels=width)
    model = ImageClassifier(
        backbone=backbone, neck=neck, head=head, data_preprocessor=dict(cfg.data_preprocessor)
    )
    model.backbone.load_state_dict(encoder.backbone.state_dict())
    model.head.fc.load_state_dict(LinearHead(width, classes, lr).model[1].state_dict())
    return (model.to(get_device()) if torch.cuda.is_available() else fit_to_cpu(model)), lr


def train_epoch(
    model: ImageClassifier,
    optimizer: LARS,
    lr: float,
    schedule: Schedule,
    images: Any,
    labels: np.ndarray,
    epoch: int,
    args: argparse.Namespace,
) -> None:
    """The same images in the same order as ours."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(draw_key(0, epoch, 0)))
    steps = len(images) // args.batch
    for step, (rows, inputs) in enumerate(batches(images, order[: steps * args.batch].numpy(), args)):
        optimizer.param_groups[0]["lr"] = lr * schedule.factor(epoch + step / steps)
        samples = [DataSample().set_gt_label(int(labels[row])) for row in rows]
        data = model.data_preprocessor({"inputs": list(inputs), "data_samples": samples}, True)
        loss = model(**data, mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def batches(images: Any, order: np.ndarray, args: argparse.Namespace) -> Iterator[Any]:
    """Read and transform images in an order."""
    plan = [order[k : k + args.batch].tolist() for k in range(0, len(order), args.batch)]
    return iter(
        DataLoader(KeyedImages(images), batch_sampler=plan, num_workers=args.workers, collate_fn=stack)
    )


def report(
    args: argparse.Namespace,
    counts: list[int],
    ours: tuple[float, float, float],
    other: tuple[float, float | None],
) -> None:
    """Print times, accuracies and the ratio."""
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{where}, {counts[0]} training and {counts[1]} validation images, {args.epochs} epochs, {args.clock} time"
    )
    print(f"  cached features     {ours[0]:8.1f} s ({ours[2]:.1f} s to extract), top-1 {ours[1]:.2f} %")
    measured = args.measured or args.epochs
    note = "" if measured == args.epochs else f", extrapolated from {measured} epochs"
    accuracy = "unknown" if other[1] is None else f"{other[1]:.2f} %"
    print(f"  encoded every epoch {other[0]:8.1f} s{note}, top-1 {accuracy}")
    print(f"  ratio {other[0] / ours[0]:.1f}")


if __name__ == "__main__":
    guard(main)
