"""Our block is mmpretrain's, with fewer tokens out where asked."""

import pytest
import torch
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

from cmae_mm.pretrain.blocks import Block, as_blocks


def pair(**options):
    torch.manual_seed(0)
    theirs = TransformerEncoderLayer(24, 3, 48, norm_cfg=dict(type="LN", eps=1e-6), **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    ours = Block(24, 3, 48, norm_cfg=dict(type="LN", eps=1e-6), **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


@pytest.mark.parametrize("first", [0, 1, 4, 6])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"layer_scale_init_value": 0.1}])
def test_result_and_every_gradient(first, options):
    theirs, ours = pair(**options)
    x, grad = torch.randn(2, 7, 24), torch.randn(2, 7 - first, 24)
    found = []
    for block in (lambda x: theirs(x)[:, first:], lambda x: ours(x, first=first)):
        leaf = x.clone().requires_grad_()
        out = block(leaf)
        out.backward(grad)
        found.append([out.detach(), leaf.grad])
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        found[0].append(one.grad)
        found[1].append(other.grad)
    assert len(found[0]) > 10
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_drops_as_the_library_does():
    theirs, ours = pair(drop_rate=0.3, attn_drop_rate=0.2, drop_path_rate=0.5)
    x = torch.randn(4, 7, 24)
    assert not torch.equal(ours.train()(x), ours(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_layers_that_exist_keep_their_parameters():
    theirs, _ = pair()
    before = dict(theirs.named_parameters())
    x = torch.randn(2, 7, 24)
    expected = theirs(x)
    as_blocks([theirs])
    assert type(theirs) is Block
    assert all(before[name] is parameter for name, parameter in theirs.named_parameters())
    torch.testing.assert_close(theirs(x), expected)
