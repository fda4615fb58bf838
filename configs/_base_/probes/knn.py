"""Weighted nearest neighbours as DINO has them: class token, k of 10 to 200, temperature 0.07; headline: k = 20."""

from cmae_mm.transfer.knn_probe import KNNProbe

probe = dict(
    type=KNNProbe,
    parts=["cls-1"],
    neighbours=[10, 20, 100, 200],
    temperatures=[0.07],
    main=20,
    standardize="none",
)
protocol = "IN-KNN"
