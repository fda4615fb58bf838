import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain.masking import block_mask, random_mask

SWEEP = [
    (kind, grid, ratio)
    for kind in ("random", "block")
    for grid in (8, 14, (6, 10), 16)
    for ratio in (0.25, 0.5, 0.65, 0.75)
]


def draw(kind, n, grid, ratio, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (random_mask if kind == "random" else block_mask)(n, grid, ratio, generator=generator)


@pytest.mark.parametrize(("kind", "grid", "ratio"), SWEEP)
def test_a_mask_is_consistent(kind, grid, ratio):
    rows, cols = (grid, grid) if isinstance(grid, int) else grid
    length, block = rows * cols, 1 if kind == "random" else 2
    cells = length // block**2
    ids_keep, ids_restore, mask = draw(kind, 5, grid, ratio)
    kept = int(cells * (1 - ratio)) * block**2
    assert ids_keep.shape == (5, kept)
    assert mask.shape == ids_restore.shape == (5, length)
    assert mask.dtype == torch.float32
    for n in range(5):  # slow oracle from the definition: 1 = removed, ids_keep = the zeros in raster order
        visible = [i for i in range(length) if mask[n, i] == 0]
        hidden = [i for i in range(length) if mask[n, i] == 1]
        assert len(visible) + len(hidden) == length
        assert ids_keep[n].tolist() == visible
        assert torch.tensor(visible + hidden)[ids_restore[n]].tolist() == list(range(length))


def test_released_counts():
    mask = block_mask(3, 14, 0.65)
    assert mask.ids_keep.shape[1] == 68
    assert mask.mask.sum(1).tolist() == [128.0] * 3
    assert block_mask(1, 14, 0.75).ids_keep.shape[1] == 48
    assert random_mask(1, 14, 0.75).ids_keep.shape[1] == 49


@pytest.mark.parametrize("block", [2, 4])
def test_blocks_are_uniform(block):
    mask = block_mask(4, (8, 16), 0.5, block=block).mask
    cells = mask.view(4, 8 // block, block, 16 // block, block).transpose(2, 3).flatten(3)
    assert bool((cells == cells[..., :1]).all())


@pytest.mark.parametrize("kind", ["random", "block"])
def test_every_patch_is_as_likely(kind):
    n = 4000
    mask = draw(kind, n, 8, 0.5).mask
    # standard error of a share of 0.5 over n draws; six of them for 64 patches
    assert (mask.mean(0) - 0.5).abs().max() < 6 * 0.5 / n**0.5


def test_samples_differ_and_seeds_repeat():
    first, second = draw("block", 8, 14, 0.65), draw("block", 8, 14, 0.65)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.mask, draw("block", 8, 14, 0.65, seed=1).mask)
    assert len({tuple(row.tolist()) for row in first.mask}) == 8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: block_mask(1, 7, 0.5), "mask_block"),
        (lambda: random_mask(1, 8, 1.0), "mask_ratio"),
        (lambda: block_mask(1, 2, 0.65), "mask_ratio"),
        (lambda: random_mask(1, 8, 0.0), "mask_ratio"),
    ],
)
def test_mistakes_are_explained(make, words):
    with pytest.raises(UserError, match=words):
        make()
