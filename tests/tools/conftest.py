"""Data for runs of the scripts."""

import pytest


@pytest.fixture
def data(mini_data):
    """Words that name the data: 40 images to train on."""
    return ["--data-root", str(mini_data / "imagenet")]
