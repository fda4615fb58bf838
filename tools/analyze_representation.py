"""Analyse encoders: ``python tools/analyze_representation.py CONFIG --models NAME=FILE ...``."""

from cmae_mm.cli import guard
from cmae_mm.transfer.analysis.command import analysis_main

if __name__ == "__main__":
    guard(analysis_main)
