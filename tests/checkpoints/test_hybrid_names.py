"""Keys of the official hybrid encoder under the names of this suite."""

import pytest

from cmae_mm.checkpoints.sources.convmae import hybrid_name
from cmae_mm.errors import UserError


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("blocks3.10.norm2.bias", "layers.10.ln2.bias"),
        ("blocks3.0.mlp.fc1.weight", "layers.0.ffn.layers.0.0.weight"),
        ("blocks3.2.attn.qkv.weight", "layers.2.attn.qkv.weight"),
        ("blocks1.0.norm1.weight", "blocks1.0.norm1.weight"),
        ("norm.weight", "ln1.weight"),
        ("pos_embed", "pos_embed"),
        ("mask_token", None),
        ("decoder_blocks.0.norm1.weight", None),
        ("head.weight", None),
    ],
)
def test_official_keys(key, name):
    assert hybrid_name(key) == name


@pytest.mark.parametrize(
    ("key", "words"), [("cls_token", "version 2"), ("blocks.0.norm1.weight", "not known")]
)
def test_foreign_keys_are_refused(key, words):
    with pytest.raises(UserError, match=words):
        hybrid_name(key)
