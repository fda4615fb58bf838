"""The contrast of a whole batch that is computed in parts: gradients cached at the features (GradCache).

Accumulated gradients of small batches are not those of the large one where images are compared: each small batch has
only its own negatives, and its own statistics of batch norm in projector and predictor. Gao et al. 2021 (arXiv
2101.06983, section 3.2) compute the large one exactly, in the memory of a small one:

1. Encode all small batches without gradient and keep their pooled features, (N, C) each.
2. Contrast the features of the whole batch; keep the gradient of the loss at each feature, and at the contrast's
   weights.
3. Encode each small batch again, from the same random numbers, and send its share of those gradients back, together
   with what needs no other image (the reconstruction).

The price is one more forward pass of the encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor

from cmae_mm.engine.random_states import random_state, set_random_state

Features = tuple[Tensor, ...]
"""What a contrast is made of: tensors (N, C_i), one row for each image."""


@dataclass
class CachedGradients:
    """Gradients of a contrast of the whole batch.

    Attributes:
        features: For each of the model's features, the gradient at the rows of one small batch; None where the
            contrast sends none back.
        weights: Gradients of the contrast's parameters, in the order of ``model.contrast_parameters()``.
        count: Small batches of the whole; the optimizer wrapper divides each loss by it.
    """

    features: tuple[Tensor | None, ...]
    weights: tuple[Tensor, ...]
    count: int


def cached_train_step(model: Any, batches: Sequence[Any], optim_wrapper: Any) -> list[dict[str, Tensor]]:
    """Train on small batches as on one large one; the optimizer steps once, after the last.

    Args:
        model: A pretraining model of the suite, or its wrapper for several processes.
        batches: Small batches as the loader gives them.
        optim_wrapper: mmengine's, set to accumulate ``len(batches)`` backward passes.

    Returns:
        What to log of each small batch: its own reconstruction, and the contrast of all.
    """
    bare = model.module if is_model_wrapper(model) else model
    states, parts = [], []
    for batch in batches:
        states.append(random_state())  # for the same masks and dropped paths once more
        with torch.no_grad(), optim_wrapper.optim_context(bare):
            parts.append(bare.contrast_features(bare.data_preprocessor(batch, True)["inputs"]))
    contrast, shares = _gradients(bare, parts, optim_wrapper)
    logs = []
    for batch, state, share in zip(batches, states, shares, strict=True):
        set_random_state(state)
        with optim_wrapper.optim_context(model):
            inputs = bare.data_preprocessor(batch, True)["inputs"]
            losses = model(inputs, data_samples=share, mode="cached")
        optim_wrapper.update_params(losses.pop("surrogate"))
        log = {name: value.detach() for name, value in losses.items()} | contrast
        logs.append(log | {"loss": sum(value for name, value in log.items() if name.startswith("loss"))})
    return logs


def surrogate_loss(
    losses: dict[str, Tensor], features: Features, weights: Sequence[Tensor], share: CachedGradients
) -> Tensor:
    """A scalar whose gradient is that of the small batch's part of the whole loss.

    ``sum_i <f_i, g_i>`` has the gradient ``g_i`` at ``f_i``: the chain rule goes on from there. The parameters of the
    contrast enter in the same way, so that a wrapper for several processes finds each of them used.

    Args:
        losses: Losses that need no other image; those whose name begins with ``loss`` count.
        features: Of this small batch, with gradient.
        weights: ``model.contrast_parameters()``.
        share: The cached gradients.

    Returns:
        The scalar; its value means nothing.
    """
    total = sum((value for name, value in losses.items() if name.startswith("loss")), start=torch.zeros(()))
    # Gradients at features are those of the mean over all images, so a small batch's share is not divided again.
    for feature, grad in zip(features, share.features, strict=False):  # the rest has no gradient
        if grad is not None:
            total = total + share.count * (feature.to(grad.dtype) * grad).sum()
    for weight, grad in zip(weights, share.weights, strict=True):
        total = total + (weight * grad).sum()
    return total


def _gradients(
    model: Any, parts: Sequence[Features], optim_wrapper: Any
) -> tuple[dict[str, Tensor], list[CachedGradients]]:
    """Contrast all features: what to log of it, and each small batch's share of the gradients."""
    whole = [_full_precision(torch.cat(column)).requires_grad_() for column in zip(*parts, strict=True)]
    weights = list(model.contrast_parameters())
    with torch.enable_grad(), optim_wrapper.optim_context(model):
        losses = model.contrast(tuple(whole))
    grads = torch.autograd.grad(losses["loss_con"], [*whole, *weights], allow_unused=True)
    at_features, at_weights = grads[: len(whole)], grads[len(whole) :]
    at_weights = tuple(
        torch.zeros_like(w) if g is None else g for w, g in zip(weights, at_weights, strict=True)
    )
    sizes = [len(part[0]) for part in parts]
    columns = [[None] * len(sizes) if grad is None else grad.split(sizes) for grad in at_features]
    shares = [CachedGradients(row, at_weights, len(sizes)) for row in zip(*columns, strict=True)]
    return {name: value.detach() for name, value in losses.items()}, shares


def _full_precision(features: Tensor) -> Tensor:
    """Autocast gives half precision, in which small gradients would be lost."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
