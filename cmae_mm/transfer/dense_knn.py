"""Label patches by their nearest neighbours in a memory of labelled patches. Pure functions, batched.

The protocol is that of "Towards In-context Scene Understanding" (Hummingbird, arXiv 2306.01667) in the form of its open
reproduction, open-hummingbird-eval: see docs/ade20k_evaluation.md for what agrees and what differs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmae_mm.errors import UserError


def patch_label_shares(labels: Tensor, classes: int, patch: int, ignore_index: int = 255) -> Tensor:
    """Turn label maps into a distribution for each patch.

    Args:
        labels: (B, H, W) integers; sides that the patch does not divide are continued with void, as the encoder pads.
        classes: K.
        patch: Side of a patch in pixels.
        ignore_index: Label of void; labels of K or above count as void too.

    Returns:
        (B, h, w, K) float32: the share of the patch's pixels that each class has. Void has no entry, so that
        the sum is the share of pixels that are labelled.
    """
    height, width = (-(-n // patch) for n in labels.shape[1:])
    void = torch.where((labels == ignore_index) | (labels >= classes), classes, labels.long())
    pads = (0, width * patch - labels.shape[2], 0, height * patch - labels.shape[1])
    void = F.pad(void, pads, value=classes)
    tiles = void.view(len(labels), height, patch, width, patch).transpose(2, 3).flatten(0, 2).flatten(1)
    rows = torch.arange(len(tiles), device=labels.device)[:, None] * (classes + 1)
    counts = torch.bincount((rows + tiles).view(-1), minlength=len(tiles) * (classes + 1))
    shares = counts.view(len(labels), height, width, classes + 1)[..., :classes]
    return shares.float() / patch**2


def choose_patches(
    shares: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose patches of each image for the memory, rare classes first.

    The score of a patch is the sum, over the classes in it, of the number of patches of its image that hold the class,
    times a uniform random number; the lowest scores are chosen. Patches without a label are never chosen.

    Args:
        shares: (B, N, K) label shares of the patches of each image.
        count: How many of each image, at most.
        generator: For the random numbers, on the device of ``shares``.

    Returns:
        (B, min(count, N)) int64 places, and as many booleans: false where an image has too few labelled patches.
    """
    present = (shares > 0).float()
    scores = torch.einsum("bnk,bk->bn", present, present.sum(dim=1))
    draws = torch.rand(scores.shape, generator=generator, device=shares.device)
    labelled = scores > 0
    ranked = torch.where(labelled, scores * draws, torch.inf)
    chosen = ranked.topk(min(count, scores.shape[1]), dim=1, largest=False).indices
    return chosen, labelled.gather(1, chosen)


def knn_label_shares(
    queries: Tensor,
    bank: Tensor,
    shares: Tensor,
    neighbours: int = 30,
    temperature: float = 0.02,
    max_cells: int = 2**24,
) -> Tensor:
    """Predict the label shares of patches by cross-attention to their nearest neighbours.

    For a query q of unit length the neighbours are the k entries of the bank with the largest ``s_i = q . b_i``; the
    prediction is ``sum of softmax(s / temperature)_i * shares_i`` over them. The search is exact.

    Args:
        queries: (Q, C), of any length.
        bank: (M, C), of unit length; queries are brought to its dtype.
        shares: (M, K).
        neighbours: k.
        temperature: Of the softmax.
        max_cells: Similarities held at once.

    Returns:
        (Q, K) float32.

    Raises:
        UserError: If the bank is smaller than k.
    """
    if len(bank) < neighbours:
        raise UserError(
            f"a memory of {len(bank)} patches has no {neighbours} neighbours; give more images or fewer neighbours"
        )
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(queries.float(), dim=1).to(bank.dtype)
        rows = min(len(queries), 1024)  # the labels of the neighbours are gathered: rows * k * K values
        found = [
            _attend(part, bank, shares, neighbours, temperature, max_cells // rows)
            for part in queries.split(rows)
        ]
    return torch.cat(found)


def _attend(
    queries: Tensor, bank: Tensor, shares: Tensor, k: int, temperature: float, columns: int
) -> Tensor:
    """One block of queries; the bank passes by in blocks of columns, of which the best k are kept."""
    best = queries.new_empty(len(queries), 0, dtype=torch.float32)
    place = queries.new_empty(len(queries), 0, dtype=torch.int64)
    columns = max(columns, k)
    for start in range(0, len(bank), columns):
        near = (queries @ bank[start : start + columns].t()).float()
        near, column = near.topk(min(k, near.shape[1]), dim=1)
        best, order = torch.cat((best, near), dim=1).topk(min(k, best.shape[1] + near.shape[1]), dim=1)
        place = torch.cat((place, column + start), dim=1).gather(1, order)
    weights = (best / temperature).softmax(dim=1)
    return torch.einsum("qk,qkc->qc", weights, shares[place].float())
