import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain.data_preprocessor import IMAGENET_MEAN, IMAGENET_STD, CMAEDataPreprocessor

PLAIN = dict(color_jitter=dict(prob=0.0), gray_prob=0.0, blur_prob=0.0)


def stats():
    return torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


def masters(n=4, side=72):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("order", "expected"), [("bgr", (-1.26, -0.285, 1.68)), ("rgb", (1.307, -0.285, -0.933))]
)
def test_constant_colour(order, expected):
    """(R, G, B) = (200, 100, 50) came out of the official pipeline as (-1.26, -0.285, 1.68)."""
    bgr = torch.tensor([50, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 72, 72)
    pre = CMAEDataPreprocessor(size=64, max_shift=7, channel_order=order, **PLAIN)
    for view in pre({"inputs": bgr}, training=True)["inputs"]:
        assert view.shape == (2, 3, 64, 64)
        torch.testing.assert_close(view[0, :, 5, 5], torch.tensor(expected), atol=5e-3, rtol=0)
    assert pre.to_pixels(view)[0, :, 3, 3].tolist() == [200, 100, 50]


def test_online_view_is_the_plain_corner():
    pre = CMAEDataPreprocessor(size=64, max_shift=7)
    master = masters()
    img, _ = pre({"inputs": master, "data_samples": ["a", "b", "c", "d"]}, True)["inputs"]
    mean, std = stats()
    assert torch.equal(img, (master[..., :64, :64].float() - mean) / std)


def test_target_view_is_a_shifted_window():
    pre = CMAEDataPreprocessor(size=64, max_shift=7, capture=True, **PLAIN)
    master = masters(12)
    _, img_t = pre({"inputs": master}, True)["inputs"]
    mean, std = stats()
    found = set()
    for n in range(12):
        matches = [
            (y, x)
            for y in range(8)
            for x in range(8)
            # the blur matrix of an unblurred image is the identity, up to the rounding of 72 products
            if torch.allclose(
                img_t[n], (master[n, :, y : y + 64, x : x + 64].float() - mean) / std, atol=1e-4
            )
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 4
    assert torch.equal(pre.captured.master, master)
    assert torch.equal(pre.captured.img_t, img_t)


def test_only_the_target_gets_colours():
    pre = CMAEDataPreprocessor(size=64, max_shift=0, color_jitter=dict(prob=1.0))
    img, img_t = pre({"inputs": masters()}, True)["inputs"]
    assert bool(((img - img_t).abs().amax((1, 2, 3)) > 0.05).all())


def test_evaluation_is_the_centre_without_draws():
    pre = CMAEDataPreprocessor(size=64, max_shift=7)
    master = masters()
    state = torch.get_rng_state()
    out = pre({"inputs": list(master), "data_samples": None}, False)["inputs"]
    assert torch.equal(state, torch.get_rng_state())
    mean, std = stats()
    assert torch.equal(out, (master[..., 4:68, 4:68].float() - mean) / std)


def test_autocast_does_not_reach_the_pixels():
    pre = CMAEDataPreprocessor(size=64, max_shift=7)
    master = masters()
    pre.generator = torch.Generator().manual_seed(1)
    plain = pre({"inputs": master}, True)["inputs"][1]
    pre.generator.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pre({"inputs": master}, True)["inputs"][1], plain)


def test_full_size_and_mistakes():
    img, img_t = CMAEDataPreprocessor()({"inputs": masters(2, 256)}, True)["inputs"]
    assert img.shape == img_t.shape == (2, 3, 224, 224)
    with pytest.raises(UserError, match="255 x 255"):
        CMAEDataPreprocessor()({"inputs": masters(2, 254)}, True)
    with pytest.raises(UserError, match="channel_order"):
        CMAEDataPreprocessor(channel_order="gbr")
