"""See ``python tools/visualize_views.py --help``."""

from cmae_mm.cli import guard
from cmae_mm.pretrain.pictures import views_main

if __name__ == "__main__":
    guard(views_main)
