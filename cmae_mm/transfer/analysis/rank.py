"""How many dimensions an encoder uses: RankMe, effective rank and LiDAR."""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(features: Tensor, epsilon: float = 1e-7) -> float:
    """RankMe (Garrido et al., arXiv 2210.02885): exp of the entropy of the singular values of the raw matrix.

    Not centred; epsilon is added to each share. With ``epsilon=0`` this is the effective rank of Roy and Vetterli
    (2007). Compare runs of one method only, as its authors advise.

    Args:
        features: (n, d); the paper takes 25,600 images.
        epsilon: Added to the shares.

    Returns:
        From 1 to min(n, d), a little more with epsilon.
    """
    values = torch.linalg.svdvals(features.double())
    return _exp_entropy(values / values.sum().clamp_min(1e-300) + epsilon)


def covariance_rank(features: Tensor) -> float:
    """Effective rank of the covariance: centred, and with eigenvalues, the squares of singular values.

    Args:
        features: (n, d).

    Returns:
        From 1 to min(n - 1, d).
    """
    x = features.double()
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    return _exp_entropy(values / values.sum().clamp_min(1e-300))


def lidar(views: Tensor, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    """LiDAR (Thilak et al., arXiv 2312.04000): dimensions that tell images apart, relative to those of their views.

    Eigenvalues of Sw^-1/2 Sb Sw^-1/2, with Sb the scatter of the images' means and Sw that of the views around them,
    plus ``delta`` times the identity. More images than dimensions are needed for a number that says something.

    Args:
        views: (n images, q views, d).
        delta: Added to the diagonal of Sw.
        epsilon: Added to the shares.

    Returns:
        From 1 to min(n - 1, d), a little more with epsilon.
    """
    x = views.double()
    images, count, width = x.shape
    means = x.mean(1)
    between = means - means.mean(0)
    within = (x - means[:, None]).flatten(0, 1)
    scatter = within.T @ within / (images * (count - 1))
    scatter = scatter + delta * torch.eye(width, dtype=x.dtype, device=x.device)
    values, vectors = torch.linalg.eigh(scatter)
    whitened = between @ vectors * values.clamp_min(1e-300).rsqrt()
    eigenvalues = torch.linalg.svdvals(whitened).square() / (images - 1)
    return _exp_entropy(eigenvalues / eigenvalues.sum().clamp_min(1e-300) + epsilon)


def _exp_entropy(shares: Tensor) -> float:
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())
