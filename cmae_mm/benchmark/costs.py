"""Estimates of GPU hours from the figures of a recipe, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmae_mm.benchmark.recipe import Cost

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet-1K."""

SUSTAINED_TFLOPS = 50.0
"""What an A100 is taken to sustain in mixed precision, a sixth of its 312 TFLOPS: an assumption, not a measurement.

ConvMAE's author reports an eighth on another card: MAE, 0.408 s for 8 x 128 images on 8 A6000.
"""


def cost_of(values: Mapping[str, Any], epochs: int | None) -> Cost:
    """Turn the figures of a recipe into an estimate.

    Args:
        values: ``gpu_hours`` as they are, or ``gmacs``: 10^9 multiply-adds of one image, forward and backward, with
            ``images``, how many images the run sees (default: ``epochs`` times ImageNet); ``gpus``, ``seconds``,
            ``basis``.
        epochs: Epochs of ImageNet, where ``images`` is not given.

    Returns:
        The estimate: images x gmacs x 2 / sustained rate of the GPU.
    """
    rest = {key: value for key, value in values.items() if key not in ("gmacs", "images")}
    if "gmacs" not in values:
        return Cost(**rest)
    images = values.get("images", (epochs or 0) * IMAGENET_IMAGES)
    seconds = images * values["gmacs"] * 2e9 / (SUSTAINED_TFLOPS * 1e12)
    basis = values.get("basis") or (
        f"{values['gmacs']:g} G multiply-adds an image at {SUSTAINED_TFLOPS:g} TFLOPS of an A100"
    )
    return Cost(**{**rest, "gpu_hours": seconds / 3600, "basis": basis})
