"""See ``python tools/visualize_segmentation.py --help``."""

from cmae_mm.cli import guard
from cmae_mm.transfer.segmentation_pictures import segmentations_main

if __name__ == "__main__":
    guard(segmentations_main)
