"""Batched views against slow oracles: torchvision's per-image functions, Pillow, plain slicing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

import cmae_mm.compat  # noqa: F401
from cmae_mm.pretrain import views


@pytest.fixture
def images():
    """Six smooth colour images with grey and saturated places, in [0, 255]."""
    coarse = torch.rand(6, 3, 5, 7) * 300 - 20
    images = F.interpolate(coarse, size=(20, 28), mode="bilinear").clamp(0, 255)
    images[0, :, :4] = 128.0  # no hue
    images[1, :, :4] = 0.0
    return images


def torchvision_functional():
    import torchvision.transforms.functional as tvf

    return tvf


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
    offsets = views.draw_offsets(6000, 31)
    assert set(offsets[:, 0].tolist()) == set(offsets[:, 1].tolist()) == set(range(32))
    assert abs(np.corrcoef(offsets.T.numpy())[0, 1]) < 0.08


def test_color_jitter_equals_torchvision_one_by_one(images):
    tvf = torchvision_functional()
    jitter = views.draw_jitter(6, prob=0.7)
    assert 0 < jitter.apply.sum() < 6
    out = views.color_jitter(images, jitter)
    for n in range(6):
        image = images[n] / 255
        for operation in jitter.order[n].tolist() if jitter.apply[n] else []:
            if operation == 0:
                image = tvf.adjust_brightness(image, jitter.brightness[n].item())
            elif operation == 1:
                image = tvf.adjust_contrast(image, jitter.contrast[n].item())
            elif operation == 2:
                image = tvf.adjust_saturation(image, jitter.saturation[n].item())
            else:
                image = tvf.adjust_hue(image, jitter.hue[n].item())
        # torchvision's luma has four digits (0.2989): up to 0.03 levels, doubled by clamps and hue
        torch.testing.assert_close(out[n], image * 255, atol=0.2, rtol=0)


@pytest.mark.parametrize("order", [[3, 0, 1, 2], [0, 3, 1, 2], [2, 1, 3, 0], [1, 0, 2, 3]])
def test_every_place_of_the_hue(images, order):
    tvf = torchvision_functional()
    jitter = views.draw_jitter(6, prob=1.0)._replace(order=torch.tensor([order]).expand(6, 4))
    out = views.color_jitter(images, jitter)
    names = ("brightness", "contrast", "saturation", "hue")
    for n in range(6):
        image = images[n] / 255
        for operation in order:
            change = getattr(tvf, f"adjust_{names[operation]}")
            image = change(image, getattr(jitter, names[operation])[n].item())
        torch.testing.assert_close(out[n], image * 255, atol=0.2, rtol=0)


def test_jitter_left_out_changes_no_bit(images):
    assert torch.equal(views.color_jitter(images, views.draw_jitter(6, prob=0.0)), images)


def test_jitter_draws_in_range():
    jitter = views.draw_jitter(4000, prob=0.8)
    for factor in (jitter.brightness, jitter.contrast, jitter.saturation):
        assert 0.6 <= factor.min() < 0.61
        assert 1.39 < factor.max() <= 1.4
    assert -0.1 <= jitter.hue.min() < -0.099
    assert 0.099 < jitter.hue.max() <= 0.1
    assert abs(jitter.apply.float().mean() - 0.8) < 0.04
    assert len({tuple(row) for row in jitter.order.tolist()}) == 24


def test_a_full_turn_of_the_hue_is_nothing(images):
    torch.testing.assert_close(views.shift_hue(images, torch.ones(6)), images, atol=2e-3, rtol=0)


def test_grayscale(images):
    tvf = torchvision_functional()
    apply = torch.tensor([True, False, True, False, False, True])
    out = views.grayscale(images, apply)
    for n in range(6):
        expected = tvf.rgb_to_grayscale(images[n], 3) if apply[n] else images[n]
        torch.testing.assert_close(out[n], expected, atol=0.03, rtol=0)


def test_blur_equals_one_convolution_per_image(images):
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0, 1.7])
    out = views.gaussian_blur(images, sigma, radius=6)
    for n in range(6):
        if sigma[n] == 0:
            torch.testing.assert_close(out[n], images[n], atol=1e-4, rtol=0)
            continue
        steps = torch.arange(-6, 7).double()
        kernel = torch.exp(-steps.square() / (2 * sigma[n].double() ** 2))
        kernel = (kernel / kernel.sum()).outer(kernel / kernel.sum()).expand(3, 1, 13, 13)
        padded = F.pad(images[n : n + 1].double(), (6, 6, 6, 6), mode="replicate")
        expected = F.conv2d(padded, kernel, groups=3)[0].float()
        torch.testing.assert_close(out[n], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_pillow(images, sigma):
    """Pillow approximates the Gaussian by three boxes and rounds to levels: close, not equal."""
    pixels = images[2].round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
    theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    ours = views.gaussian_blur(pixels[None].float(), torch.tensor([sigma]))[0]
    assert (ours - theirs).abs().mean() < 1.0


def test_seeds_repeat():
    def draw():
        generator = torch.Generator().manual_seed(3)
        return views.draw_jitter(5, generator=generator), views.draw_sigmas(5, (0.1, 2.0), generator)

    for first, second in zip(draw(), draw(), strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
