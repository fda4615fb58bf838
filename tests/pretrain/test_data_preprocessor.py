"""From masters to views: what the official pipeline does, what a key decides, and mistakes of the user."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from cmae_mm.errors import UserError
from cmae_mm.pretrain import colors, views
from cmae_mm.pretrain.data_preprocessor import (
    CMAEDataPreprocessor,
    MultiViewDataPreprocessor,
    SingleViewDataPreprocessor,
)
from cmae_mm.pretrain.draws import Stream, uniforms
from cmae_mm.pretrain.view_preprocessor import IMAGENET_MEAN, IMAGENET_STD

SMALL = dict(size=64, max_shift=7)
PLAIN = dict(SMALL, color_on="none", flip_prob=0.0)


def normalized(images):
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return (images.float() - mean) / std


def masters(n=4, side=72, width=None):
    return torch.randint(0, 256, (n, 3, side, width or side), dtype=torch.uint8)


def keys(n, start=0):
    return torch.arange(start, start + n) * 2**33 + 5


def draw(n, stream, view, count):
    return uniforms(keys(n), stream.of(view), count)


# CMAE


@pytest.mark.parametrize(
    ("order", "expected"), [("bgr", (-1.26, -0.285, 1.68)), ("rgb", (1.307, -0.285, -0.933))]
)
def test_constant_colour(order, expected):
    """(R, G, B) = (200, 100, 50) came out of the official pipeline as (-1.26, -0.285, 1.68)."""
    bgr = torch.tensor([50, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 72, 72)
    for spatial in ("shift", "crop"):
        pre = CMAEDataPreprocessor(**SMALL, spatial=spatial, channel_order=order, color_on="none")
        for view in pre({"inputs": bgr}, training=True)["inputs"]:
            assert view.shape == (2, 3, 64, 64)
            torch.testing.assert_close(view[0, :, 5, 5], torch.tensor(expected), atol=5e-3, rtol=0)
        assert pre.to_pixels(view)[0, :, 3, 3].tolist() == [200, 100, 50]


def test_online_view_is_the_plain_corner():
    pre = CMAEDataPreprocessor(**SMALL, flip_prob=0.0)
    master = masters()
    out = pre({"inputs": master, "data_samples": ["a", "b", "c", "d"]}, True)
    assert torch.equal(out["inputs"][0], normalized(master[..., :64, :64]))
    assert out["data_samples"] == ["a", "b", "c", "d"]
    assert set(out) == {"inputs", "data_samples"}


@pytest.mark.parametrize("online_shift", [0, 3])
@pytest.mark.parametrize("flip", ["before", "after"])
def test_shift_and_flip_in_either_order(flip, online_shift):
    """Slices and mirrors of NumPy, with the draws of each sample's key."""
    pre = CMAEDataPreprocessor(**SMALL, online_shift=online_shift, flip=flip, color_on="none", capture=True)
    master, n = masters(24), 24
    out = pre({"inputs": master, "draw_key": keys(n)}, True)["inputs"]
    mirrored = (draw(n, Stream.FLIP, 0, 1)[:, 0] < 0.5).tolist()
    assert 0 < sum(mirrored) < n
    for view, (result, limit) in enumerate(zip(out, (online_shift, 7), strict=True), start=1):
        offsets = (draw(n, Stream.SHIFT, view, 2) * (limit + 1)).long().tolist()
        for i, (top, left) in enumerate(offsets):
            image = master[i].numpy()
            if flip == "before" and mirrored[i]:
                image = image[:, :, ::-1]
            image = image[:, top : top + 64, left : left + 64]
            if flip == "after" and mirrored[i]:
                image = image[:, :, ::-1]
            assert torch.equal(result[i], normalized(torch.from_numpy(image.copy())))
    assert torch.equal(pre.captured.master, master)
    assert torch.equal(pre.captured.keys, keys(n))
    assert all(torch.equal(a, b) for a, b in zip(pre.captured.views, out, strict=True))


def test_the_target_has_the_colours_of_its_key():
    pre = CMAEDataPreprocessor(**SMALL, flip_prob=0.0, channel_order="rgb")
    master, n = masters(16), 16
    img, img_t = pre({"inputs": master, "draw_key": keys(n)}, True)["inputs"]
    assert torch.equal(img, normalized(master[..., :64, :64].flip(1)))
    window = views.shift_crop(master.flip(1), (draw(n, Stream.SHIFT, 2, 2) * 8).long(), 64).float()
    window = colors.color_jitter(window, colors.draw_jitter(draw(n, Stream.JITTER, 2, 9)))
    window = colors.grayscale(window, draw(n, Stream.GRAY, 2, 1)[:, 0] < 0.2)
    u = draw(n, Stream.BLUR, 2, 2)
    window = colors.gaussian_blur(window, (0.1 + 1.9 * u[:, 0]) * (u[:, 1] < 0.5))
    torch.testing.assert_close(img_t, normalized(window), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("color_on", "changed"),
    [("target", (0, 1)), ("online", (1, 0)), ("both", (1, 1)), ("none", (0, 0))],
)
def test_which_view_gets_colours(color_on, changed):
    strong = dict(color_jitter=dict(prob=1.0), flip_prob=0.0, color_on=color_on)
    pre = CMAEDataPreprocessor(size=64, max_shift=0, **strong)
    master = masters(16)
    out = pre({"inputs": master, "draw_key": keys(16)}, True)["inputs"]
    for view, is_changed in zip(out, changed, strict=True):
        difference = (view - normalized(master[..., :64, :64])).abs().amax((1, 2, 3))
        assert bool((difference > 0.05).all() if is_changed else (difference == 0).all())
    if color_on == "both":  # each view its own draw
        assert bool(((out[0] - out[1]).abs().amax((1, 2, 3)) > 0.05).all())


def test_a_probability_of_zero_leaves_the_other_draws_alone():
    """Leaving an operation out must not move the draws of the others."""
    master, batch = masters(8), dict(draw_key=keys(8))
    off = dict(color_jitter=dict(prob=0.0), blur_prob=0.0, flip_prob=0.0)
    grey = CMAEDataPreprocessor(**SMALL, **off, gray_prob=0.5)({"inputs": master, **batch}, True)["inputs"][1]
    plain = CMAEDataPreprocessor(**PLAIN)({"inputs": master, **batch}, True)["inputs"][1]
    chosen = draw(8, Stream.GRAY, 2, 1)[:, 0] < 0.5
    assert 0 < chosen.sum() < 8
    assert torch.equal((grey == plain).all(dim=(1, 2, 3)), ~chosen)


def test_crops_instead_of_shifts():
    """Each view by its own box of the flipped master."""
    pre = CMAEDataPreprocessor(size=32, spatial="crop", color_on="none", crop_scale=(0.3, 0.6))
    master, n = masters(12, 48, 60), 12
    out = pre({"inputs": master, "draw_key": keys(n)}, True)["inputs"]
    flipped = views.hflip(master, draw(n, Stream.FLIP, 0, 1)[:, 0] < 0.5)
    for view, result in enumerate(out, start=1):
        boxes = views.draw_crops(draw(n, Stream.CROP, view, 22), torch.full((n,), 60 / 48), (0.3, 0.6))
        area = boxes[:, 2] * boxes[:, 3]
        assert 0.3 <= area.min() < area.max() <= 0.6
        assert torch.equal(result, normalized(views.resized_crop(flipped, boxes, 32)))
    assert not torch.equal(out[0], out[1])


# Multi-View MAE and MAE


@pytest.mark.parametrize("aspect", [None, 2.5])
def test_two_views_are_two_crops_and_two_flips(aspect):
    pre = MultiViewDataPreprocessor(size=32)
    master, n = masters(32, 40), 32
    batch = {"inputs": master, "draw_key": keys(n)} | ({"aspect": torch.full((n,), aspect)} if aspect else {})
    out = pre(batch, True)["inputs"]
    coins = []
    for view, result in enumerate(out, start=1):
        coins.append(draw(n, Stream.FLIP, view, 1)[:, 0] < 0.5)
        boxes = views.draw_crops(draw(n, Stream.CROP, view, 22), torch.full((n,), aspect or 1.0))
        expected = views.hflip(views.resized_crop(master.flip(1), boxes, 32), coins[-1])
        assert torch.equal(result, normalized(expected))
    assert 0 < (coins[0] == coins[1]).sum() < n  # the flips are two


def test_one_target_is_one_crop_given_twice():
    batch = {"inputs": masters(), "draw_key": keys(4)}
    first, second = MultiViewDataPreprocessor(size=32, two_targets=False)(batch, True)["inputs"]
    assert first is second
    assert torch.equal(first, MultiViewDataPreprocessor(size=32)(batch, True)["inputs"][0])


def test_a_single_view_is_one_tensor():
    pre = SingleViewDataPreprocessor(size=64)
    master, n = masters(16, 64), 16
    out = pre({"inputs": master, "draw_key": keys(n)}, True)["inputs"]
    flips = draw(n, Stream.FLIP, 1, 1)[:, 0] < 0.5
    for i in range(n):
        image = np.ascontiguousarray(
            master[i].numpy()[::-1, :, ::-1] if flips[i] else master[i].numpy()[::-1]
        )
        assert torch.equal(out[i], normalized(torch.from_numpy(image)))


# What all have


def every_preprocessor():
    return [
        CMAEDataPreprocessor(**SMALL),
        CMAEDataPreprocessor(**SMALL, flip="after", online_shift=3, color_on="both", channel_order="rgb"),
        CMAEDataPreprocessor(size=64, spatial="crop", color_on="both"),
        CMAEDataPreprocessor(size=224, max_shift=31),
        MultiViewDataPreprocessor(size=64),
        MultiViewDataPreprocessor(size=64, two_targets=False),
        SingleViewDataPreprocessor(size=72),
    ]


def as_list(inputs):
    return [inputs] if torch.is_tensor(inputs) else inputs


@pytest.mark.parametrize("which", range(7))
def test_a_key_decides_whatever_the_batch(which):
    """Bit for bit: alone, in another order, in another batch, in another process or thread count."""
    pre = every_preprocessor()[which]
    n = 9
    master, key = masters(n, 256 if pre.size == 224 else 72), keys(n)
    aspect = torch.linspace(0.5, 2, n)

    def make(chosen):
        batch = {"inputs": master[chosen], "draw_key": key[chosen], "aspect": aspect[chosen]}
        return as_list(pre(batch, True)["inputs"])

    whole = make(torch.arange(n))
    torch.randint(10, (3,))  # the global generator plays no part
    for chosen in ([4], [8, 0], [7, 6, 5, 4, 3], list(range(n))[::-1]):
        for one, all_of_them in zip(make(torch.tensor(chosen)), whole, strict=True):
            assert torch.equal(one, all_of_them[chosen])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for one, all_of_them in zip(make(torch.tensor([2])), whole, strict=True):
            assert torch.equal(one, all_of_them[[2]])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("which", range(7))
def test_keys_and_seeds_differ_and_repeat(which):
    pre = every_preprocessor()[which]
    master = masters(1, 256 if pre.size == 224 else 72).expand(8, -1, -1, -1)
    with_keys = as_list(pre({"inputs": master, "draw_key": keys(8)}, True)["inputs"])[-1]
    assert len(torch.unique(with_keys.flatten(1), dim=0)) > 1

    def seeded(seed):
        pre.generator = torch.Generator().manual_seed(seed)
        return as_list(pre({"inputs": master}, True)["inputs"])[-1]

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    pre.generator = None
    torch.manual_seed(5)
    first = as_list(pre({"inputs": master}, True)["inputs"])[-1]
    assert not torch.equal(first, as_list(pre({"inputs": master}, True)["inputs"])[-1])


def test_lists_of_a_loader_without_collation():
    pre = MultiViewDataPreprocessor(size=32)
    master = masters(3, 40)
    samples = [dict(inputs=m, draw_key=k, aspect=1.5) for m, k in zip(master, (3, 2**60, -7), strict=True)]
    listed = pre(pseudo_collate(samples), True)["inputs"]
    batch = dict(inputs=master, draw_key=torch.tensor([3, 2**60, -7]), aspect=torch.full((3,), 1.5).double())
    for a, b in zip(listed, pre(batch, True)["inputs"], strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="3 images but 2 values of draw_key"):
        pre({"inputs": master, "draw_key": torch.tensor([1, 2])}, True)


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_evaluation_is_the_centre_without_draws(order):
    master = masters()
    for make in (CMAEDataPreprocessor, MultiViewDataPreprocessor, SingleViewDataPreprocessor):
        state = torch.get_rng_state()
        out = make(size=64, channel_order=order)({"inputs": list(master), "data_samples": None}, False)
        assert torch.equal(state, torch.get_rng_state())
        centre = master[..., 4:68, 4:68]
        assert torch.equal(out["inputs"], normalized(centre.flip(1) if order == "rgb" else centre))


def test_autocast_does_not_reach_the_pixels():
    master = masters()
    for pre in (CMAEDataPreprocessor(**SMALL), MultiViewDataPreprocessor(size=64)):
        batch = {"inputs": master, "draw_key": keys(4)}
        plain = pre(batch, True)["inputs"][1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(pre(batch, True)["inputs"][1], plain)


def test_pixels_come_back():
    """Exact for what was not resampled; RGB whatever the network takes."""
    master = masters(2, 64)
    for order in ("bgr", "rgb"):
        pre = SingleViewDataPreprocessor(size=64, channel_order=order, flip_prob=0.0)
        assert torch.equal(pre.to_pixels(pre({"inputs": master}, True)["inputs"]), master.flip(1))


def test_full_size_and_too_small_images():
    img, img_t = CMAEDataPreprocessor()({"inputs": masters(2, 256)}, True)["inputs"]
    assert img.shape == img_t.shape == (2, 3, 224, 224)
    with pytest.raises(UserError, match="255 x 255"):
        CMAEDataPreprocessor()({"inputs": masters(2, 254)}, True)
    with pytest.raises(UserError, match="224 x 224"):
        CMAEDataPreprocessor()({"inputs": masters(2, 223)}, False)
    with pytest.raises(UserError, match="its size is 224"):
        SingleViewDataPreprocessor()({"inputs": masters(2, 256)}, True)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("channel_order", "gbr", "'bgr', 'rgb'"),
        ("spatial", "zoom", "'shift', 'crop'"),
        ("flip", "never", "'before', 'after'"),
        ("color_on", True, "'target', 'online', 'both', 'none'"),
        ("max_shift", -1, "at least 0"),
        ("size", 0, "at least 1"),
        ("flip_prob", 1.5, "at most 1"),
        ("gray_prob", -0.1, "at least 0 and at most 1"),
        ("blur_sigma", (2.0, 0.1), "smaller one first"),
        ("crop_scale", (0.2, 1.2), "at most 1"),
        ("crop_ratio", (0.0, 1.0), "at least 1e-06"),
        ("color_jitter", dict(brightnes=0.4), "brightness, contrast, saturation, hue, prob"),
        ("color_jitter", dict(hue=0.6), "at most 0.5"),
    ],
)
def test_mistakes_are_explained(field, value, says):
    with pytest.raises(UserError, match=rf"data_preprocessor\.{field}") as mistake:
        CMAEDataPreprocessor(**{field: value})
    assert says in str(mistake.value)
    assert str(mistake.value).endswith(".")
    if field in ("crop_scale", "crop_ratio"):
        with pytest.raises(UserError, match=field):
            MultiViewDataPreprocessor(**{field: value})


@pytest.mark.parametrize("flip", ["before", "after"])
@pytest.mark.parametrize("spatial", ["shift", "crop"])
def test_captured_boxes_say_where_views_come_from(spatial, flip):
    """Cut from the loader's own image, a view comes out as it was or mirrored."""
    pre = CMAEDataPreprocessor(**SMALL, spatial=spatial, flip=flip, color_on="none", channel_order="bgr")
    pre.capture = True
    master, n = masters(12, 72, 80), 12
    out = pre({"inputs": master, "draw_key": keys(n)}, True)["inputs"]
    mirrored = draw(n, Stream.FLIP, 0, 1)[:, 0] < 0.5
    for result, boxes in zip(out, pre.captured.boxes, strict=True):
        again = views.hflip(views.resized_crop(master, boxes, 64), mirrored)
        torch.testing.assert_close(again, result * pre.std + pre.mean, atol=0.02, rtol=0)
    single = SingleViewDataPreprocessor(size=72, capture=True)
    single({"inputs": master[..., :72]}, True)
    assert single.captured.boxes[0].tolist() == [[0, 0, 1, 1]] * n
    twice = MultiViewDataPreprocessor(size=64, two_targets=False, capture=True)
    twice({"inputs": master}, True)
    assert len(twice.captured.boxes) == len(twice.captured.views) == 1
