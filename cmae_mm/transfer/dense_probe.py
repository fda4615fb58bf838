"""The memory of labelled patches as an mmseg head, and the hook that fills it before a test."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from cmae_mm.engine.environment import bare_model
from cmae_mm.errors import UserError
from cmae_mm.transfer.dense_knn import choose_patches, knn_label_shares, patch_label_shares


@MODELS.register_module()
class DenseKNNHead(BaseDecodeHead):
    """Labels each patch by its nearest neighbours among the patches of training images; learns nothing.

    mmseg does the rest as for any head: sliding windows, bilinear upsampling, the class with the largest value.
    See :func:`~cmae_mm.transfer.dense_knn.knn_label_shares` for what is computed.

    Args:
        patch_size: Side of a patch in pixels.
        neighbours: Patches that vote.
        temperature: Of the vote.
        half: Keep the memory in float16: half the space, similarities with three digits.
        **kwargs: See mmseg.
    """

    def __init__(
        self,
        patch_size: int,
        neighbours: int = 30,
        temperature: float = 0.02,
        half: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            **{"channels": kwargs["in_channels"], "dropout_ratio": 0.0, "init_cfg": None, **kwargs}
        )
        del self.conv_seg
        self.patch_size, self.neighbours, self.temperature = patch_size, neighbours, temperature
        self.dtype = torch.float16 if half else torch.float32
        self._features: list[Tensor] = []
        self._shares: list[Tensor] = []

    def remember(
        self, inputs: tuple[Tensor, ...], labels: Tensor, count: int, generator: torch.Generator | None = None
    ) -> None:
        """Add patches of a batch to the memory.

        Args:
            inputs: Maps of the backbone.
            labels: (B, H, W) label maps of the images.
            count: Patches of each image.
            generator: For their choice.
        """
        features = self._transform_inputs(inputs).flatten(2).transpose(1, 2)
        shares = patch_label_shares(labels, self.num_classes, self.patch_size, self.ignore_index).flatten(
            1, 2
        )
        chosen, valid = choose_patches(shares, count, generator)
        rows = (
            torch.arange(len(labels), device=labels.device)[:, None].expand_as(chosen)[valid],
            chosen[valid],
        )
        self._features.append(F.normalize(features[rows].float(), dim=1).to(self.dtype))
        self._shares.append(shares[rows].to(self.dtype))

    def share_memory(self) -> int:
        """Give every process the patches of all; returns how many there are."""
        self._features, self._shares = ([_gather(torch.cat(part))] for part in (self._features, self._shares))
        return len(self._features[0])

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Predict label shares.

        Args:
            inputs: Maps of the backbone.

        Returns:
            (B, K, h, w).

        Raises:
            UserError: If the memory is empty.
        """
        if not self._features:
            raise UserError(
                "the memory of patches is empty; run this config with tools/dense_knn.py, which fills it"
            )
        maps = self._transform_inputs(inputs)
        queries = maps.movedim(1, -1)
        found = knn_label_shares(
            queries.flatten(0, 2), self._features[0], self._shares[0], self.neighbours, self.temperature
        )
        return found.view(*queries.shape[:3], -1).movedim(-1, 1)

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Refuse: there is nothing to train.

        Raises:
            UserError: Always.
        """
        raise UserError("a kNN probe learns nothing; evaluate it with tools/dense_knn.py")


def _gather(mine: Tensor) -> Tensor:
    """Rows of all processes; they may differ in number."""
    counts = [int(n) for n in all_gather(torch.tensor(len(mine), device=mine.device))]
    padded = F.pad(mine, (0, 0, 0, max(counts) - len(mine)))
    return torch.cat([part[:n] for part, n in zip(all_gather(padded), counts, strict=True)])


@HOOKS.register_module()
class FillMemoryHook(Hook):
    """Encodes training images before a test and lets the head remember some of their patches.

    Args:
        dataloader: Of the training images, with their crops; its sampler must not repeat images
            (``round_up=False``).
        patches: Size of the memory over all images: each gives ``patches // images``, at least one.
    """

    priority = "NORMAL"

    def __init__(self, dataloader: dict[str, Any], patches: int) -> None:
        self.dataloader, self.patches = dataloader, patches
        self.about: dict[str, float] = {}

    @torch.no_grad()
    def before_test(self, runner: Runner) -> None:
        """Fill the memory."""
        model = bare_model(runner)
        model.train(False)
        loader = runner.build_dataloader(self.dataloader, seed=runner.seed)
        images = len(loader.dataset)
        each = max(1, self.patches // images)
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(runner.seed + get_rank())
        for k, batch in enumerate(loader):
            data = model.data_preprocessor(batch, True)  # as in training: padded to one size, with its labels
            labels = torch.cat([s.gt_sem_seg.data for s in data["data_samples"]])
            model.decode_head.remember(model.extract_feat(data["inputs"]), labels, each, generator)
            if k % 50 == 0:
                print_log(f"memory: batch {k + 1} of {len(loader)}", logger="current")
        head = model.decode_head
        size = head.share_memory()
        self.about = {
            "patches": size,
            "images": images,
            "neighbours": head.neighbours,
            "temperature": head.temperature,
        }
        print_log(f"memory: {size} patches of {images} images, {each} of each at most", logger="current")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Put the settings into the record."""
        if metrics is not None:
            metrics["memory"] = self.about
