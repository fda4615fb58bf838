"""Rows against an oracle: slow loops over records and published numbers, written apart from the code."""

import math
import random
import statistics

import pytest
from report_sample import (
    ADE_TASK,
    COCO,
    COCO_TASK,
    FT_TASK,
    MIOU,
    SEGM,
    TOP1,
    make_record,
    sample_records,
    write_benchmark,
)
from scipy import stats

from cmae_mm.report.noise import limit, spread, t95
from cmae_mm.report.published import load_published
from cmae_mm.report.records import read_benchmark
from cmae_mm.report.rows import make_rows

BOOK = load_published()


def rows_of(tmp_path, records, about=None, references=False):
    return make_rows(read_benchmark(write_benchmark(tmp_path, records, about)), BOOK, references)


def test_t_is_students():
    for freedom in range(1, 31):
        assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)
    assert t95(500) == t95(30)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_limit_covers_95_percent(runs):
    """Monte Carlo: a published run of the same distribution is beyond the limit in one of twenty cases."""
    draw = random.Random(runs)
    trials, beyond = 6000, 0
    for _ in range(trials):
        values = [draw.gauss(50, 0.3) for _ in range(runs)]
        beyond += abs(statistics.fmean(values) - draw.gauss(50, 0.3)) > limit(values, None).value
    assert beyond / trials == pytest.approx(0.05, abs=0.01)


def test_limits_by_hand():
    noise = next(n for n in BOOK.noise if n.protocol == "DET-VITDET")
    # 5 runs of standard deviation 0.10; one of ours: 2.776 x 0.10 x sqrt(2) = 0.393; three of ours: x sqrt(4/3) = 0.321
    assert limit([1.0], noise).value == pytest.approx(0.3926, abs=1e-4)
    assert limit([1.0, 2.0, 3.0], noise).value == pytest.approx(0.3205, abs=1e-4)
    # no published noise; 1, 2, 3: standard deviation 1, t(2) = 4.303
    assert limit([1.0, 2.0, 3.0], None).value == pytest.approx(4.303 * math.sqrt(4 / 3))
    assert limit([1.0, 2.0, 3.0], None).measured
    assert limit([1.0], None) is None
    assert limit([], noise) is None
    assert spread([20.0, 21.0, 25.0]) == pytest.approx(math.sqrt(7))
    assert spread([1.0]) is None


def oracle(records, row):
    """Mean, published value and difference of a row, from raw records and a walk over every published number."""
    scale = {COCO: 100, SEGM: 100}
    raw = {"box_AP": COCO, "mask_AP": SEGM, "mIoU": MIOU, "top1": TOP1}[row.metric.key]
    values = []
    for record in records:
        if record["status"] != "done" or raw not in record["metrics"]:
            continue
        same = (
            record["protocol"],
            record["method"],
            record.get("variant", ""),
            record["backbone"],
            record["epochs"],
        )
        if same == (row.protocol.key, row.method, row.variant, row.backbone, row.epochs):
            values.append(record["metrics"][raw]["last"] * scale.get(raw, 1))
    best = None
    for sureness in ("sure", "inferred"):
        for kind in ("paper", "release", "quoted", "rerun"):
            for n in BOOK.results:
                who = (n.protocol, n.metric, n.method, n.variant, n.backbone, n.epochs, n.data)
                mine = (row.protocol.key, row.metric.key, row.method, row.variant, row.backbone, row.epochs)
                if (
                    best is None
                    and (n.confidence, n.kind) == (sureness, kind)
                    and who == (*mine, "ImageNet-1K")
                ):
                    best = n.value
    mean = sum(values) / len(values)
    return mean, best, None if best is None else mean - best


def test_every_row_of_the_sample_agrees_with_the_oracle(tmp_path):
    records = sample_records()
    rows = [row for row in rows_of(tmp_path, records) if row.state == "measured"]
    assert len(rows) == 11
    assert sum(row.delta is not None for row in rows) == 7
    for row in rows:
        mean, published, delta = oracle(records, row)
        assert row.mean == pytest.approx(mean, abs=1e-9)
        assert (row.published.value if row.published else None) == published
        assert row.delta == (None if delta is None else pytest.approx(delta, abs=1e-9))


@pytest.mark.parametrize(
    "change",
    [
        {"task": ("COCO", "DET-VITDET-50e", "x")},
        {"backbone": "ViT-S/16"},
        {"backbone": "Hybrid-B"},
        {"epochs": 800},
        {"epochs": None},
        {"variant": "loss-byol"},
        {"method": "MAE+"},
        {"pretrain_data": "ImageNet-22K"},
    ],
)
def test_no_difference_where_anything_disagrees(tmp_path, change):
    (row, _) = rows_of(tmp_path, [make_record("MAE")])
    assert row.delta == pytest.approx(52.4 - 51.6)
    for row in rows_of(tmp_path / "other", [make_record(**{"method": "MAE", **change})]):
        assert row.published is None
        assert row.delta is None
        assert row.flag == ""


@pytest.mark.parametrize(
    ("value", "flag"), [(0.516, "within"), (0.5199, "within"), (0.5201, "better"), (0.5119, "worse")]
)
def test_flags_at_the_limit(tmp_path, value, flag):
    """One run of MAE under ViTDet: 51.6 published, limit 0.3926."""
    (row,) = rows_of(tmp_path, [make_record("MAE", values={COCO: value})])
    assert row.flag == flag


def test_lower_is_better_for_errors(tmp_path):
    task = ("ImageNet-C", "IN-ROBUST", "x")
    values = ((45.0, 45.1, 44.9), (55.0, 55.1, 54.9))
    for place, (triple, flag) in enumerate(zip(values, ("better", "worse"), strict=True)):
        records = [make_record("MAE", s, {"mCE": v}, task) for s, v in enumerate(triple)]
        (row,) = rows_of(tmp_path / str(place), records)
        assert row.published.value == 51.7
        assert row.flag == flag
    both = [make_record("MAE", 0, {"mCE": 50.0}, task), make_record("CMAE", 0, {"mCE": 40.0}, task)]
    assert [row.method for row in rows_of(tmp_path / "order", both)] == ["CMAE", "MAE"]


def test_one_run_without_known_noise_gets_no_verdict(tmp_path):
    (row,) = rows_of(tmp_path, [make_record("MAE", 0, {MIOU: 40.0}, ADE_TASK)])
    assert (row.flag, row.limit) == ("unknown", None)


def test_a_published_spread_is_preferred_to_the_measured_one(tmp_path):
    records = [make_record("CMAE", s, {TOP1: v}, FT_TASK, epochs=300) for s, v in enumerate((83.0, 84.6))]
    (row,) = rows_of(tmp_path, records)
    assert row.limit.noise.source == "mae-repo"
    assert row.flag == "within"


def test_random_initialisation_is_subtracted_within_its_task_only(tmp_path):
    records = [
        make_record("random init", 0, {COCO: 0.40}, epochs=None),
        make_record("random init", 1, {COCO: 0.42}, epochs=None),
        make_record("CMAE", 0, {COCO: 0.50}),
        make_record("CMAE", 0, {COCO: 0.50}, backbone="ViT-S/16", name="small"),
        make_record("CMAE", 0, {MIOU: 49.0}, ADE_TASK),
    ]
    rows = {(row.method, row.backbone, row.metric.key): row for row in rows_of(tmp_path, records)}
    assert rows["CMAE", "ViT-B/16", "box_AP"].over_random == pytest.approx(9.0)
    assert rows["random init", "ViT-B/16", "box_AP"].over_random is None
    assert rows["CMAE", "ViT-S/16", "box_AP"].over_random is None
    assert rows["CMAE", "ViT-B/16", "mIoU"].over_random is None


def test_protocols_are_never_mixed_and_seeds_stay_in_order(tmp_path):
    records = [
        make_record("MAE", 2, {COCO: 0.53}),
        make_record("MAE", 1, {COCO: 0.52}),
        make_record("MAE", 0, {COCO: 0.40}, ("COCO", "DET-L21", "y")),
    ]
    records[2]["name"] = "other"
    first, second = rows_of(tmp_path, records)
    assert (first.seeds, first.values) == ((1, 2), pytest.approx((52.0, 53.0)))
    assert (second.protocol.key, second.published.value) == ("DET-L21", 50.3)


def test_rows_that_differ_in_their_config_only_are_told_apart(tmp_path):
    records = [
        make_record("MAE", 0, {COCO: v}, name=c, config=f"configs/{c}.py")
        for c, v in (("a", 0.5), ("b", 0.6))
    ]
    assert [(row.variant, row.mean) for row in rows_of(tmp_path, records)] == [("b", 60.0), ("a", 50.0)]


def test_given_weights_and_ours_are_two_rows_with_one_published_value(tmp_path):
    both = (("here", 0.51), ("given", 0.516))
    records = [make_record("MAE", 0, {COCO: v}, weights=w, name=w) for w, v in both]
    rows = rows_of(tmp_path, records)
    assert [(row.variant, row.published.value) for row in rows] == [
        ("given weights", 51.6),
        ("pretrained here", 51.6),
    ]
    (alone,) = rows_of(tmp_path / "alone", records[:1])
    assert alone.variant == ""


def test_the_whole_method_in_an_ablation_is_the_method(tmp_path):
    record = make_record("CMAE", 0, {TOP1: 83.8}, FT_TASK, epochs=300, variant="components-both")
    (row,) = rows_of(tmp_path, [record])
    assert (row.variant, row.published.value) == ("components-both", 83.8)


def test_published_rows_stand_beside_the_same_backbone_only(tmp_path):
    rows = rows_of(tmp_path, sample_records(), references=True)
    added = [row for row in rows if row.state == "published"]
    assert len(added) > 15
    for row in added:
        assert row.backbone == "ViT-B/16"
        assert row.published.confidence != "unsure"
        assert row.variant == ""
        assert row.delta is None
    seg = [row for row in added if row.protocol.key == "SEG-UP"]
    assert "SimMIM" not in {row.method for row in seg}
    keys = [
        (r.protocol.key, r.metric.key, r.method, r.epochs)
        for r in rows
        if r.state in ("measured", "published")
    ]
    assert len(keys) == len(set(keys))
    values = [row.sort_value for row in rows if (row.protocol.key, row.metric.key) == ("SEG-UP", "mIoU")]
    assert values == sorted(values, reverse=True)
    mini = rows_of(
        tmp_path / "mini", [make_record(backbone="ViT-mini/8", task=("COCO", "mini-vitdet", "x"))], None, True
    )
    assert [row.state for row in mini] == ["measured", "measured"]


def test_failed_and_open_rows_come_last(tmp_path):
    failed = {**make_record("MAE", 3, {}), "status": "failed", "reason": "because"}
    same = {"task": "COCO", "protocol": "DET-VITDET", "backbone": "ViT-B/16", "epochs": 1600}
    planned = [
        {**same, "method": "CMAE"},
        {**same, "method": "MAE"},
        {**same, "method": "MoCo v3", "epochs": None},
        {},
    ]
    rows = rows_of(tmp_path, [failed, make_record()], {"planned": planned})
    assert [(row.state, row.method) for row in rows] == [
        ("measured", "CMAE"),
        ("measured", "CMAE"),
        ("failed", "MAE"),
        ("not run", "MoCo v3"),
        ("not run", ""),
    ]
    assert rows[2].records[0].texts["reason"] == "because"
    pretrain = make_record() | {"kind": "pretrain"}
    assert rows_of(tmp_path / "p", [pretrain]) == []
    assert COCO_TASK[1] == "DET-VITDET"
