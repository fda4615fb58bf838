"""Train a config: ``python tools/train.py CONFIG [--work-dir DIR] [--backbone FILE] ...``."""

from cmae_mm.cli import guard
from cmae_mm.engine.launch import train_main

if __name__ == "__main__":
    guard(train_main)
