"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] ...``."""

from cmae_mm.cli import guard
from cmae_mm.engine.launch import evaluate_main

if __name__ == "__main__":
    guard(evaluate_main)
