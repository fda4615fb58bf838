"""The published numbers: schema, ranges, no number twice, no key twice, and every key of the configs described."""

import re
import statistics
from decimal import Decimal
from pathlib import Path

import pytest

from cmae_mm.errors import UserError
from cmae_mm.report.noise import Noise
from cmae_mm.report.published import CONFIDENCES, FILE, KINDS, load_published

ROOT = Path(__file__).parents[2]
BOOK = load_published()
RANGES = {"box_AP": (30, 62), "mask_AP": (30, 55), "mIoU": (40, 60), "mIoU_ms": (40, 60), "mCE": (20, 80)}


def test_every_number_is_complete_and_possible():
    assert len(BOOK.results) > 450
    for row in BOOK.results:
        assert row.method
        assert row.backbone
        assert row.protocol in BOOK.protocols
        assert row.source in BOOK.sources
        assert row.where, row
        assert row.kind in KINDS
        assert row.confidence in CONFIDENCES
        assert row.epochs is None or 50 <= row.epochs <= 1600, row
        low, high = RANGES.get(row.metric, (2, 99))
        assert low <= row.value <= high, row
        assert 0 <= row.digits <= 3
        if row.confidence == "unsure":
            assert row.note, row


def test_metrics_fit_the_task():
    tasks = {"IN": {"top1", "top5", "mCE", "c_error"}, "MV": {"top1"}, "DET": {"box_AP", "mask_AP"}}
    tasks |= {"SEG": {"mIoU", "mIoU_ms", "aAcc", "mAcc"}}
    for row in BOOK.results:
        start = row.protocol.split("-")[0]
        assert row.metric in tasks[start] or row.metric.endswith("_top1"), row
        if row.metric.endswith("_top1") or row.metric == "mCE":
            assert row.protocol.startswith("IN-ROBUST")


def test_no_number_twice():
    keys = [
        (
            *map(BOOK.plain, (r.method, r.backbone)),
            r.epochs,
            r.variant,
            r.data,
            r.protocol,
            r.metric,
            r.source,
            r.where,
        )
        for r in BOOK.results
    ]
    assert len(keys) == len(set(keys))


def test_no_two_protocols_share_a_key_or_a_meaning():
    text = FILE.read_text()
    keys = re.findall(r'^\[protocols\."?([^\]"]+)"?\]$', text, flags=re.MULTILINE)
    assert sorted(keys) == sorted(BOOK.protocols)  # TOML itself forbids a table twice
    assert len({key.lower() for key in keys}) == len(keys)
    meanings = {(p.task, p.title) for p in BOOK.protocols.values()}
    assert len(meanings) == len(keys)
    for protocol in BOOK.protocols.values():
        assert protocol.words.endswith(".")
        assert protocol.schedule
        assert not protocol.schedule.endswith(".")


def test_every_protocol_of_a_config_is_described():
    found = {}
    for path in (ROOT / "configs").rglob("*.*"):
        if path.suffix in (".py", ".toml"):
            for key in re.findall(r'^\s*protocol = "([^"]+)"', path.read_text(), flags=re.MULTILINE):
                found.setdefault(key, path.name)
    assert len(found) > 20
    free = ("mini-", "small-")
    assert {
        key: name for key, name in found.items() if key not in BOOK.protocols and not key.startswith(free)
    } == {}


def test_metrics_are_read_from_one_raw_key_each():
    raw = [key for metric in BOOK.metrics.values() for key in metric.raw]
    assert len(raw) == len(set(raw))
    assert BOOK.metric("coco/bbox_mAP").key == "box_AP"
    assert BOOK.metric("coco/bbox_mAP").scale == 100
    assert BOOK.metric("accuracy/top1").label == "top-1 (%)"
    assert BOOK.metric("something").title == "something"
    assert not BOOK.metric("mCE").higher


def test_digits_are_those_that_were_printed():
    fine_tuned = {
        (r.method, r.backbone, r.source, r.metric): r for r in BOOK.results if r.protocol == "IN-FT"
    }
    assert fine_tuned["MAE", "ViT-B/16", "mae-repo", "top1"].text == "83.664"
    assert fine_tuned["MR-MCMAE", "Hybrid-H", "convmae", "top1"].text == "88.0"


def test_find_needs_agreement_in_everything():
    ask = ("IN-FT", "top1", "MAE", "", "ViT-B/16", 1600, "ImageNet-1K")
    found = BOOK.find(*ask)
    assert [(r.value, r.source) for r in found[:2]] == [(83.6, "mae-paper"), (83.664, "mae-repo")]
    assert BOOK.find("IN-FT", "top1", "mae", "", "vit_b_p16", 1600, "imagenet1k") == found
    for place, other in enumerate(("IN-FT-448", "top5x", "CMAE+", "x", "ViT-S/16", 801, "ImageNet-22K")):
        assert BOOK.find(*ask[:place], other, *ask[place + 1 :]) == [], other
    assert BOOK.find("SEG-UP", "mIoU", "CMAE", "", "ViT-B/16", 1600, "ImageNet-1K") == []  # 50.1 is unsure


def test_a_plain_vit_is_never_compared_with_the_hybrid_or_a_swin():
    hybrid = [r for r in BOOK.results if r.protocol == "SEG-UP-HYBRID"]
    assert {r.backbone for r in hybrid} == {"Hybrid-B"}
    assert all(
        r.confidence == "unsure" for r in BOOK.results if r.method == "SimMIM" and r.backbone == "Swin-B"
    )
    assert not any(r.value in (52.3, 52.8) and r.backbone == "ViT-B/16" for r in BOOK.results)


def test_noise_from_values_range_and_std():
    base = {"protocol": "IN-FT", "metric": "top1", "source": "mae-repo", "where": "x"}
    values = [Decimal(v) for v in ("83.63", "83.66", "83.52", "83.46")]
    one = Noise.build(**base, runs=4, values=values)
    mean = sum(map(float, values)) / 4
    assert one.std == pytest.approx((sum((float(v) - mean) ** 2 for v in values) / 3) ** 0.5)
    assert Noise.build(**base, runs=5, range=[Decimal("83.41"), Decimal("83.57")]).std == pytest.approx(
        0.16 / 2.326
    )
    for given in ({}, {"std": 1, "range": [0, 1]}, {"values": values[:3]}, {"std": 1, "runs": 1}, {"odd": 1}):
        with pytest.raises(ValueError, match="noise of IN-FT"):
            Noise.build(**{**base, "runs": 4, **given})
    # two independent reports on MAE's fine-tuning agree
    stds = [n.std for n in BOOK.noise if (n.protocol, n.backbone) == ("IN-FT", "ViT-B/16")]
    assert len(stds) == 2
    assert max(stds) / min(stds) < 2
    assert statistics.fmean(stds) == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema = 1", "schema = ", "cannot be read"),
        ("top1 = 68.0", "top9 = 68.0", "unknown field or metric"),
        (", top1 = 68.0", "", "no metric"),
        ('kind = "quoted"', 'kind = "heard"', "unknown kind"),
        ('confidence = "unsure"', 'confidence = "maybe"', "unknown kind"),
        ('source = "mae-paper"', 'source = "nowhere"', "unknown protocol or source"),
        ('metric = "box_AP"', 'metric = "AP"', "unknown protocol or metric"),
        ("[protocols.IN-KNN]", "[protocols.IN-FT]", "cannot be read"),  # two protocols share a key
        ('schedule = "none"', 'length = "none"', "length"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, old, new, words):
    text = FILE.read_text()
    assert old in text
    path = tmp_path / "published.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        load_published(path)


def test_a_number_listed_twice_is_refused(tmp_path):
    line = next(line for line in FILE.read_text().splitlines() if "top1 = 68.0" in line)
    path = tmp_path / "published.toml"
    path.write_text(FILE.read_text().replace(line, f"{line}\n{line}", 1))
    with pytest.raises(UserError, match="listed twice"):
        load_published(path)
