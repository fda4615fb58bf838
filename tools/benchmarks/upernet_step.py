"""How fast are forward and backward of the UperNet backbone, and how much memory do they need?

    python tools/benchmarks/upernet_step.py [--size 256] [--batch 2] [--arch mini|base]

The baseline is mmseg's ``MAE`` backbone.

Each model has a process of its own, which waits while another works. Measurements alternate, so that whatever else
the machine does hits both alike; ratios are medians over rounds. Peak memory is what torch allocated on a GPU, else
what the process held at most, libraries included. On a CPU ours runs as `tools/train.py` runs it: it keeps freed
memory, and takes oneDNN's matrix products where they are faster; `--plain-cpu` leaves that out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from _alternate import compare, parser, settle
from mmseg.models.backbones import MAE

from cmae_mm.cli import guard
from cmae_mm.transfer.ade20k import CMAEUperNetViT

# width, depth, heads, patch, and the blocks whose maps are used
ARCHS = {"mini": (192, 6, 3, 8, (1, 2, 4, 5)), "base": (768, 12, 12, 16, (3, 5, 7, 11))}


def main(argv: Sequence[str] | None = None) -> int:
    """Build both at one size and time them.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    options.add_argument("--arch", choices=ARCHS, default="mini")
    options.set_defaults(batch=2)
    args = options.parse_args(argv)
    device = settle(args)
    width, depth, heads, patch, indices = ARCHS[args.arch]
    common = dict(img_size=args.size, patch_size=patch, embed_dims=width, num_heads=heads)
    makers = {
        "cmae_mm": lambda: CMAEUperNetViT(
            depth=depth, out_indices=indices, pretrain_img_size=args.size, **common
        ).to(device),
        "mmseg": lambda: MAE(
            num_layers=depth,
            out_indices=list(indices),
            norm_cfg=dict(type="LN", eps=1e-6),
            init_values=1.0,
            **common,
        ).to(device),
    }
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    compare(makers, images, args, sys.argv[1:] if argv is None else argv)
    return 0


if __name__ == "__main__":
    guard(main)
