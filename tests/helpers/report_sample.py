"""A small benchmark of made-up runs for tests of the report, written by code: the same bytes every time."""

import json
import math
import random

from PIL import Image, ImageDraw

COCO, SEGM, TOP1, MIOU = "coco/bbox_mAP", "coco/segm_mAP", "accuracy/top1", "mIoU"
COCO_TASK = ("COCO", "DET-VITDET", "configs/coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py")
ADE_TASK = ("ADE20K", "SEG-UP", "configs/ade20k/upernet_vit-b-p16_8xb2-amp-160k_ade20k-512x512.py")
FT_TASK = ("ImageNet-1K", "IN-FT", "configs/imagenet/vit-b-p16_finetune.py")


def make_record(method="CMAE", seed=0, values=None, task=COCO_TASK, backbone="ViT-B/16", epochs=1600, **more):
    """A record as the benchmark writes it; values in the raw unit of a run."""
    title, protocol, config = task
    name = f"{title}-{method}-{more.get('variant', '')}-{epochs}-seed{seed}".lower().replace(" ", "-")
    values = {COCO: 0.524, SEGM: 0.465} if values is None else values
    return {
        "schema": 1,
        "name": name,
        "kind": "transfer",
        "status": "done",
        "task": title,
        "protocol": protocol,
        "method": method,
        "backbone": backbone,
        "epochs": epochs,
        "seed": seed,
        "metrics": {key: {"last": v, "best": v + 1e-4} for key, v in values.items()},
        "main_metrics": list(values),
        "config": config,
        "config_sha256": "0f" * 32,
        "backbone_file": f"backbones/{method.lower().replace(' ', '-')}-seed{seed}.safetensors",
        "backbone_sha256": "ab" * 32,
        "data": {"name": title, "fingerprint": "d41d8cd9"},
        "commit": "0123456789ab",
        "packages": {"cmae_mm": "0.1.0", "torch": "2.13.0"},
        "hardware": {"device": "NVIDIA H100", "processes": 8},
        "seconds": 43210.5,
        "iterations": 184375,
        "peak_memory_bytes": 11_700_000_000,
        "finished": "2026-01-02T03:04:05+00:00",
        "command": [
            *("python", "tools/train.py", config, "--seed", str(seed)),
            *("--backbone", f"backbones/{method.lower().replace(' ', '-')}-seed{seed}.safetensors"),
        ],
        **more,
    }


def write_benchmark(out, records, about=None):
    """Write records, and benchmark.json if given, as a benchmark's folder; returns the folder."""
    (out / "records").mkdir(parents=True, exist_ok=True)
    for place, record in enumerate(records):
        (out / "records" / f"{place:02d}.json").write_text(json.dumps(record))
    if about is not None:
        (out / "benchmark.json").write_text(json.dumps(about))
    return out


def picture(path, seed, columns=4):
    """A strip of made-up pictures: shapes on a gradient, beside a coarse copy."""
    draw = random.Random(seed)
    size = 120
    strip = Image.new("RGB", (columns * size, 2 * size))
    for column in range(columns):
        tile = Image.linear_gradient("L").resize((size, size)).convert("RGB")
        tint = Image.new("RGB", (size, size), tuple(draw.randint(60, 220) for _ in range(3)))
        tile = Image.blend(tile, tint, 0.6)
        pen = ImageDraw.Draw(tile)
        for _ in range(3):
            x, y, r = draw.randint(0, 90), draw.randint(0, 90), draw.randint(12, 40)
            color = tuple(draw.randint(0, 255) for _ in range(3))
            (pen.ellipse if draw.random() < 0.5 else pen.rectangle)((x, y, x + r, y + r), fill=color)
        coarse = tile.resize((15, 15), Image.Resampling.BOX).resize((size, size), Image.Resampling.NEAREST)
        strip.paste(tile, (column * size, 0))
        strip.paste(coarse, (column * size, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path)


def scalars(path, seed, level=1.0, keys=("loss",)):
    """A scalar log as mmengine writes it."""
    draw = random.Random(seed)
    lines = []
    for step in range(20, 2001, 20):
        line = {"step": step}
        for place, key in enumerate(keys):
            decay = math.exp(-step / 500) * 2
            line[key] = level * (0.6 + decay) / (place + 1) + draw.gauss(0, 0.03)
        lines.append(json.dumps(line))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def sample_records():
    """Three tasks, three methods, up to three seeds; one failed run."""
    rows = [
        ("CMAE", 1600, COCO_TASK, [(0.5243, 0.4651), (0.5238, 0.4660), (0.5251, 0.4655)], (COCO, SEGM)),
        ("MAE", 1600, COCO_TASK, [(0.5154, 0.4586), (0.5163, 0.4581), (0.5149, 0.4592)], (COCO, SEGM)),
        ("random init", None, COCO_TASK, [(0.4411, 0.3966)], (COCO, SEGM)),
        ("CMAE", 1600, ADE_TASK, [(49.71,), (50.12,), (49.94,)], (MIOU,)),
        ("MAE", 1600, ADE_TASK, [(48.22,), (47.81,), (48.05,)], (MIOU,)),
        ("CMAE", 300, FT_TASK, [(83.42,), (83.29,), (83.37,)], (TOP1,)),
        ("MAE", 300, FT_TASK, [(82.93,), (83.02,), (82.88,)], (TOP1,)),
        ("my encoder", 100, FT_TASK, [(81.10,)], (TOP1,)),
    ]
    records = []
    for method, epochs, task, values, keys in rows:
        for seed, one in enumerate(values):
            records.append(make_record(method, seed, dict(zip(keys, one, strict=True)), task, epochs=epochs))
    failed = make_record("Multi-View MAE", 0, {}, COCO_TASK)
    reason = "CUDA out of memory at iteration 1200; use --accumulate 2"
    return [*records, {**failed, "status": "failed", "reason": reason}]


def write_sample(out):
    """A whole benchmark's folder with curves and pictures; returns the folder."""
    records = sample_records()
    for place, record in enumerate(records):
        if record["status"] == "done" and record["seed"] == 0:
            work = f"runs/{place}"
            scalars(out / work / "20260101" / "vis_data" / "scalars.json", place, 1 + place / 20)
            record["curves"] = [work]
    pretrain = make_record("CMAE", 0, {}, ("Pretraining", "", "configs/pretrain/cmae.py"))
    scalars(out / "runs/p/1/vis_data/scalars.json", 9, keys=("loss", "loss_rec", "loss_con"))
    pretrain |= {"kind": "pretrain", "name": "pretrain-cmae", "curves": ["runs/p"]}
    pretrain["pictures"] = [
        {"path": "pictures/views.png", "kind": "reconstructions", "caption": "Input and reconstruction"}
    ]
    records[0]["pictures"] = [
        {"path": "pictures/boxes.png", "kind": "detections", "caption": "Ground truth above detections"},
        {"path": "pictures/absent.png", "kind": "detections", "caption": "not made yet"},
    ]
    records[7]["pictures"] = [
        {"path": "pictures/labels.png", "kind": "segmentation", "caption": "Label maps above predictions"}
    ]
    for seed, name in enumerate(("views", "boxes", "labels")):
        picture(out / "pictures" / f"{name}.png", seed)
    planned = {"task": "COCO", "protocol": "DET-VITDET", "method": "MoCo v3", "backbone": "ViT-B/16"}
    about = {
        "schema": 1,
        "title": "CMAE and MAE on ImageNet, COCO and ADE20K",
        "note": "Every number on this page is made up, to show what a report looks like.",
        "planned": [{**planned, "epochs": 300, "seeds": [0]}],
    }
    return write_benchmark(out, [pretrain, *records], about)
