"""How fast are forward and backward of the ViTDet backbone with its pyramid, and how much memory do they need?

    python tools/benchmarks/vitdet_step.py                                    # ViT-B: 512 px on a CPU, 1024 px on a GPU
    python tools/benchmarks/vitdet_step.py --threads 1 --clock cpu            # steadier where other programs run
    python tools/benchmarks/vitdet_step.py --device cuda --batch 4

The baseline is a plain version of the same blocks, as detectron2 computes them: windows are padded, every logit and the
relative-position bias are written out, the pyramid uses transposed convolutions and layer norms made of means and
powers. Before timing, maps and gradients of both are compared with the same weights.

Each model has a process of its own, which waits while another works. Measurements alternate, so that whatever else
the machine does hits both alike; ratios are medians over rounds. Peak memory is what torch allocated on a GPU, else
what the process held at most, libraries included. On a CPU ours runs as `tools/train.py` runs it: it keeps freed
memory, and takes oneDNN's matrix products where they are faster; `--plain-cpu` leaves that out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from _alternate import compare, parser, settle

from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.cli import guard
from cmae_mm.errors import UserError
from cmae_mm.transfer.coco import CMAEViTDet
from cmae_mm.transfer.pyramid import ChannelLayerNorm, SimpleFeaturePyramid

OURS, PLAIN = "cmae_mm", "plain"
WINDOWS = (0, 1, 3, 4, 6, 7, 9, 10)
ARCHS: dict[str, dict[str, Any]] = {
    "mini": dict(embed_dims=96, depth=3, num_heads=3, window_blocks=(0, 1), window_size=4),
    "base": dict(embed_dims=768, depth=12, num_heads=12, window_blocks=WINDOWS),
    "large": dict(
        embed_dims=1024,
        depth=24,
        num_heads=16,
        window_blocks=[i for i in range(24) if i % 6 != 5],
    ),
}


class Backbone(nn.Module):
    """The ViT and its pyramid.

    Args:
        arch: Key of ``ARCHS``.
        size: Side of the image in pixels.
    """

    def __init__(self, arch: str, size: int) -> None:
        super().__init__()
        self.vit = CMAEViTDet(img_size=size, **ARCHS[arch])
        self.pyramid = SimpleFeaturePyramid(ARCHS[arch]["embed_dims"], 256)
        for name, param in self.vit.named_parameters():
            if "rel_pos" in name:  # zeros would hide mistakes
                nn.init.normal_(param, std=0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn (B, 3, H, W) into five levels."""
        return self.pyramid(self.vit(images))


class PlainBackbone(Backbone):
    """The oracle: the same parameters, computed the plain way."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn (B, 3, H, W) into five levels."""
        vit = self.vit
        x = vit.patch_embed.proj(images).permute(0, 2, 3, 1)
        grid = (x.shape[1], x.shape[2])
        x = x + resize_pos_embed(vit.pos_embed, grid)[:, 1:].view(1, *grid, -1)
        for block in vit.blocks:
            x = plain_block(block, x)
        x = x.permute(0, 3, 1, 2)
        levels = [plain_branch(branch, x) for branch in self.pyramid.branches]
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


def plain_block(block: nn.Module, x: Tensor) -> Tensor:
    """A block on (B, rows, columns, C); drop path is off."""
    normed, side = block.norm1(x), block.window
    if side:
        (b, rows, cols, c), down, right = x.shape, -x.shape[1] % side, -x.shape[2] % side
        padded = F.pad(normed, (0, 0, 0, right, 0, down))
        shape = (b, (rows + down) // side, side, (cols + right) // side, side, c)
        windows = padded.view(shape).permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, c)
        mixed = plain_attention(block.attn, windows).view(*shape[:2], shape[3], side, side, c)
        mixed = mixed.permute(0, 1, 3, 2, 4, 5).reshape(padded.shape)[:, :rows, :cols].contiguous()
    else:
        mixed = plain_attention(block.attn, normed)
    x = x + mixed
    return x + block.mlp(block.norm2(x))


def plain_attention(attn: nn.Module, x: Tensor) -> Tensor:
    """Attention on (B, rows, columns, C) with an N x N bias."""
    b, rows, cols, c = x.shape
    n, heads = rows * cols, attn.num_heads
    qkv = attn.qkv(x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, b * heads, n, -1).unbind(0)
    logits = (q * attn.head_dim**-0.5) @ k.transpose(-2, -1)
    by_row, by_col = plain_table(attn.rel_pos_h, rows), plain_table(attn.rel_pos_w, cols)
    spatial = q.reshape(b * heads, rows, cols, -1)
    down = torch.einsum("bhwc,hkc->bhwk", spatial, by_row)
    across = torch.einsum("bhwc,wkc->bhwk", spatial, by_col)
    logits = logits.view(-1, rows, cols, rows, cols) + down[..., None] + across[..., None, :]
    mixed = logits.view(-1, n, n).softmax(-1) @ v
    mixed = mixed.view(b, heads, rows, cols, -1).permute(0, 2, 3, 1, 4).reshape(b, rows, cols, c)
    return attn.proj(mixed)


def plain_table(table: Tensor, size: int) -> Tensor:
    """(size, size, D) of a table that fits."""
    places = torch.arange(size)
    return table[(places[:, None] - places[None, :] + size - 1).to(table.device)]


def plain_branch(branch: nn.Sequential, x: Tensor) -> Tensor:
    """A branch of the pyramid, layer by layer."""
    for layer in branch:
        if isinstance(layer, ChannelLayerNorm):
            centred = x - x.mean(1, keepdim=True)
            x = centred / (centred.pow(2).mean(1, keepdim=True) + layer.eps).sqrt()
            x = layer.weight[:, None, None] * x + layer.bias[:, None, None]
        elif isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
        elif isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, None, padding=layer.padding)
        else:
            x = layer(x)
    return x


def check_equal(arch: str, device: torch.device) -> None:
    """Compare maps and gradients of both in float32 on an image whose windows are cut.

    Raises:
        UserError: They differ by more than 1e-4 of the largest value of a tensor.
    """
    size = 16 * (ARCHS[arch].get("window_size", 14) + 2)
    ours, plain = Backbone(arch, size).to(device), PlainBackbone(arch, size).to(device)
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, size, size, device=device)
    found = []
    with torch.no_grad():
        weights = [torch.randn_like(level) for level in ours(images)]  # the square of a norm has no gradient
    for model in (ours, plain):
        levels = model(images)
        sum((level * weight).sum() for level, weight in zip(levels, weights, strict=True)).backward()
        found.append([*levels, *(p.grad for p in model.parameters())])
    worst = max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-12))
        for a, b in zip(*found, strict=True)
    )
    if worst > 1e-4:
        raise UserError(
            f"The two backbones differ by {worst:.1e} of a tensor's largest value: times mean nothing."
        )
    print(f"maps and gradients agree within {worst:.1e} of the largest value of each tensor")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    options = parser(__doc__)
    options.add_argument(
        "--size", type=int, help="side of the image in pixels; default 1024 on a GPU, 512 on a CPU"
    )
    options.add_argument("--arch", choices=ARCHS, default="base")
    args = options.parse_args(argv)
    device = settle(args)
    size = args.size or (1024 if device.type == "cuda" else 512)
    if size % 16:
        raise UserError(f"--size {size}: the plain version needs a multiple of 16.")
    if not args.serve:
        check_equal(args.arch, device)
    images = torch.randn(args.batch, 3, size, size, device=device)
    makers = {
        OURS: lambda: Backbone(args.arch, size).to(device),
        PLAIN: lambda: PlainBackbone(args.arch, size).to(device),
    }
    compare(makers, images, args, sys.argv[1:] if argv is None else argv)
    return 0


if __name__ == "__main__":
    guard(main)
