"""Mean corruption error of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmae_mm.data.corruptions import CORRUPTIONS, EXTRA, GROUPS, SEVERITIES

ALEXNET = {
    "gaussian_noise": (69.528, 82.542, 93.554, 98.138, 99.452),
    "shot_noise": (71.224, 85.108, 93.574, 98.182, 99.146),
    "impulse_noise": (78.374, 89.808, 94.870, 98.720, 99.548),
    "defocus_blur": (65.624, 73.202, 85.036, 91.364, 94.714),
    "glass_blur": (64.308, 75.054, 88.806, 91.622, 93.344),
    "motion_blur": (58.430, 70.048, 82.108, 89.750, 92.638),
    "zoom_blur": (70.008, 76.992, 80.784, 84.198, 87.198),
    "snow": (71.726, 88.392, 86.468, 91.870, 94.952),
    "frost": (61.390, 79.734, 88.790, 89.942, 93.430),
    "fog": (67.474, 76.050, 84.378, 87.260, 94.500),
    "brightness": (45.140, 48.502, 54.048, 62.166, 72.440),
    "contrast": (64.548, 76.150, 88.874, 97.760, 99.270),
    "elastic_transform": (52.596, 70.116, 55.686, 64.076, 80.554),
    "pixelate": (52.218, 54.620, 73.728, 87.092, 91.262),
    "jpeg_compression": (51.002, 54.718, 57.294, 65.458, 74.778),
}
"""Errors (%) of torchvision's AlexNet at severities 1 to 5, on the published 224 px images.

Source: facebookresearch/dinov3, dinov3/eval/metrics/imagenet_c.py; the first 14 also in hendrycks/robustness issue 10.
"""

Errors = Mapping[str, Mapping[int, float]]


def missing_parts(errors: Errors) -> list[str]:
    """What of the 15 corruptions at 5 severities was not measured, as ``name/severity``."""
    return [f"{name}/{s}" for name in CORRUPTIONS for s in SEVERITIES if s not in errors.get(name, {})]


def corruption_scores(errors: Errors, alexnet: bool) -> dict[str, Any]:
    """Summarise errors over corruptions and severities.

    CE = sum over severities of the error / the same of AlexNet, for each corruption; mCE is the mean of the 15 ratios.
    (A ratio of two means is another number.) Where something is missing there is no ``mCE`` but ``mCE_partial``.

    Args:
        errors: Corruption to severity to error in %.
        alexnet: Whether AlexNet's errors are comparable: a classifier of the 1000 ImageNet classes.

    Returns:
        ``mean_error`` of all that was measured of the 15 (with ``_partial`` where some is missing), that of each group
        that is complete, CE of each corruption and mCE in %; ``missing`` where something is.
    """
    measured = [e for name in CORRUPTIONS for e in errors.get(name, {}).values()]
    missing = missing_parts(errors)
    suffix = "_partial" if missing else ""
    scores: dict[str, Any] = {}
    if measured:
        scores[f"mean_error{suffix}"] = sum(measured) / len(measured)
    complete = {
        name: [errors[name][s] for s in SEVERITIES]
        for name in (*CORRUPTIONS, *EXTRA)
        if set(SEVERITIES) <= set(errors.get(name, {}))
    }
    for group, names in GROUPS.items():
        if all(name in complete for name in names):
            scores[f"mean_error_{group}"] = sum(sum(complete[n]) for n in names) / (5 * len(names))
    ratios = (
        {n: 100 * sum(e) / sum(ALEXNET[n]) for n, e in complete.items() if n in ALEXNET} if alexnet else {}
    )
    scores |= {f"CE/{name}": ratio for name, ratio in ratios.items()}
    if ratios:
        scores[f"mCE{suffix}"] = sum(ratios.values()) / len(ratios)
    if missing:
        scores["missing"] = dict.fromkeys(missing, True)
    return scores
