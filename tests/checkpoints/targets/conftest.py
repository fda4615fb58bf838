"""Shared by the tests of the way out."""

from dataclasses import replace

import pytest
import torch


def any_encoder(**change):
    """A random encoder with every tensor of its header, none of them special."""
    from cmae_mm.checkpoints import BackboneHeader
    from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape

    header = BackboneHeader(
        "test", width=48, depth=2, heads=3, hidden=96, patch=8, image_size=40, ln_eps=1e-5
    )
    header = replace(header, **change)
    draw = torch.Generator().manual_seed(0)
    shapes = {k: expected_shape(k, header) for k in sorted(expected_keys(header))}
    state = {k: 0.15 * torch.randn(v, generator=draw) for k, v in shapes.items()}
    return {k: v + 1 if k.endswith(("norm.weight", "gamma")) else v for k, v in state.items()}, header


@pytest.fixture(scope="session")
def encoder():
    """The function that draws an encoder with any parts; test modules cannot import this file."""
    return any_encoder
