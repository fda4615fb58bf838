"""Batched windows, crops and flips against slow oracles: plain slicing, torchvision, Pillow and torch's own resize."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import cmae_mm.compat  # noqa: F401
from cmae_mm.pretrain import views
from cmae_mm.pretrain.draws import uniforms


def draws(n, count, stream=0):
    return uniforms(torch.arange(n), stream, count)


def test_shift_crop_equals_slicing():
    master = torch.randint(0, 256, (7, 3, 40, 44), dtype=torch.uint8)
    offsets = torch.stack([torch.randint(0, 9, (7,)), torch.randint(0, 13, (7,))], 1)
    out = views.shift_crop(master, offsets, 32)
    assert out.dtype == torch.uint8
    for n, (top, left) in enumerate(offsets.tolist()):
        assert torch.equal(out[n], master[n, :, top : top + 32, left : left + 32])


def test_shift_crop_takes_any_memory_layout():
    master = torch.randn(3, 3, 12, 12).to(memory_format=torch.channels_last)
    out = views.shift_crop(master, torch.tensor([[0, 0], [4, 0], [0, 4]]), 8)
    assert torch.equal(out[1], master[1, :, 4:, :8])
    assert torch.equal(out[2], master[2, :, :8, 4:])


def test_offsets_cover_both_ends_independently():
    """32 x 32 cells of 100,000 pairs: 1023 degrees of freedom, mean 1023, deviation 45; seven of them."""
    offsets = views.draw_offsets(draws(100_000, 2), 31)
    assert offsets.dtype == torch.int64
    cells = torch.bincount(offsets[:, 0] * 32 + offsets[:, 1], minlength=1024).double()
    assert len(cells) == 1024
    expected = 100_000 / 1024
    assert abs(((cells - expected) ** 2 / expected).sum() - 1023) < 7 * 45
    assert abs(np.corrcoef(offsets.T.numpy())[0, 1]) < 6 / 100_000**0.5


def test_the_largest_uniform_gives_the_largest_offset():
    largest = torch.full((1, 2), 1 - 2.0**-24)
    for max_shift in range(2000):
        assert views.draw_offsets(largest, max_shift).tolist() == [[max_shift, max_shift]]
    assert views.draw_offsets(torch.zeros(1, 2), 31).tolist() == [[0, 0]]


def test_coins():
    u = draws(50_000, 1)[:, 0]
    assert not views.draw_coins(u, 0.0).any()
    assert views.draw_coins(u, 1.0).all()
    assert abs(views.draw_coins(u, 0.3).float().mean() - 0.3) < 6 * (0.21 / 50_000) ** 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_hflip(dtype):
    images = torch.randint(0, 256, (4, 3, 5, 6)).to(dtype)
    apply = torch.tensor([True, False, False, True])
    out = views.hflip(images, apply)
    assert out.dtype == dtype
    for n in range(4):
        expected = [list(reversed(row)) if apply[n] else row for row in images[n].flatten(0, 1).tolist()]
        assert out[n].flatten(0, 1).tolist() == expected


def crop_slowly(u, aspect, scale, ratio):
    """torchvision's rule for one image of height 1 and width ``aspect``, with numbers given."""
    for area, form in zip(u[:10], u[10:20], strict=True):
        target = (scale[0] + (scale[1] - scale[0]) * area) * aspect
        shape = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * form)
        width, height = math.sqrt(target * shape), math.sqrt(target / shape)
        if width <= aspect and height <= 1:
            return [u[20] * (1 - height), u[21] * (aspect - width) / aspect, height, width / aspect], True
    width, height = aspect, 1.0
    if aspect < ratio[0]:
        height = width / ratio[0]
    elif aspect > ratio[1]:
        width = height * ratio[1]
    return [(1 - height) / 2, (aspect - width) / 2 / aspect, height, width / aspect], False


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.5), (0.9, 1.0)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (0.5, 0.9)])
def test_crops_equal_the_loop(scale, ratio):
    aspect = torch.cat([draws(200, 1, 7)[:, 0] * 3 + 0.3, torch.tensor([0.1, 1.0, 3 / 4, 4 / 3, 8.0])])
    u = draws(len(aspect), views.CROP_DRAWS)
    boxes = views.draw_crops(u, aspect, scale, ratio)
    fallbacks = 0
    for n, row in enumerate(u.double().tolist()):
        expected, drawn = crop_slowly(row, aspect[n].item(), scale, ratio)
        fallbacks += not drawn
        torch.testing.assert_close(boxes[n], torch.tensor(expected), atol=2e-6, rtol=0)
    assert fallbacks > 0
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6).all()


@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 0.6, 5.0])
def test_crops_are_distributed_as_torchvisions(aspect):
    """Kolmogorov-Smirnov on 4,000 and 4,000 boxes: 0.062 apart by chance with probability 4e-7."""
    from torchvision.transforms import RandomResizedCrop

    height = 3000  # so large that torchvision's rounding to pixels does not matter
    width = round(height * aspect)
    picture = torch.empty(1, height, width)
    theirs = [RandomResizedCrop.get_params(picture, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = torch.tensor(theirs).double() / torch.tensor([height, width, height, width])
    ours = views.draw_crops(draws(4000, views.CROP_DRAWS), torch.full((4000,), aspect)).double()
    # fallback boxes are one atom: the grid of torchvision is 1/3000 wide, so compare with that slack
    for mine, other in zip(ours.unbind(1), theirs.unbind(1), strict=True):
        points = torch.linspace(0, 1, 200, dtype=torch.float64) + 1e-3
        gap = (mine[:, None] <= points).double().mean(0) - (other[:, None] <= points).double().mean(0)
        assert gap.abs().max() < 0.062


def test_crops_of_samples_are_independent():
    boxes = views.draw_crops(draws(20_000, views.CROP_DRAWS), torch.ones(20_000))
    free = (boxes[:, :2] / (1 - boxes[:, 2:]).clamp_min(1e-6)).numpy()  # the place, uniform in [0, 1]
    assert abs(np.corrcoef(free.T)[0, 1]) < 6 / 20_000**0.5
    assert abs(np.corrcoef(free[:-1, 0], free[1:, 0])[0, 1]) < 6 / 20_000**0.5
    sides = boxes[:, 2:].numpy()
    assert abs(np.corrcoef(sides[:-1, 0], sides[1:, 0])[0, 1]) < 6 / 20_000**0.5


def smooth(n, height, width, low=40, high=215):
    coarse = torch.rand(n, 3, 4 + height // 8, 4 + width // 8) * (high - low) + low
    return F.interpolate(coarse, size=(height, width), mode="bilinear").round()


BOXES = torch.tensor(
    [
        [0.0, 0.0, 1.0, 1.0],
        [0.1, 0.25, 0.5, 0.7],
        [0.313, 0.071, 0.447, 0.613],
        [0.6, 0.0, 0.4, 0.2],
        [0.45, 0.4, 0.1, 0.55],
    ]
)


@pytest.mark.parametrize("content", ["smooth", "noise", "edges"])
@pytest.mark.parametrize(("shape", "size"), [((40, 40), 64), ((72, 72), 64), ((90, 61), 24), ((33, 70), 7)])
def test_resized_crop_equals_pillow(shape, size, content):
    """Pillow rounds between its two passes: 0.5 level, widened by the cubic's negative weights to 0.63 at most."""
    images = {
        "smooth": smooth(5, *shape),
        "noise": torch.randint(0, 256, (5, 3, *shape)).float(),
        "edges": torch.randint(0, 2, (5, 3, *shape)).float() * 255,
    }[content]
    out = views.resized_crop(images.byte(), BOXES, size)
    height, width = shape
    for n, (top, left, tall, wide) in enumerate(BOXES.double().tolist()):
        box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
        box = [max(0.0, min(edge, limit)) for edge, limit in zip(box, (width, height) * 2, strict=True)]
        picture = Image.fromarray(images[n].byte().permute(1, 2, 0).numpy())
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
        theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        assert (out[n].round() - theirs).abs().max() <= 1
        assert (out[n] - theirs).abs().max() < 0.5 + 0.65
        assert (out[n] - theirs).abs().mean() < 0.5


@pytest.mark.parametrize("size", [5, 16, 31, 48, 96, 224])
@pytest.mark.parametrize("side", [24, 48, 71])
def test_whole_image_equals_torch(side, size):
    images = smooth(2, side, side)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    expected = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    torch.testing.assert_close(views.resized_crop(images, whole, size), expected, atol=2e-3, rtol=0)


def test_a_box_of_its_own_size_is_a_slice():
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 16, 16], [5, 7, 16, 16], [16, 32, 16, 16]]) / torch.tensor([32, 48, 32, 48])
    out = views.resized_crop(images, boxes, 16)
    for n, (top, left) in enumerate([(0, 0), (5, 7), (16, 32)]):
        expected = images[n, :, top : top + 16, left : left + 16].float()
        torch.testing.assert_close(out[n], expected, atol=1e-3, rtol=0)


def test_a_squashed_master_gives_the_crop_of_the_original():
    """Crop and resize after squashing to 128 x 128 look as the crop from the original, up to the lost detail."""
    original = smooth(4, 96, 192)
    picture = [Image.fromarray(image.byte().permute(1, 2, 0).numpy()) for image in original]
    squashed = np.stack([np.array(p.resize((128, 128), Image.Resampling.BICUBIC)) for p in picture])
    master = torch.from_numpy(squashed).permute(0, 3, 1, 2)
    boxes = views.draw_crops(draws(4, views.CROP_DRAWS), torch.full((4,), 2.0))
    real = boxes * torch.tensor([96, 192, 96, 192])
    assert (real[:, 3] / real[:, 2]).min() > 3 / 4 - 1e-5
    assert (real[:, 3] / real[:, 2]).max() < 4 / 3 + 1e-5
    difference = views.resized_crop(master, boxes, 48) - views.resized_crop(original, boxes, 48)
    assert difference.abs().mean() < 1.0


def test_weights_sum_to_one_and_overshoot_is_cut():
    matrix = views.resize_matrix(torch.tensor([0.0, 3.3]), torch.tensor([10.0, 6.7]), 10, 23)
    torch.testing.assert_close(matrix.sum(1), torch.ones(2, 23))
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = 255
    out = views.resized_crop(images, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 29)
    assert (out.min(), out.max()) == (0, 255)


def test_normalize():
    mean, std = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([2.0, 4, 8]).view(3, 1, 1)
    images = torch.randint(0, 256, (2, 3, 4, 5)).float()
    out = views.normalize(images, mean, std)
    for c in range(3):
        assert torch.equal(out[:, c], (images[:, c] - (c + 1)) / 2 ** (c + 1))
