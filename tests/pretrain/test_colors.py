"""Batched colour operations against slow oracles: torchvision's per-image functions on tensors, and Pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

import cmae_mm.compat  # noqa: F401
from cmae_mm.pretrain import colors
from cmae_mm.pretrain.draws import uniforms

NAMES = ("brightness", "contrast", "saturation", "hue")


@pytest.fixture
def images():
    """Six smooth colour images with grey and saturated places, in [0, 255]."""
    coarse = torch.rand(6, 3, 5, 7) * 300 - 20
    images = F.interpolate(coarse, size=(20, 28), mode="bilinear").clamp(0, 255)
    images[0, :, :4] = 128.0  # no hue
    images[1, :, :4] = 0.0
    return images


def tvf():
    import torchvision.transforms.functional as functional

    return functional


def jitter_of(n, seed=0, **strengths):
    return colors.draw_jitter(uniforms(torch.arange(n) + 1000 * seed, 0, colors.JITTER_DRAWS), **strengths)


def only(name, factor, n=1):
    """A jitter that changes one thing."""
    neutral = dict(brightness=torch.ones(n), contrast=torch.ones(n), saturation=torch.ones(n))
    neutral |= dict(hue=torch.zeros(n), order=torch.arange(4).expand(n, 4), apply=torch.ones(n).bool())
    return colors.Jitter(**{**neutral, name: torch.full((n,), factor)})


def as_picture(image):
    return Image.fromarray(image.permute(1, 2, 0).byte().numpy())


def as_tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def test_color_jitter_equals_torchvision_one_by_one(images):
    jitter = jitter_of(6, prob=0.7)
    assert 0 < jitter.apply.sum() < 6
    out = colors.color_jitter(images, jitter)
    for n in range(6):
        image = images[n] / 255
        for operation in jitter.order[n].tolist() if jitter.apply[n] else []:
            change = getattr(tvf(), f"adjust_{NAMES[operation]}")
            image = change(image, getattr(jitter, NAMES[operation])[n].item())
        # torchvision's luma has four digits (0.2989): up to 0.03 levels, doubled by clamps and hue
        torch.testing.assert_close(out[n], image * 255, atol=0.2, rtol=0)


@pytest.mark.parametrize("order", [[3, 0, 1, 2], [0, 3, 1, 2], [2, 1, 3, 0], [1, 0, 2, 3]])
def test_every_place_of_the_hue(images, order):
    jitter = jitter_of(6, prob=1.0)._replace(order=torch.tensor([order]).expand(6, 4))
    out = colors.color_jitter(images, jitter)
    for n in range(6):
        image = images[n] / 255
        for operation in order:
            change = getattr(tvf(), f"adjust_{NAMES[operation]}")
            image = change(image, getattr(jitter, NAMES[operation])[n].item())
        torch.testing.assert_close(out[n], image * 255, atol=0.2, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.4])
@pytest.mark.parametrize("name", NAMES[:3])
def test_blends_equal_pillow(images, name, factor):
    """Pillow rounds the mean or the grey, then the blend: 0.5 + 0.5 * |1 - factor| levels, plus its luma's 16 bits."""
    images = images.round()
    out = colors.color_jitter(images, only(name, factor, 6))
    for n in range(6):
        theirs = as_tensor(getattr(tvf(), f"adjust_{name}")(as_picture(images[n]), factor))
        assert (out[n] - theirs).abs().max() <= 1.01 + 0.5 * abs(1 - factor)
        assert (out[n] - theirs).abs().mean() < 0.65


@pytest.mark.parametrize("turns", [-0.1, -0.03, 0.05, 0.1])
def test_hue_equals_pillow(images, turns):
    """Pillow rounds hue and shift down to 1/256 turn, 6 levels of a full colour each, and saturation to 8 bits."""
    images = images.round()
    out = colors.shift_hue(images, torch.full((6,), turns))
    for n in range(6):
        theirs = as_tensor(tvf().adjust_hue(as_picture(images[n]), turns))
        assert (out[n] - theirs).abs().max() <= 16
        assert (out[n] - theirs).abs().mean() < 2


def test_jitter_left_out_changes_no_bit(images):
    assert torch.equal(colors.color_jitter(images, jitter_of(6, prob=0.0)), images)


def test_the_input_is_left_as_it_was(images):
    before = images.clone()
    colors.color_jitter(images, jitter_of(6, prob=1.0))
    colors.gaussian_blur(colors.grayscale(images, torch.ones(6).bool()), torch.ones(6))
    assert torch.equal(images, before)


def test_jitter_draws():
    n = 20_000
    jitter = jitter_of(n, prob=0.8)
    assert jitter.hue.abs().max() <= 0.1
    for factor, middle, strength in zip(jitter, (1, 1, 1, 0), (0.4, 0.4, 0.4, 0.1), strict=False):
        unit = ((factor - middle) / strength).double()
        assert -1 <= unit.min() < -0.99
        assert 0.99 < unit.max() <= 1
        # uniform in [-1, 1]: mean 0 and variance 1/3; six standard errors
        assert abs(unit.mean()) < 6 * (1 / 3 / n) ** 0.5
        assert abs(unit.square().mean() - 1 / 3) < 6 * (4 / 45 / n) ** 0.5
    table = np.corrcoef(torch.stack([*jitter[:4], jitter.apply.float(), jitter.order[:, 0].float()]).numpy())
    assert np.abs(table - np.eye(6)).max() < 6 / n**0.5
    assert abs(jitter.apply.float().mean() - 0.8) < 6 * (0.16 / n) ** 0.5
    orders = {}
    for row in jitter.order.tolist():
        orders[tuple(row)] = orders.get(tuple(row), 0) + 1
    assert len(orders) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    expected = n / 24  # chi-square with 23 degrees of freedom: above 80 with probability 3e-8
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 80


def test_a_strength_above_one_stops_at_zero():
    jitter = jitter_of(5000, brightness=1.5)
    assert 0 <= jitter.brightness.min() < 0.01
    assert 2.49 < jitter.brightness.max() <= 2.5


def test_sigma_draws():
    sigma = colors.draw_sigmas(uniforms(torch.arange(20_000), 5, 1)[:, 0], (0.1, 2.0))
    assert 0.1 <= sigma.min() < 0.101
    assert 1.999 < sigma.max() <= 2.0
    assert abs(sigma.mean() - 1.05) < 6 * 1.9 / 12**0.5 / 20_000**0.5


def test_a_full_turn_of_the_hue_is_nothing(images):
    torch.testing.assert_close(colors.shift_hue(images, torch.ones(6)), images, atol=2e-3, rtol=0)


def test_grayscale(images):
    apply = torch.tensor([True, False, True, False, False, True])
    images = images.round()
    out = colors.grayscale(images, apply)
    for n in range(6):
        expected = tvf().rgb_to_grayscale(images[n], 3) if apply[n] else images[n]
        torch.testing.assert_close(out[n], expected, atol=0.03, rtol=0)
        if apply[n]:  # Pillow rounds to the nearest level
            theirs = as_tensor(tvf().to_grayscale(as_picture(images[n]), 3))
            assert (out[n] - theirs).abs().max() <= 0.51
        else:
            assert torch.equal(out[n], images[n])


@pytest.mark.parametrize(("size", "radius"), [((20, 28), 6), ((5, 3), 6), ((1, 9), 2), ((16, 16), 1)])
def test_blur_equals_one_convolution_per_image(size, radius):
    images = torch.rand(6, 3, *size) * 255
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0, 1.7])
    out = colors.gaussian_blur(images, sigma, radius)
    for n in range(6):
        if sigma[n] == 0:
            torch.testing.assert_close(out[n], images[n], atol=1e-4, rtol=0)
            continue
        steps = torch.arange(-radius, radius + 1).double()
        kernel = torch.exp(-steps.square() / (2 * sigma[n].double() ** 2))
        kernel = (kernel / kernel.sum()).outer(kernel / kernel.sum()).expand(3, 1, -1, -1)
        padded = F.pad(images[n : n + 1].double(), (radius,) * 4, mode="replicate")
        expected = F.conv2d(padded, kernel, groups=3)[0].float()
        torch.testing.assert_close(out[n], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_pillow(images, sigma):
    """Pillow approximates the Gaussian by three boxes and rounds to levels: close, not equal."""
    pixels = images.round()
    ours = colors.gaussian_blur(pixels, torch.full((6,), sigma))
    for n in range(6):
        theirs = as_tensor(as_picture(pixels[n]).filter(ImageFilter.GaussianBlur(sigma)))
        assert (ours[n] - theirs).abs().mean() < 1.0
