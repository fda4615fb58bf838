"""See ``python tools/visualize_detections.py --help``."""

from cmae_mm.cli import guard
from cmae_mm.transfer.detection_pictures import detections_main

if __name__ == "__main__":
    guard(detections_main)
