"""See ``python tools/visualize_pretraining.py --help``."""

from cmae_mm.cli import guard
from cmae_mm.pretrain.pictures import pretraining_main

if __name__ == "__main__":
    guard(pretraining_main)
