"""Behaviour of the dense ViT and its parts that no recorded tensor covers."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.ops import roi_align

from cmae_mm.errors import UserError
from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.attention import Attention, DecomposedAttention, TableAttention
from cmae_mm.transfer.coco import CMAEViTDet
from cmae_mm.transfer.pyramid import ChannelLayerNorm, SimpleFeaturePyramid
from cmae_mm.transfer.vit import DenseViT

TINY = {"patch_size": 8, "embed_dims": 24, "depth": 3, "num_heads": 2, "pretrain_img_size": 32}


def _explicit(attn, x, bias):
    """Attention written out, with a bias (B, heads, N, N) computed by the caller."""
    b, n, c = x.shape
    q, k, v = attn.qkv(x).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT * attn.head_dim**-0.5 + bias(q)).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


def test_plain_attention_equals_the_written_out_form():
    torch.manual_seed(0)
    attn, x = Attention(16, 2).double(), torch.randn(2, 6, 16).double()
    torch.testing.assert_close(attn(x, (2, 3)), _explicit(attn, x, lambda q: 0.0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("write_out", [0, 1024])
def test_decomposed_attention_uses_the_unscaled_query_and_each_offset_once(write_out, monkeypatch):
    monkeypatch.setattr("cmae_mm.transfer.attention.CPU_WRITE_OUT", write_out)
    torch.manual_seed(0)
    attn, x, grid = DecomposedAttention(16, 2, (3, 4)).double(), torch.randn(2, 12, 16).double(), (3, 4)
    for table in (attn.rel_pos_h, attn.rel_pos_w):
        torch.nn.init.normal_(table)

    def bias(q):
        out = torch.zeros(2, 2, 12, 12, dtype=q.dtype)
        for i in range(12):
            for j in range(12):
                down, right = i // 4 - j // 4, i % 4 - j % 4
                out[:, :, i, j] = q[:, :, i] @ (attn.rel_pos_h[down + 2] + attn.rel_pos_w[right + 3])
        return out

    torch.testing.assert_close(attn(x, grid), _explicit(attn, x, bias), atol=1e-12, rtol=0)


def test_table_attention_places_class_rows_and_offsets_as_beit_does():
    torch.manual_seed(0)
    attn, x, grid = TableAttention(16, 2, (2, 3)).double(), torch.randn(2, 7, 16).double(), (2, 3)
    torch.nn.init.normal_(attn.relative_position_bias_table)
    table = attn.relative_position_bias_table

    def bias(q):
        out = torch.zeros(2, 7, 7, dtype=q.dtype)
        for i in range(7):
            for j in range(7):
                if i and j:
                    down, right = (i - 1) // 3 - (j - 1) // 3, (i - 1) % 3 - (j - 1) % 3
                    out[:, i, j] = table[(down + 1) * 5 + right + 2]
                else:
                    out[:, i, j] = table[{(True, False): -2, (False, True): -3}.get((i > 0, j > 0), -1)]
        return out

    torch.testing.assert_close(attn(x, grid), _explicit(attn, x, bias), atol=1e-12, rtol=0)


def test_relative_positions_start_as_no_positions():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 16)
    plain, decomposed = Attention(16, 2), DecomposedAttention(16, 2, (3, 3))
    decomposed.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(decomposed(x, (3, 3)), plain(x, (3, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cls", [CMAEViTDet, CMAEUperNetViT])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 64), (33, 50), (8, 24)])
def test_any_image_size_gives_maps_of_its_grid(cls, height, width):
    windows = {"window_blocks": (0, 1), "window_size": 3} if cls is CMAEViTDet else {}
    vit = cls(img_size=32, out_indices=(0, 2), **windows, **TINY)
    maps = vit(torch.randn(2, 3, height, width))
    assert [m.shape for m in maps] == [(2, 24, -(-height // 8), -(-width // 8))] * 2


def test_windows_do_not_look_outside():
    torch.manual_seed(0)
    vit = CMAEViTDet(img_size=32, window_size=2, window_blocks=(0, 1, 2), **TINY).eval()
    x = torch.randn(1, 3, 32, 32)
    changed = x.clone()
    changed[:, :, :16, :16] += 1.0
    before, after = vit(x)[0], vit(changed)[0]
    assert not torch.allclose(before[:, :, :2, :2], after[:, :, :2, :2])
    torch.testing.assert_close(before[:, :, 2:], after[:, :, 2:])
    torch.testing.assert_close(before[:, :, :, 2:], after[:, :, :, 2:])


def test_drop_path_rises_linearly_and_modes_return_the_module():
    vit = DenseViT(drop_path_rate=0.2, **TINY)
    probs = [getattr(b.drop_path, "drop_prob", 0.0) for b in vit.blocks]
    assert probs == pytest.approx([0.0, 0.1, 0.2])
    assert vit.eval() is vit
    assert vit.train() is vit
    assert all(m.eps == 1e-6 for m in vit.modules() if isinstance(m, torch.nn.LayerNorm))


def test_all_parameters_of_a_trained_backbone_get_gradients():
    for cls in (CMAEViTDet, CMAEUperNetViT):
        vit = cls(**{"img_size": 32, "window_blocks": (), "out_indices": (1, 2), **TINY})
        sum(m.square().mean() for m in vit(torch.randn(1, 3, 40, 32))).backward()
        assert [n for n, p in vit.named_parameters() if p.grad is None] == []


def test_indices_made_in_inference_mode_serve_training():
    vit = DenseViT(rel_pos="decomposed", img_size=88, **TINY)  # a size no other test uses
    with torch.inference_mode():
        vit(torch.randn(1, 3, 88, 88))
    vit(torch.randn(1, 3, 88, 88))[0].sum().backward()


def test_contradicting_options_are_a_user_error():
    with pytest.raises(UserError, match="rel_pos='decomposed'"):
        DenseViT(rel_pos="decomposed", cls_token=True, **TINY)
    with pytest.raises(UserError, match="windows"):
        DenseViT(cls_token=True, window_blocks=(0,), **TINY)


def test_get_layer_depth_covers_every_parameter():
    vit = CMAEUperNetViT(img_size=32, out_indices=(2,), **TINY)
    ids = {n: vit.get_layer_depth(f"backbone.{n}") for n, _ in vit.named_parameters()}
    assert {i for i, _ in ids.values()} == {0, 1, 2, 3}
    assert ids["blocks.2.attn.relative_position_bias_table"] == (3, 5)
    assert ids["cls_token"] == ids["pos_embed"] == ids["patch_embed.proj.bias"] == (0, 5)
    assert vit.get_layer_depth("neck.branches.0.0.weight") == (4, 5)


def test_channel_layer_norm_works_in_conv_module_and_returns_float32():
    conv = ConvModule(4, 6, 3, norm_cfg={"type": "CMAELN2d", "eps": 1e-6})
    assert isinstance(conv.norm, ChannelLayerNorm)
    assert conv.norm.eps == 1e-6
    assert conv.conv.bias is None
    x = torch.randn(2, 6, 5, 4)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(ChannelLayerNorm(6)(x), expected, atol=1e-6, rtol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(1, 4, 8, 8)).dtype == torch.float32


def test_pyramid_levels_survive_roi_align():
    """The levels have channels-last strides; mmcv's kernel must not read them as contiguous."""
    torch.manual_seed(0)
    level = SimpleFeaturePyramid(8, 4, scales=(1.0, 0.5))((torch.randn(1, 8, 6, 10),))[0].detach()
    rois = torch.tensor([[0.0, 1.0, 1.0, 7.0, 5.0]])
    torch.testing.assert_close(roi_align(level, rois, 2), roi_align(level.contiguous(), rois, 2))
    with pytest.raises(UserError, match="scale 3"):
        SimpleFeaturePyramid(8, 4, scales=(3,))
