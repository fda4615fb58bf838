"""mmseg's encoder-decoder with sliding windows that run in batches, and test-time augmentation that keeps one sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from torch import Tensor


class Window(NamedTuple):
    """Where a window lies: ``rows`` and ``columns`` of the image, without its padding."""

    rows: slice
    columns: slice


def windows(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """Lay windows over an image as mmseg does: the last of each row and column ends at the border.

    Args:
        size: Height and width of the image.
        crop: Of a window.
        stride: From one window to the next.

    Returns:
        The windows, row by row; smaller than ``crop`` where the image is.
    """
    starts = [
        [min(i * step, max(side - window, 0)) for i in range(max(-(-(side - window) // step), 0) + 1)]
        for side, window, step in zip(size, crop, stride, strict=True)
    ]
    return [
        Window(slice(top, min(top + crop[0], size[0])), slice(left, min(left + crop[1], size[1])))
        for top in starts[0]
        for left in starts[1]
    ]


@MODELS.register_module()
class BatchedSlideSegmentor(EncoderDecoder):
    """``EncoderDecoder`` whose sliding windows, of all images of a batch, go through the model together.

    A window that the image does not fill is padded with zeros at the right and bottom, as training crops are; mmseg
    hands over smaller windows, which its ViTs refuse. ``test_cfg`` takes ``window_batch`` beside mmseg's fields:
    windows in one forward pass, 8 by default.
    """

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Average the scores of overlapping windows.

        Args:
            inputs: (B, 3, H, W), normalised.
            batch_img_metas: Of each image.

        Returns:
            (B, classes, H, W).
        """
        crop = tuple(self.test_cfg.crop_size)
        size = (inputs.shape[2], inputs.shape[3])
        places = windows(size, crop, tuple(self.test_cfg.stride))
        scores = inputs.new_zeros(len(inputs), self.out_channels, *size)
        counts = inputs.new_zeros(1, 1, *size)
        metas = [{**batch_img_metas[0], "img_shape": torch.Size(crop)}]  # mmseg asks for this very type
        for place, part in self._scores_of(inputs, places, crop, metas):
            scores[:, :, place.rows, place.columns] += part[
                :, :, : place.rows.stop - place.rows.start, : place.columns.stop - place.columns.start
            ]
            counts[:, :, place.rows, place.columns] += 1
        return scores.div_(counts)

    def _scores_of(
        self, inputs: Tensor, places: list[Window], crop: tuple[int, int], metas: list[dict[str, Any]]
    ) -> Iterator[tuple[Window, Tensor]]:
        images = len(inputs)
        step = max(int(self.test_cfg.get("window_batch", 8)) // images, 1)
        for first in range(0, len(places), step):
            chunk = places[first : first + step]
            cut = [_padded(inputs[:, :, place.rows, place.columns], crop) for place in chunk]
            coarse = self.decode_head(self.extract_feat(torch.cat(cut)))
            # Scores at full size, classes x crop x crop, are the largest tensors by far: one window at a time.
            for place, part in zip(chunk, coarse.split(images), strict=True):
                yield place, self.decode_head.predict_by_feat(part, metas)


def _padded(window: Tensor, crop: tuple[int, int]) -> Tensor:
    return F.pad(window, (0, crop[1] - window.shape[3], 0, crop[0] - window.shape[2]))


@MODELS.register_module()
class SummingTTAModel(SegTTAModel):
    """Mean of the class probabilities over scales and flips, of one image after the other.

    mmseg keeps the scores of all variants until the end: 12 times 150 classes at full size. This adds them up.
    """

    def test_step(self, data: Any) -> list[Any]:
        """Predict images from their variants.

        Args:
            data: What the loader gives after ``TestTimeAug``: ``inputs`` and ``data_samples``, for each variant a
                list over images.

        Returns:
            A data sample for each image, with ``pred_sem_seg``.
        """
        variants = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
        sums: list[Tensor] = []
        for variant in variants:
            samples = self.module.test_step(variant)
            for i, sample in enumerate(samples):
                chances = sample.seg_logits.data.softmax(dim=0)
                if i == len(sums):
                    sums.append(chances)
                else:
                    sums[i] += chances
                del sample.seg_logits
        return self._finished(samples, sums, len(variants))

    def _finished(self, samples: Sequence[Any], sums: Sequence[Tensor], count: int) -> list[Any]:
        for sample, total in zip(samples, sums, strict=True):
            total /= count
            sample.seg_logits = PixelData(data=total)
            sample.pred_sem_seg = PixelData(data=total.argmax(dim=0, keepdim=True))
        return list(samples)
