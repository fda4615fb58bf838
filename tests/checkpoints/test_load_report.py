"""What a load report says, whole and in a few words."""

import pytest

from cmae_mm.checkpoints.load_report import LoadReport, shorten


def test_full_report_names_everything():
    report = LoadReport("f", ["a"], {"b": "4x4 to 6x6"}, ["c", "d"], ["e"], ["note"])
    assert report.full().splitlines() == [
        "backbone file f: 2 of 3 encoder tensors loaded; b resized from 4x4 to 6x6; 2 of the model not in the file "
        "(c, d); 1 left out (e); note",
        *("matched: 1", "  a"),
        *("resized: 1", "  b: 4x4 to 6x6"),
        *("missing in the file: 2", "  c", "  d"),
        *("unexpected, left out: 1", "  e"),
    ]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["blocks.3.ls1.gamma"], "blocks.3.ls1.gamma"),
        ([f"blocks.{i}.ls1.gamma" for i in range(12)], "blocks.*.ls1.gamma (12 times)"),
        (["a", "b", "c", "d", "blocks.0.x", "blocks.10.x"], "a, b, c and 2 more"),
        (["blocks.0.x", "blocks.1.y", "z"], "blocks.0.x, blocks.1.y, z"),
    ],
)
def test_names_in_a_few_words(keys, text):
    assert shorten(keys) == text
