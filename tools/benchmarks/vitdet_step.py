"""Images a second, forward and backward, of the ViTDet backbone against written-out attention.

    python tools/benchmarks/vitdet_step.py [--size 512] [--batch 1] [--rounds 5] [--arch mini|base]

The baseline is the same network whose attention builds the N x N logits and relative-position bias,
as the reference implementations do. Rounds alternate, so that a busy machine slows both.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

import torch
from _alternate import compare

from cmae_mm.transfer.attention import DecomposedAttention, axis_table
from cmae_mm.transfer.coco import CMAEViTDet

ARCHS = {
    "mini": dict(
        embed_dims=192,
        depth=6,
        num_heads=3,
        patch_size=8,
        pretrain_img_size=64,
        window_blocks=(0, 2, 4),
        window_size=4,
    ),
    "base": dict(embed_dims=768, depth=12, num_heads=12, patch_size=16),
}


class ExplicitAttention(DecomposedAttention):
    """The same attention with every logit written out."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """See the base class."""
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        spatial = q.unflatten(2, grid)
        by_row = torch.einsum("bnhwd,hkd->bnhwk", spatial, axis_table(self.rel_pos_h, grid[0]))
        by_col = torch.einsum("bnhwd,wkd->bnhwk", spatial, axis_table(self.rel_pos_w, grid[1]))
        bias = by_row[..., :, None] + by_col[..., None, :]
        return (logits + bias.flatten(4).flatten(2, 3)).softmax(-1) @ v


def main() -> None:
    """Build both, check that they agree, and time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arch", choices=ARCHS, default="mini")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    ours = CMAEViTDet(img_size=args.size, **ARCHS[args.arch]).to(device)
    baseline = CMAEViTDet(img_size=args.size, **ARCHS[args.arch]).to(device)
    baseline.load_state_dict(ours.state_dict())
    for block in baseline.blocks:
        block.attn.__class__ = ExplicitAttention
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    compare({"cmae_mm ViTDet": ours, "written-out attention": baseline}, images, args.rounds)


if __name__ == "__main__":
    main()
