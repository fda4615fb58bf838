"""Evaluate a frozen encoder by nearest neighbours of patches: ``python tools/dense_knn.py CONFIG --backbone FILE``."""

from cmae_mm.cli import guard
from cmae_mm.engine.launch import probe_main

if __name__ == "__main__":
    guard(probe_main)
