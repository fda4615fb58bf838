"""The hybrid encoder against tensors recorded from the official ConvMAE code (tests/golden/README.md)."""

from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import MAEPretrainHead
from safetensors.torch import load_file

from cmae_mm.checkpoints.sources.convmae import encoder_state, hybrid_name
from cmae_mm.layers.conv_stages import VisibleCells
from cmae_mm.pretrain.hybrid import CMAEHybridViT
from cmae_mm.pretrain.masking import Mask, mask_from_removed
from cmae_mm.pretrain.necks import CMAEPixelDecoder

GOLDEN = Path(__file__).parents[1] / "golden" / "convmae_tiny.safetensors"
ARCH = dict(widths=(16, 24, 48), depths=(2, 1, 3), mlp_ratios=(4, 4, 4), heads=4)
# A wrong epsilon in the convolutional stages moves the tokens by 5e-5, one in the transformer by 1e-5.
TOLERANCE = 5e-6


def group(golden, prefix):
    return {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}


def decoder_name(key):
    """Our name of a decoder key: its blocks are renamed as those of the encoder."""
    if key.startswith("decoder_blocks."):
        name = hybrid_name(key.replace("decoder_blocks.", "blocks3."))
        return name.replace("layers.", "decoder_blocks.", 1)
    return key.replace("decoder_norm.", "ln1.")


def decoder_part(tensors):
    return {decoder_name(k): v for k, v in tensors.items() if k.startswith(("decoder_", "mask_token"))}


def encoder(golden, **kwargs):
    model = CMAEHybridViT(ARCH, img_size=64, **kwargs)
    state = encoder_state(group(golden, "state."))
    own = set(model.state_dict())
    assert own <= set(state)
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
    return model


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def mask(golden):
    """The recorded mask, visible cells in the order in which they were drawn."""
    return Mask(golden["ids_keep"], golden["ids_restore"], golden["mask"])


@pytest.fixture(scope="module")
def run(golden, mask):
    """One forward and backward pass; outputs of the parts kept."""
    backbone = encoder(golden)
    decoder = CMAEPixelDecoder(
        class_token=False,
        num_patches=16,
        embed_dim=48,
        decoder_embed_dim=32,
        decoder_depth=2,
        decoder_num_heads=4,
    )
    decoder.load_state_dict(decoder_part(group(golden, "state.")), strict=True)
    parts = {}
    watched = {"stage1": backbone.blocks1[-1], "stage2": backbone.blocks2[-1], "stage3": backbone.layers[-1]}
    watched |= {"fuse1": backbone.stage1_output_decode, "fuse2": backbone.stage2_output_decode}
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _a, out, name=name: parts.__setitem__(name, out.detach()))
    latent, *_ = backbone(golden["in.img"], mask)
    pred = decoder.predict_all(latent, mask)
    loss = head().loss(pred, golden["in.img"], mask.mask)
    loss.backward()
    return backbone, decoder, parts, latent.detach(), pred.detach(), loss.detach()


def head(norm_pix=True):
    return MAEPretrainHead(
        dict(type="PixelReconstructionLoss", criterion="L2"), norm_pix=norm_pix, patch_size=16
    )


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_visible_tokens(run, golden):
    assert_close(run[3], golden["out.encoder"])


def test_stages_at_visible_cells(run, golden, mask):
    _, _, parts, *_ = run
    visible = VisibleCells(mask.ids_keep, (4, 4))
    for name in ("stage1", "stage2"):
        assert_close(parts[name], visible.collect(golden[f"out.{name}"].permute(0, 2, 3, 1)))
    assert_close(parts["stage3"], golden["out.stage3_visible"])


def test_fusion_at_visible_cells(run, golden, mask):
    _, _, parts, *_ = run
    ids = mask.ids_keep.unsqueeze(-1).expand(-1, -1, 48)
    for number in (1, 2):
        theirs = golden[f"out.stage{number}_fusion"].gather(1, ids)
        assert_close(parts[f"fuse{number}"].view_as(theirs), theirs)


def test_predictions_and_losses(run, golden, mask):
    *_, pred, loss = run
    assert_close(pred, golden["pred"])
    assert_close(loss, golden["loss"])
    assert_close(head(norm_pix=False).loss(pred, golden["in.img"], mask.mask), golden["loss_raw_pixels"])


def test_every_gradient(run, golden):
    backbone, decoder, *_ = run
    theirs = group(golden, "grad.")
    for module, recorded in ((backbone, encoder_state(theirs)), (decoder, decoder_part(theirs))):
        ours = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
        assert set(ours) == set(recorded)
        for name, grad in recorded.items():
            limit = 1e-5 * grad.abs().max().item()
            torch.testing.assert_close(
                ours[name], grad, atol=limit, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_unmasked_tokens_and_maps(golden):
    """What a target encoder and transfer see: no fusion, no norm."""
    bare = encoder(golden, fusion=False, final_norm=False)
    with torch.no_grad():
        (tokens,) = bare(golden["in.img"], mask=None)
        maps = bare.feature_maps(golden["in.img"])
        (with_fusion,) = encoder(golden)(golden["in.img"], mask=False)
    assert_close(tokens, golden["out.tokens_unmasked"])
    assert torch.equal(tokens, with_fusion)
    assert_close(maps[0], golden["out.stage1_unmasked"])
    assert_close(maps[1], golden["out.stage2_unmasked"])
    assert torch.equal(maps[2].flatten(2).transpose(1, 2), tokens)


def test_pretraining_path_with_nothing_hidden(golden):
    nothing = mask_from_removed(torch.zeros(4, 16), kept=16)
    with torch.no_grad():
        tokens = encoder(golden)(golden["in.img"], nothing)[0]
    assert_close(tokens, golden["out.tokens_fused_unmasked"])


def test_classifier_on_pooled_tokens(golden):
    with torch.no_grad():
        (tokens,) = encoder(golden)(golden["in.img"], mask=None)
    state = group(golden, "ft.state.")
    pooled = F.layer_norm(tokens.mean(1), (48,), state["fc_norm.weight"], state["fc_norm.bias"], eps=1e-6)
    assert_close(pooled, golden["ft.pooled"])
    assert_close(pooled @ state["head.weight"].t() + state["head.bias"], golden["ft.logits"])


def test_every_recorded_key_has_one_place(golden):
    keys = set(group(golden, "state.")) | set(group(golden, "ft.state."))
    names = [hybrid_name(key) for key in keys]
    encoder_names = [name for name in names if name is not None]
    assert len(encoder_names) == len(set(encoder_names))
    assert set(encoder_names) == set(CMAEHybridViT(ARCH, img_size=64).state_dict())
    assert {k for k in keys if hybrid_name(k) is None} == {
        k for k in keys if k.split(".")[0].startswith(("decoder_", "mask_token", "fc_norm", "head"))
    }
