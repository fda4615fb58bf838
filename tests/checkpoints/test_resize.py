"""Position tables and input conventions, against independent computations."""

import itertools

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import pytest
import torch
from mmpretrain.models.utils import resize_pos_embed as oracle

from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.resize import resize_pos_embed

GRIDS = [(4, 4), (8, 8), (14, 14), (5, 9), (16, 4), (1, 1)]


@pytest.mark.parametrize(("side", "grid", "prefix"), list(itertools.product((4, 8, 14), GRIDS, (0, 1, 2))))
def test_equals_mmpretrain(side, grid, prefix):
    table = torch.randn(1, prefix + side * side, 6, generator=torch.Generator().manual_seed(side))
    expected = oracle(table, (side, side), grid, "bicubic", prefix)
    torch.testing.assert_close(resize_pos_embed(table, grid, prefix), expected, atol=1e-6, rtol=0)


def test_same_grid_gives_the_very_table_and_prefix_rows_stay():
    table = torch.randn(1, 17, 6)
    assert resize_pos_embed(table, (4, 4)) is table
    assert torch.equal(resize_pos_embed(table, (7, 3))[:, :1], table[:, :1])


def test_not_square_is_an_error():
    with pytest.raises(ValueError, match="13 positions are not a square grid"):
        resize_pos_embed(torch.zeros(1, 14, 2), (4, 4))


def tokens(state, image):
    """The stem in float64: convolution with stride = patch."""
    weight, bias = (state[f"patch_embed.proj.{k}"].double() for k in ("weight", "bias"))
    return torch.nn.functional.conv2d(image, weight, bias, stride=8)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ((10.0, 20.0, 40.0), (1.0, 2.0, 4.0)),
    ],
)
def test_folded_stem_gives_the_same_tokens(make_encoder, order, mean, std):
    state, header = make_encoder(channel_order=order, mean=mean, std=std)
    rgb = 255 * torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def normalised(image, mean, std):
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
        return (image - mean) / std

    as_trained = normalised(rgb.flip(1) if order == "bgr" else rgb, mean, std)
    as_transfer = normalised(rgb, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    folded = fold_input(state, header)
    expected = tokens(state, as_trained)
    scale = float(expected.abs().max())
    torch.testing.assert_close(tokens(folded, as_transfer), expected, atol=1e-5 * max(scale, 1), rtol=0)
    unchanged = order == "rgb" and mean[0] == 123.675
    assert (folded is state) == unchanged
    if not unchanged:  # the oracle can fail
        assert (tokens(state, as_transfer) - expected).abs().max() > 1e-2
