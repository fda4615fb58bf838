"""Hooks that look at the model while it trains: kNN probe and reconstructions. Training notices none of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from cmae_mm.engine.environment import bare_model
from cmae_mm.engine.knn import knn_accuracy
from cmae_mm.engine.run_metadata import write_json
from cmae_mm.engine.sharding import callable_in_parts, is_split
from cmae_mm.errors import UserError

KNN_FILE = "knn.json"
PICTURES = "pictures"
_GREY, _WHITE = 127, 255
_GAP, _TITLE = 2, 18  # pixels between tiles, and above a row for its title
_TILE = 128  # smaller images are enlarged by a whole factor to about this


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate inside training: no gradients, evaluation mode; afterwards everything is as it was.

    Restored are the mode of each module and the random states of Python, NumPy, torch and this process's GPU.

    Args:
        model: Model in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=gpus), torch.no_grad(), callable_in_parts(model):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes:
            module.training = training


class EpochMonitor(Hook):
    """Looks at the run before it starts, every ``interval`` epochs and after the last one.

    Looks after the checkpoint was written. A run that was stopped between the two makes up for it when it is resumed.

    Args:
        interval: Epochs between two looks.
        at_start: Also look at the untrained model.
    """

    priority: int | str = 95  # CheckpointHook has VERY_LOW, 90

    def __init__(self, interval: int = 10, at_start: bool = True) -> None:
        if interval < 1:
            raise UserError(f"{type(self).__name__} got interval={interval}; set it to 1 epoch or more.")
        self.interval = interval
        self.at_start = at_start

    def before_train(self, runner: Any) -> None:
        """Look, where a look is due at the epoch that the run starts from."""
        epoch = runner.epoch
        if (epoch or self.at_start) and self._due(epoch, runner) and not self.is_done(runner, epoch):
            self.look(runner, epoch)

    def after_train_epoch(self, runner: Any) -> None:
        """Look, where a look is due."""
        epoch = runner.epoch + 1
        if self._due(epoch, runner):
            self.look(runner, epoch)

    def _due(self, epoch: int, runner: Any) -> bool:
        return epoch % self.interval == 0 or epoch == runner.max_epochs

    def is_done(self, runner: Any, epoch: int) -> bool:
        """Whether an earlier part of this run looked at this epoch; the same answer in all processes."""
        raise NotImplementedError

    def look(self, runner: Any, epoch: int) -> None:
        """Look at the model after ``epoch`` epochs; called in all processes."""
        raise NotImplementedError


@HOOKS.register_module()
class KNNProbeHook(EpochMonitor):
    """Logs ``knn_top1``: the accuracy in percent of a kNN vote on the features of the online encoder.

    Nothing is trained and nothing augmented: centre views, mean patch tokens (``model.pool_feat``), `knn_predict`.
    The processes share the images. The result goes to the log, to the visualizer with the epoch as step, and
    to ``knn.json`` in the work dir.

    Args:
        bank: Config of the dataset whose labels are known to the vote.
        queries: Config of the dataset that is classified. Items of both: ``inputs`` (3, H, W) uint8 BGR, ``label``.
        interval: Epochs between two looks.
        k: Neighbours that vote.
        temperature: Of the vote.
        batch_size: Images at once in each process.
        num_workers: Loader processes of each process, alive during a look; 0 reads in the process itself.
        at_start: Also look at the untrained model, so that a rise can be seen.
    """

    def __init__(
        self,
        bank: dict[str, Any],
        queries: dict[str, Any],
        interval: int = 10,
        k: int = 20,
        temperature: float = 0.07,
        batch_size: int = 128,
        num_workers: int = 0,
        at_start: bool = True,
    ) -> None:
        super().__init__(interval, at_start)
        self.bank_cfg, self.queries_cfg = bank, queries
        self.k = k
        self.temperature = temperature
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.entries: list[dict[str, float]] = []

    def before_train(self, runner: Any) -> None:
        """Build the datasets; a resumed run keeps the entries of its earlier part.

        Raises:
            UserError: The bank has fewer than k images.
        """
        with undisturbed(bare_model(runner)):
            self.bank, self.queries = DATASETS.build(self.bank_cfg), DATASETS.build(self.queries_cfg)
        if len(self.bank) < self.k:
            raise UserError(
                f"KNNProbeHook: k={self.k} neighbours cannot vote among {len(self.bank)} bank images; lower k."
            )
        shared = [earlier_entries(Path(runner.work_dir) / KNN_FILE, runner.epoch)]
        dist.broadcast_object_list(shared)
        self.entries = shared[0]
        super().before_train(runner)

    def is_done(self, runner: Any, epoch: int) -> bool:
        """Whether ``knn.json`` has this epoch."""
        return any(entry["epoch"] == epoch for entry in self.entries)

    def look(self, runner: Any, epoch: int) -> None:
        """Measure and note the accuracy."""
        begin, model = time.perf_counter(), bare_model(runner)
        with undisturbed(model):
            bank, labels = self._features(runner, model, self.bank)
            queries, truth = self._features(runner, model, self.queries)
            classes = int(labels.max()) + 1
            top1 = knn_accuracy(queries, truth, bank, labels, classes, self.k, self.temperature)
        top1 = round(top1, 3)
        self.entries.append({"epoch": epoch, "iter": runner.iter, "knn_top1": top1})
        runner.logger.info(
            f"kNN probe after epoch {epoch}: knn_top1 {top1:.2f} % (k={self.k}, {len(queries)} queries, "
            f"{len(bank)} in the bank, {time.perf_counter() - begin:.1f} s)"
        )
        runner.visualizer.add_scalars({"knn_top1": top1}, step=epoch, file_path=f"{runner.timestamp}.json")
        if runner.rank == 0:
            write_json(Path(runner.work_dir) / KNN_FILE, self.entries)

    def _features(self, runner: Any, model: Any, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """Features (n, C) float32 and labels (n,) of a whole dataset, in its order, in all processes.

        Raises:
            UserError: An image has no label.
        """
        n, world = len(dataset), dist.get_world_size()  # type: ignore[arg-type]
        own = (torch.arange(-(-n // world)) * world + dist.get_rank()).clamp(max=n - 1)
        loader = DataLoader(
            Subset(dataset, own.tolist()), self.batch_size, num_workers=self.num_workers, collate_fn=_stack
        )
        features, labels = [], []
        for images, label in loader:
            with runner.optim_wrapper.optim_context(model):  # the precision of the training
                views = model.data_preprocessor({"inputs": images}, training=False)["inputs"]
                features.append(model.pool_feat(views).float())
            labels.append(label.to(features[-1].device))
        whole = _interleave(torch.cat(features), n), _interleave(torch.cat(labels), n)
        if whole[1].min() < 0:
            raise UserError("KNNProbeHook: some images have no label; give it data whose classes are known.")
        return whole


@HOOKS.register_module()
class ReconstructionHook(EpochMonitor):
    """Draws what the decoder makes of the same images under the same masks: ``pictures/epoch_0010.png``.

    Rows: the image, what the encoder sees, and what the model paints into the hidden patches. The picture also goes to
    the visualizer, with the epoch as step.

    Args:
        images: Config of a dataset that is not trained on; items as for `KNNProbeHook`.
        interval: Epochs between two pictures.
        count: Images, taken at equal distances from the dataset.
        seed: Of the masks.
        at_start: Also draw what the untrained model paints.
    """

    def __init__(
        self, images: dict[str, Any], interval: int = 10, count: int = 8, seed: int = 0, at_start: bool = True
    ) -> None:
        super().__init__(interval, at_start)
        self.images_cfg = images
        self.count = count
        self.seed = seed

    def before_train(self, runner: Any) -> None:
        """Read the images.

        Raises:
            UserError: The dataset has fewer than ``count`` images.
        """
        with undisturbed(bare_model(runner)):
            dataset = DATASETS.build(self.images_cfg)
            if len(dataset) < self.count:
                raise UserError(
                    f"ReconstructionHook: {len(dataset)} images, but count={self.count}; lower it."
                )
            chosen = [i * len(dataset) // self.count for i in range(self.count)]
            self.images = torch.stack([torch.as_tensor(dataset[i]["inputs"]) for i in chosen])
        super().before_train(runner)

    def is_done(self, runner: Any, epoch: int) -> bool:
        """Never: drawing again costs little and gives the same picture."""
        return False

    def look(self, runner: Any, epoch: int) -> None:
        """Draw in process 0."""
        model = bare_model(runner)
        if runner.rank != 0 and not is_split(model):  # a split model takes all processes
            return
        picture = self.draw(runner, model)
        if runner.rank != 0:
            return
        path = Path(runner.work_dir) / PICTURES / f"epoch_{epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), picture[..., ::-1])
        runner.visualizer.add_image("reconstruction", picture, step=epoch)

    def draw(self, runner: Any, model: Any) -> np.ndarray:
        """Returns: (H, W, 3) uint8 RGB."""
        with undisturbed(model), runner.optim_wrapper.optim_context(model):
            views = model.data_preprocessor({"inputs": self.images}, training=False)["inputs"]
            # On the CPU, so that every device gets the same masks.
            mask = model.backbone.draw_mask(
                len(views), torch.device("cpu"), generator=torch.Generator().manual_seed(self.seed)
            )
            painted = model.reconstruct(views, masks=type(mask)(*(part.to(views.device) for part in mask)))
            hidden = painted.mask.bool()
            image = model.data_preprocessor.to_pixels(views)
            result = model.data_preprocessor.to_pixels(torch.where(hidden, painted.image.float(), views))
        rows = {
            "image": image,
            "what the encoder sees": image.masked_fill(hidden, _GREY),
            "reconstruction": result,
        }
        return tile(rows)


def tile(rows: dict[str, Tensor]) -> np.ndarray:
    """Arrange images in titled rows.

    Args:
        rows: Title to (N, 3, H, W) uint8 RGB images; the same N, H and W in each.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    strips = []
    for title, images in rows.items():
        factor = max(1, _TILE // images.shape[-1])
        large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        large = nn.functional.pad(large, (_GAP, _GAP, 0, _GAP), value=_WHITE).permute(2, 0, 3, 1)
        strip = large.flatten(1, 2).cpu().numpy()
        head = np.full((_TITLE, strip.shape[1], 3), _WHITE, np.uint8)
        cv2.putText(head, title, (_GAP, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        strips += [head, strip]
    return np.concatenate(strips)


def _stack(items: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([torch.as_tensor(item["inputs"]) for item in items])
    return images, torch.tensor([int(item["label"]) for item in items])


def _interleave(own: Tensor, n: int) -> Tensor:
    """Undo the sharing of every world-th item: (n / world, ...) in each process to (n, ...) in all."""
    return torch.stack(dist.all_gather(own.contiguous()), dim=1).flatten(0, 1)[:n]


def earlier_entries(path: Path, epoch: float) -> list[dict[str, float]]:
    """Entries of ``knn.json`` up to an epoch; none where there is no such file."""
    try:
        return [entry for entry in json.loads(path.read_text()) if entry["epoch"] <= epoch]
    except FileNotFoundError:
        return []
