"""Decoders against mmpretrain's own, and the ways to pool a feature against slow loops."""

import pytest
import torch
from mmpretrain.models import MAEPretrainDecoder

from cmae_mm.errors import UserError
from cmae_mm.pretrain import CMAEFeatureDecoder, CMAEPixelDecoder, SharedFeatureDecoder, VisibleMean
from cmae_mm.pretrain.masking import block_mask, random_mask

SHAPE = dict(num_patches=36, patch_size=4, embed_dim=24, decoder_embed_dim=16, decoder_num_heads=2)


def initialised(module):
    module.init_weights()
    for parameter in module.parameters():  # biases, norms and tokens away from their neutral start
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("masks", [random_mask(3, 6, 0.75), block_mask(3, 6, 0.65)], ids=["random", "block"])
def test_predictions_equal_mmpretrain(masks, depth):
    ours = initialised(CMAEPixelDecoder(decoder_depth=depth, **SHAPE))
    theirs = MAEPretrainDecoder(decoder_depth=depth, **SHAPE).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    latent = torch.randn(3, 1 + masks.ids_keep.shape[1], 24)
    with torch.no_grad():
        expected = theirs(latent, masks.ids_restore)
        torch.testing.assert_close(ours.predict_all(latent, masks), expected, atol=2e-6, rtol=0)
        hidden = ours(latent, masks)
    for n in range(3):
        torch.testing.assert_close(hidden[n], expected[n][masks.mask[n] == 1], atol=2e-6, rtol=0)


def test_initialisation():
    decoder = CMAEPixelDecoder(decoder_depth=2, **SHAPE)
    decoder.init_weights()
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
    theirs = MAEPretrainDecoder(decoder_depth=2, **SHAPE)
    theirs.init_weights()
    assert torch.equal(decoder.decoder_pos_embed, theirs.decoder_pos_embed)
    plain = CMAEPixelDecoder(decoder_depth=2, class_token=False, **SHAPE)
    plain.init_weights()
    assert torch.equal(plain.decoder_pos_embed, theirs.decoder_pos_embed[:, 1:])
    assert not plain.decoder_pos_embed.requires_grad


def test_without_class_token_every_latent_is_a_patch():
    decoder = initialised(CMAEPixelDecoder(decoder_depth=1, class_token=False, **SHAPE))
    masks = random_mask(2, 6, 0.5)
    pred = decoder.predict_all(torch.randn(2, 18, 24), masks)
    assert pred.shape == (2, 36, 48)
    assert decoder(torch.randn(2, 18, 24), masks).shape == (2, 18, 48)


@pytest.mark.parametrize("token_set", ["all", "visible", "masked"])
def test_token_sets_by_hand(token_set):
    decoder = initialised(CMAEFeatureDecoder(decoder_depth=2, token_set=token_set, **SHAPE))
    theirs = MAEPretrainDecoder(decoder_depth=2, predict_feature_dim=24, **SHAPE).eval()
    theirs.load_state_dict(decoder.state_dict(), strict=True)
    masks = block_mask(3, 6, 0.65)
    latent = torch.randn(3, 13, 24)
    with torch.no_grad():
        each = theirs(latent, masks.ids_restore)  # the last layer first, then the mean
        ours = decoder(latent, masks)
    for n in range(3):
        chosen = {"all": slice(None), "visible": masks.mask[n] == 0, "masked": masks.mask[n] == 1}[token_set]
        torch.testing.assert_close(ours[n], each[n][chosen].mean(0), atol=2e-6, rtol=0)


def test_features_have_the_width_of_the_encoder_or_what_is_asked():
    assert CMAEFeatureDecoder(decoder_depth=1, **SHAPE).decoder_pred.out_features == 24
    wide = CMAEFeatureDecoder(decoder_depth=1, predict_feature_dim=40, **SHAPE)
    assert wide.decoder_pred.out_features == 40


def test_shared_decoder_reads_the_pixel_decoder():
    pixels = initialised(CMAEPixelDecoder(decoder_depth=1, **SHAPE))
    shared = SharedFeatureDecoder(embed_dim=24, decoder_embed_dim=16, token_set="masked")
    shared.init_weights()
    masks = random_mask(2, 6, 0.5)
    tokens = pixels.decode(torch.randn(2, 19, 24), masks)
    feature = shared(tokens, masks)
    mean = torch.nn.functional.layer_norm(tokens, (16,), eps=1e-6)[:, 18:].mean(1)
    torch.testing.assert_close(feature, shared.decoder_pred(mean))
    feature.sum().backward()
    assert pixels.decoder_blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_visible_mean():
    latent = torch.randn(2, 5, 8)
    assert torch.equal(VisibleMean()(latent, None), latent[:, 1:].mean(1))
    assert torch.equal(VisibleMean(class_token=False)(latent, None), latent.mean(1))


def test_unknown_token_set():
    for make in (
        lambda s: CMAEFeatureDecoder(token_set=s, **SHAPE),
        lambda s: SharedFeatureDecoder(24, 16, s),
    ):
        with pytest.raises(UserError, match="token_set"):
            make("some")
