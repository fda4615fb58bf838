"""Test a classifier on unusual images: ``python tools/test_robustness.py CONFIG CHECKPOINT ...``."""

from cmae_mm.cli import guard
from cmae_mm.transfer.robustness.command import robustness_main

if __name__ == "__main__":
    guard(robustness_main)
