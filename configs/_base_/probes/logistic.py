"""Logistic regression as DINOv2 has it: C of 45 values from 1e-6 to 1e5, chosen on 10 % of the training images.

Short side 224 (not 256), centre 224. Needs features in float64: 1,281,167 x 768 x 8 bytes = 7.9 GB, and many hours of a
CPU for all of ImageNet; with few labels it takes minutes (subset.take=1%).
"""

from cmae_mm.transfer.logistic_probe import LogisticProbe

probe = dict(
    type=LogisticProbe,
    parts=["cls-1"],
    strengths=[10 ** (-6 + 11 * n / 44) for n in range(45)],
    max_iter=1000,
    tolerance=1e-12,
    share=0.1,
)
protocol = "IN-LOGREG"
