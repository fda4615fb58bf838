"""Images a second, forward and backward, of the UperNet backbone against mmseg's ``MAE`` backbone.

    python tools/benchmarks/upernet_step.py [--size 256] [--batch 2] [--rounds 5] [--arch mini|base]

Rounds alternate, so that a busy machine slows both.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

import torch
from _alternate import compare
from mmseg.models.backbones import MAE

from cmae_mm.transfer.ade20k import CMAEUperNetViT

# width, depth, heads, patch, and the blocks whose maps are used
ARCHS = {"mini": (192, 6, 3, 8, (1, 2, 4, 5)), "base": (768, 12, 12, 16, (3, 5, 7, 11))}


def main() -> None:
    """Build both at one size and time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arch", choices=ARCHS, default="mini")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width, depth, heads, patch, indices = ARCHS[args.arch]
    common = dict(img_size=args.size, patch_size=patch, embed_dims=width, num_heads=heads)
    torch.manual_seed(0)
    ours = CMAEUperNetViT(depth=depth, out_indices=indices, pretrain_img_size=args.size, **common).to(device)
    theirs = MAE(
        num_layers=depth,
        out_indices=list(indices),
        norm_cfg=dict(type="LN", eps=1e-6),
        init_values=1.0,
        **common,
    ).to(device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    compare({"cmae_mm UperNet ViT": ours, "mmseg MAE": theirs}, images, args.rounds)


if __name__ == "__main__":
    main()
