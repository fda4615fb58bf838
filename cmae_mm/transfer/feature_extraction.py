"""Run a frozen encoder over a data set once and keep what it says in a cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from mmengine.dist import barrier, broadcast_object_list, get_dist_info
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from cmae_mm.engine.run_metadata import write_json
from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_cache import FeatureCache
from cmae_mm.transfer.feature_images import KeyedImages, stack
from cmae_mm.transfer.frozen_features import FrozenFeatures

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loading:
    """How images are read and encoded; nothing of it changes a feature.

    Args:
        batch_size: Images that are encoded together.
        num_workers: Processes that read images.
        precision: Of the encoder: float32, or a half precision by autocast.
        seed: Of the draws of random transforms.
    """

    batch_size: int = 256
    num_workers: int = 8
    precision: str = "float32"
    seed: int = 0


def fill_cache(
    cache: FeatureCache,
    model: FrozenFeatures,
    dataset: Any,
    parts: Sequence[str],
    views: int,
    loading: Loading,
    watch: Path | None = None,
) -> int:
    """Encode what the cache lacks. All processes take part, each with blocks of its own.

    What was written before a stop is kept; other runs that want the same wait for it.

    Args:
        cache: To be filled.
        model: On its device.
        dataset: A data set of mmpretrain with its transform.
        parts: See :func:`~cmae_mm.transfer.frozen_features.parse_part`.
        views: Passes over the data set, each with draws of its own.
        loading: Batch size and precision.
        watch: Progress is also written to this file.

    Returns:
        Images that were encoded in this call, by all processes.

    Raises:
        UserError: An image cannot be read, the disk is too small, or a feature is not finite.
    """
    if not _agreed(cache, parts, views):
        print_log(f"features: {', '.join(parts)} are in {cache.folder}", logger="current")
        return 0
    rank, world = get_dist_info()
    with _alone(cache, rank):
        if rank == 0:
            cache.create(parts, views)
        todo = _agreed(cache, parts, views)
        total = sum(len(cache.rows(b)) for blocks in todo.values() for b in blocks)
        progress = _Progress(total, world, cache.folder, watch if rank == 0 else None)
        for view, blocks in todo.items():
            encode = _Encoder(model, parts, loading.precision)
            _fill_view(
                cache,
                KeyedImages(dataset, view, loading.seed),
                view,
                blocks[rank::world],
                encode,
                loading,
                progress,
            )
        barrier()
    return total


def _agreed(cache: FeatureCache, parts: Sequence[str], views: int) -> dict[int, list[int]]:
    """Blocks that are missing in each view, as the first process sees it: all must go the same way."""
    found = [{view: blocks for view in range(views) if (blocks := cache.missing(parts, view))}]
    broadcast_object_list(found)
    return found[0]


def _fill_view(
    cache: FeatureCache,
    images: KeyedImages,
    view: int,
    blocks: Sequence[int],
    encode: _Encoder,
    loading: Loading,
    progress: Callable[[int], None],
) -> None:
    """Encode some blocks of a view, in order."""
    batches = [
        list(rows[k : k + loading.batch_size])
        for rows in map(cache.rows, blocks)
        for k in range(0, len(rows), loading.batch_size)
    ]
    loader = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=loading.num_workers if batches else 0,
        collate_fn=stack,
        pin_memory=torch.cuda.is_available(),
    )
    maps = {part: cache.open(part, view, writable=True) for part in encode.parts}
    pending: list[dict[str, np.ndarray]] = []
    for rows, inputs in loader:
        if isinstance(inputs, str):
            raise UserError(inputs)
        pending.append(encode(inputs))
        progress(len(rows))
        block = rows[0] // cache.about["block"]
        if rows[-1] == cache.rows(block)[-1]:
            values = {part: np.concatenate([p[part] for p in pending]) for part in maps}
            cache.write(maps, view, block, values, get_dist_info()[0])
            pending.clear()


class _Encoder:
    """Images as a loader gives them to features as the cache takes them."""

    def __init__(self, model: FrozenFeatures, parts: Sequence[str], precision: str) -> None:
        self.model, self.parts = model, list(parts)
        self.device = next(model.parameters()).device
        self.dtype = PRECISIONS[precision]

    def __call__(self, inputs: Tensor) -> dict[str, np.ndarray]:
        data = self.model.data_preprocessor({"inputs": inputs.to(self.device, non_blocking=True)})
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = self.model(data["inputs"], self.parts)
        arrays = {part: value.cpu().numpy() for part, value in found.items()}
        for part, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"features: {part} is not finite: the encoder is broken, or too large for half precision"
                )
        return arrays


class _Progress:
    """Says every few seconds how far the first process is, and so about all."""

    def __init__(
        self, total: int, world: int, place: Path, watch: Path | None, interval: float = 10.0
    ) -> None:
        self.total, self.world, self.place, self.watch = total, world, place, watch
        self.interval, self.done = interval, 0
        self.start = self.last = time.monotonic()

    def __call__(self, count: int) -> None:
        """Add images of this process."""
        self.done = min(self.done + count * self.world, self.total)
        now = time.monotonic()
        if self.watch is None or (now - self.last < self.interval and self.done < self.total):
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = round((self.total - self.done) / rate)
        print_log(
            f"features: {self.done:,} of {self.total:,} images, {rate:.0f} images/s, {left // 60}:{left % 60:02d} left"
            f", to {self.place}",
            logger="current",
        )
        write_json(self.watch, {"done": self.done, "total": self.total})


@contextmanager
def _alone(cache: FeatureCache, rank: int) -> Iterator[None]:
    """Keep other runs from filling the same cache; the lock goes with the process."""
    if rank:
        yield
        return
    try:
        cache.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache.root / f"{cache.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print_log(f"features: another run is filling {cache.folder}; waiting for it", logger="current")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{cache.root}: features cannot be stored there ({error.strerror}); choose another place with --cache"
        ) from None
    try:
        yield
    finally:
        lock.release()
