"""Position tables and input conventions, against independent computations."""

import itertools

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import numpy as np
import pytest
import scipy.interpolate
import torch
from mmpretrain.models.utils import resize_pos_embed as oracle
from mmpretrain.models.utils import resize_relative_position_bias_table
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.optimize import brentq
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.resize import resize_pos_embed, resize_rel_pos_table

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


@pytest.mark.parametrize("source", [(4, 4), (14, 14), (5, 9), (16, 4)])
@pytest.mark.parametrize(("grid", "prefix"), list(itertools.product(GRIDS, (0, 1, 5))))
def test_antialias_equals_timm(source, grid, prefix):
    table = torch.randn(1, prefix + source[0] * source[1], 6, generator=torch.Generator().manual_seed(prefix))
    expected = resample_abs_pos_embed(table, list(grid), list(source), prefix)
    ours = resize_pos_embed(table, grid, prefix, source=source, antialias=True)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_antialias_is_another_filter():
    table = torch.randn(1, 197, 6, generator=torch.Generator().manual_seed(0))
    plain, smooth = (resize_pos_embed(table, (7, 7), antialias=a)[:, 1:] for a in (False, True))
    assert (plain - smooth).abs().max() > 0.5
    assert smooth.std() < 0.8 * plain.std()  # it averages before it drops every second place


@pytest.mark.parametrize("source", [(5, 9), (16, 4), (2, 7)])
@pytest.mark.parametrize("grid", GRIDS)
def test_source_that_is_not_square_equals_mmpretrain(source, grid):
    table = torch.randn(1, 1 + source[0] * source[1], 6, generator=torch.Generator().manual_seed(3))
    expected = oracle(table, source, grid, "bicubic", 1)
    torch.testing.assert_close(resize_pos_embed(table, grid, 1, source), expected, atol=1e-6, rtol=0)


def test_half_precision_comes_back_as_such():
    table = torch.randn(1, 17, 6).to(torch.bfloat16)
    assert resize_pos_embed(table, (7, 3)).dtype == torch.bfloat16


def test_wrong_source_grid_is_an_error():
    with pytest.raises(ValueError, match="16 positions are not a grid of 3x5"):
        resize_pos_embed(torch.zeros(1, 17, 2), (4, 4), source=(3, 5))


WINDOWS = [(14, 14), (7, 7), (24, 24), (4, 6), (32, 20), (2, 2), (3, 9), (1, 5)]


def nodes(old, new):
    """Where the geometric scheme puts the old offsets, with the ratio from a root finder."""

    def reach(q):
        return sum(q**i for i in range(old // 2)) - new // 2

    low, high = 1.01, 1.5
    ratio = low if reach(low) >= 0 else high if reach(high) <= 0 else brentq(reach, low, high, xtol=1e-12)
    half = [sum(ratio**i for i in range(n)) for n in range(1, old // 2 + 1)]
    return [-x for x in reversed(half)] + [0.0] + half


def slow_axis(values, old, new):
    """One line of the table: a not-a-knot cubic read place by place, or the parabola or line of few points."""
    x = nodes(old, new)
    read = CubicSpline(x, values) if old > 3 else np.polynomial.Polynomial.fit(x, values, old - 1)
    return [float(read(min(max(place, x[0]), x[-1]))) for place in range(-(new // 2), new // 2 + 1)]


@pytest.mark.parametrize(("old", "new"), [p for p in itertools.product(WINDOWS, WINDOWS) if p[0] != p[1]])
def test_relative_table_equals_a_slow_evaluation(old, new):
    a, b = ((2 * w[0] - 1, 2 * w[1] - 1) for w in (old, new))
    table = torch.randn(a[0] * a[1] + 3, 2, generator=torch.Generator().manual_seed(a[0]))
    resized = resize_rel_pos_table(table, old, new)
    assert resized.shape == (b[0] * b[1] + 3, 2)
    assert torch.equal(resized[-3:], table[-3:])
    for head in range(2):
        image = table[:-3, head].double().view(a).numpy()
        rows = np.array([slow_axis(row, a[1], b[1]) for row in image])
        expected = np.array([slow_axis(column, a[0], b[0]) for column in rows.T]).T
        scale = max(1.0, float(np.abs(expected).max()))
        found = resized[:-3, head].view(b).numpy()
        # The ratio is found to 1e-6, and the outermost offset is 13 to 31 powers of it away.
        np.testing.assert_allclose(found, expected, atol=3e-4 * scale, rtol=0)


def interp2d(x, y, z, kind):
    """What SciPy's own guide gives for the removed function on a regular grid (the same FITPACK routine)."""
    assert kind == "cubic"
    fitted = RectBivariateSpline(x, y, np.asarray(z).T)
    return lambda new_x, new_y: fitted(new_x, new_y).T


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations((4, 7, 14, 16, 24, 32), 2)))
def test_relative_table_equals_mmpretrain_with_the_removed_function(monkeypatch, old, new):
    monkeypatch.setattr(scipy.interpolate, "interp2d", interp2d, raising=False)
    table = torch.randn((2 * old - 1) ** 2 + 3, 3, generator=torch.Generator().manual_seed(old))
    expected = resize_relative_position_bias_table(2 * old - 1, 2 * new - 1, table[:-3], 3)
    found = resize_rel_pos_table(table, (old, old), (new, new))[:-3]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((7, 5), (12, 9)), ((16, 16), (10, 14))])
def test_relative_table_of_a_plane_equals_timm(old, new):
    """timm reads between the same points linearly, which is exact for a plane."""
    a, b = ((2 * w[0] - 1, 2 * w[1] - 1) for w in (old, new))
    y, x = (torch.tensor(nodes(a[i], b[i])) for i in (0, 1))
    plane = (2.0 + 0.3 * y[:, None] - 0.7 * x[None]).reshape(-1, 1)
    table = torch.cat((plane, torch.ones(3, 1))).float()
    expected = resize_rel_pos_bias_table(table, new, (b[0] * b[1] + 3, 1), old)
    torch.testing.assert_close(resize_rel_pos_table(table, old, new), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("old", [(14, 14), (9, 11)])
@pytest.mark.parametrize("new", [(24, 24), (20, 15), (5, 8)])
def test_relative_table_reproduces_a_smooth_function(old, new):
    """Values of a bicubic at the moved offsets become its values at the new whole offsets."""

    def smooth(y, x):
        return (
            1 + 0.1 * y[:, None] * x[None] - 0.01 * y[:, None] ** 3 + 0.002 * x[None] ** 3 * y[:, None] ** 2
        )

    a, b = ((2 * w[0] - 1, 2 * w[1] - 1) for w in (old, new))
    values = smooth(*(torch.tensor(nodes(a[i], b[i]), dtype=torch.float64) for i in (0, 1)))
    wanted = smooth(*(torch.arange(b[i], dtype=torch.float64) - b[i] // 2 for i in (0, 1)))
    found = resize_rel_pos_table(values.reshape(-1, 1), old, new, extra_rows=0).view(b)
    torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_relative_table_of_the_same_window_is_the_very_table():
    table = torch.randn(27 * 27 + 3, 12)
    assert resize_rel_pos_table(table, (14, 14), (14, 14)) is table


def test_near_offsets_keep_their_meaning():
    """A lone peak at offset (0, 1) stays there; the class rows stay; the dtype stays."""
    table = torch.zeros(27 * 27 + 3, 1, dtype=torch.float16)
    table[13 * 27 + 14] = 1
    table[-3:] = torch.tensor([[1.0], [2.0], [3.0]])
    resized = resize_rel_pos_table(table, (14, 14), (32, 32))
    assert resized.dtype == torch.float16
    assert int(resized[:-3].argmax()) == 31 * 63 + 32
    assert resized[-3:].flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("rows", "extra"), [(729, 3), (732, 0), (731, 3)])
def test_wrong_number_of_rows_is_an_error(rows, extra):
    with pytest.raises(ValueError, match=f"{rows} rows are not a table of 27x27 offsets and {extra}"):
        resize_rel_pos_table(torch.zeros(rows, 2), (14, 14), (7, 7), extra)


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
