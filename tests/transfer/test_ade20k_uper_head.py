"""The lean UPerHead against mmseg's: same numbers, same gradients, same keys."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmseg imports)

# isort: split
import pytest
import torch
import torch.nn.functional as F
from mmseg.models import UPerHead

from cmae_mm.transfer.uper_head import LeanUPerHead, conv3x3_of_resized, taps

SIZES = [
    ((4, 4), (8, 8)),
    ((3, 5), (12, 20)),
    ((5, 7), (19, 30)),
    ((1, 2), (8, 16)),
    ((6, 6), (6, 6)),
    ((7, 9), (8, 10)),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "size"), SIZES, ids=str)
def test_convolution_of_a_resized_map(small, size, align_corners):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    resized = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    expected = F.conv2d(resized, weight, padding=1)
    actual = conv3x3_of_resized(x, weight, size, align_corners)
    torch.testing.assert_close(actual, expected, atol=1e-11, rtol=1e-11)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, weight), grad)
    torch.testing.assert_close(torch.autograd.grad(actual, (x, weight), grad), wanted, atol=1e-11, rtol=1e-11)


def test_taps_shift_a_resized_row():
    row = torch.tensor([1.0, 3.0])
    # resized to (1, 1.5, 2.5, 3); the first tap reads one place to the left, the last one to the right
    wanted = [[0, 1, 1.5, 2.5], [1, 1.5, 2.5, 3], [1.5, 2.5, 3, 0]]
    torch.testing.assert_close(row @ taps(2, 4, False, row), torch.tensor(wanted))


def _heads(norm=True, align_corners=False):
    words = dict(
        in_channels=[6, 5, 4, 7], in_index=[0, 1, 2, 3], channels=8, num_classes=3, dropout_ratio=0.0
    )
    words |= dict(norm_cfg=dict(type="BN") if norm else None, align_corners=align_corners)
    torch.manual_seed(1)
    theirs = UPerHead(**words).double()
    ours = LeanUPerHead(**words).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    "sizes", [[(32, 32), (16, 16), (8, 8), (4, 4)], [(21, 40), (11, 20), (6, 10), (3, 5)]]
)
def test_head_equals_mmseg(sizes, norm):
    ours, theirs = _heads(norm)
    maps = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip([6, 5, 4, 7], sizes, strict=True)]
    results = []
    for head in (ours, theirs):
        leaves = [m.clone().requires_grad_() for m in maps]
        out = head(leaves)
        out.square().mean().backward()
        grads = {name: p.grad for name, p in head.named_parameters()}
        results.append((out, [leaf.grad for leaf in leaves], grads, dict(head.named_buffers())))
    torch.testing.assert_close(results[0], results[1], atol=1e-10, rtol=1e-8)


def test_bfloat16_is_about_as_exact_as_mmseg():
    ours, theirs = _heads()
    maps = [
        torch.randn(2, c, s, s, dtype=torch.float64)
        for c, s in zip([6, 5, 4, 7], [32, 16, 8, 4], strict=True)
    ]
    with torch.no_grad():
        exact = theirs.eval()(maps)
        errors = []
        for head in (ours.eval(), theirs):
            with torch.autocast("cpu", torch.bfloat16):
                rounded = head.float()([m.float() for m in maps])
            errors.append((rounded.double() - exact).square().mean().sqrt())
    assert errors[0] < 1.5 * errors[1], errors
