"""The embedded data: three small sets of rendered scenes, in ImageNet, COCO and ADE20K layout.

Every picture has its own random generator, seeded by (seed, set, index). So the files are the same
whatever the number of processes, and a smaller set is the beginning of a larger one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cmae_mm.data import annotate, scene
from cmae_mm.data.taxonomy import CLASSES_ADE20K, CLASSES_COCO, CLASSES_IMAGENET, COCO_CATEGORY_IDS
from cmae_mm.errors import UserError

VERSION = 3
"""Of the pictures: raise it with every change that alters a file."""

KIND = "cmae_mm mini data"
EMPTY_EVERY, CROWD_EVERY = 25, 12
_CHUNK = 40

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MiniSizes:
    """How many pictures each set has.

    Attributes:
        imagenet_train: Pictures of each class for training.
        imagenet_val: Pictures of each class for validation.
        coco_train: Pictures of the detection set for training.
        coco_val: For validation.
        ade20k_train: Pictures of the segmentation set for training.
        ade20k_val: For validation.
    """

    imagenet_train: int = 300
    imagenet_val: int = 50
    coco_train: int = 400
    coco_val: int = 100
    ade20k_train: int = 400
    ade20k_val: int = 100


SETS: tuple[str, ...] = tuple(MiniSizes.__dataclass_fields__)
"""Names of the sets; the position is the number in a picture's seed."""


@dataclass(frozen=True)
class _Task:
    """A run of pictures of one set, to be made by one process."""

    root: str
    seed: int
    which: str
    first: int
    last: int


@dataclass
class _Made:
    """What a task gave: a digest for each file, and rows for COCO's JSON file."""

    pictures: int
    digests: dict[str, str]
    rows: list[tuple[dict[str, Any], list[dict[str, Any]]]]


def picture_rng(seed: int, which: str, index: int) -> np.random.Generator:
    """The generator of one picture.

    Args:
        seed: Of the whole data.
        which: One of `SETS`.
        index: Number of the picture in its set.

    Returns:
        A fresh generator.
    """
    return np.random.default_rng([seed, SETS.index(which), index])


def _write(root: Path, name: str, content: bytes) -> dict[str, str]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest()}


def _jpeg(image: scene.Image, quality: int) -> bytes:
    done, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return content.tobytes()


def _imagenet(task: _Task, index: int, made: _Made) -> None:
    rng, split = picture_rng(task.seed, task.which, index), task.which.removeprefix("imagenet_")
    number, label = divmod(index, len(CLASSES_IMAGENET))
    name = CLASSES_IMAGENET[label]
    image = scene.imagenet_scene(rng, name)
    path = f"imagenet/{split}/{name}/{name}_{number:05d}.jpg"
    made.digests |= _write(Path(task.root), path, _jpeg(image, int(rng.integers(82, 94))))


def _coco(task: _Task, index: int, made: _Made) -> None:
    rng, split = picture_rng(task.seed, task.which, index), task.which.removeprefix("coco_")
    # By number and not by chance, so that even a tiny set has both.
    empty, crowd = index % EMPTY_EVERY == 7, index % CROWD_EVERY == 5
    image, instances = scene.coco_scene(rng, empty=empty, crowd=crowd)
    image_id = 13 * index + (17 if split == "train" else 1_000_017)
    h, w = image.shape[:2]
    row = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": w, "height": h, "license": 1}
    entries = [annotate.coco_annotation(i.name, i.mask, i.crowd) for i in instances]
    made.rows.append((row, entries))
    content = _jpeg(image, int(rng.integers(84, 95)))
    made.digests |= _write(Path(task.root), f"coco/{split}2017/{row['file_name']}", content)


def _ade20k(task: _Task, index: int, made: _Made) -> None:
    rng, split = picture_rng(task.seed, task.which, index), task.which.removeprefix("ade20k_")
    folder = {"train": "training", "val": "validation"}[split]
    image, labels = scene.ade20k_scene(rng)
    name = f"ADE_{split}_{index:08d}"
    content = _jpeg(image, int(rng.integers(84, 95)))
    made.digests |= _write(Path(task.root), f"ade20k/images/{folder}/{name}.jpg", content)
    done, png = cv2.imencode(".png", labels)
    assert done
    made.digests |= _write(Path(task.root), f"ade20k/annotations/{folder}/{name}.png", png.tobytes())


_MAKERS = {"imagenet": _imagenet, "coco": _coco, "ade20k": _ade20k}


def _run(task: _Task) -> _Made:
    """Make the pictures of one task. Runs in a worker process."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        made = _Made(task.last - task.first, {}, [])
        for index in range(task.first, task.last):
            _MAKERS[task.which.split("_")[0]](task, index, made)
        return made
    finally:
        cv2.setNumThreads(threads)


def _counts(sizes: MiniSizes) -> dict[str, int]:
    per_class = len(CLASSES_IMAGENET)
    return {k: n * (per_class if k.startswith("imagenet") else 1) for k, n in asdict(sizes).items()}


def _tasks(root: Path, seed: int, sizes: MiniSizes) -> list[_Task]:
    return [
        _Task(str(root), seed, which, first, min(first + _CHUNK, count))
        for which, count in _counts(sizes).items()
        for first in range(0, count, _CHUNK)
    ]


def _can_spawn() -> bool:
    """Whether a fresh process could import the main program: not when it was read from standard input."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or path is None or Path(path).is_file()


def _run_all(tasks: list[_Task], workers: int) -> Iterator[tuple[int, _Made]]:
    """Results with the number of their task, in the order in which they come."""
    if workers == 1 or len(tasks) == 1 or not _can_spawn():
        yield from ((k, _run(task)) for k, task in enumerate(tasks))
        return
    # Spawn and not fork: the caller may hold threads (torch), whose locks a fork would copy.
    # Ctrl-C reaches the whole process group; only this process answers it, so that it can clean up.
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        futures = {pool.submit(_run, task): k for k, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that renders the mini data died (out of memory, or a script without "
            "`if __name__ == '__main__'`); try again with workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _coco_json(rows: list[tuple[dict[str, Any], list[dict[str, Any]]]], split: str) -> bytes:
    entries: list[dict[str, Any]] = []
    for row, found in rows:
        for entry in found:
            entries.append({"id": len(entries) + 1, "image_id": row["id"], **entry})
    pairs = zip(COCO_CATEGORY_IDS, CLASSES_COCO, strict=True)
    about = {
        "description": f"{KIND}, {split}",
        "version": str(VERSION),
        "year": 2026,
        "contributor": "cmae_mm",
    }
    whole = {
        "info": {**about, "url": "", "date_created": "2026/01/01"},
        "licenses": [
            {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
        ],
        "images": [row for row, _ in rows],
        "annotations": entries,
        "categories": [{"id": k, "name": name, "supercategory": "object"} for k, name in pairs],
    }
    return json.dumps(whole, separators=(",", ":")).encode()


def _write_lists(root: Path, tasks: list[_Task], made: list[_Made]) -> dict[str, str]:
    """The class lists and COCO's JSON files."""
    digests = _write(root, "imagenet/classes.txt", ("\n".join(CLASSES_IMAGENET) + "\n").encode())
    names = "".join(f"{k}\t{name}\n" for k, name in enumerate(("void", *CLASSES_ADE20K)))
    digests |= _write(root, "ade20k/classes.txt", names.encode())
    for split in ("train", "val"):
        rows = [row for t, m in zip(tasks, made, strict=True) if t.which == f"coco_{split}" for row in m.rows]
        digests |= _write(root, f"coco/annotations/instances_{split}2017.json", _coco_json(rows, split))
    return digests


def _content_hash(digests: dict[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _fill(root: Path, seed: int, sizes: MiniSizes, workers: int, progress: Progress | None) -> dict[str, Any]:
    """Write everything into `root`, the manifest last, and return the manifest."""
    tasks = _tasks(root, seed, sizes)
    total, done = sum(t.last - t.first for t in tasks), 0
    results: dict[int, _Made] = {}
    for k, made in _run_all(tasks, workers):
        results[k] = made
        done += made.pictures
        if progress is not None:
            progress(done, total)
    ordered = [results[k] for k in range(len(tasks))]
    digests = {name: digest for made in ordered for name, digest in made.digests.items()}
    digests |= _write_lists(root, tasks, ordered)
    manifest = {
        "kind": KIND,
        "version": VERSION,
        "seed": seed,
        "sizes": asdict(sizes),
        "counts": _counts(sizes),
        "files": len(digests),
        "sha256": _content_hash(digests),
    }
    _write(root, "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def _existing(out: Path, seed: int, sizes: MiniSizes) -> dict[str, Any] | None:
    """The manifest of a finished set in `out` that is the one asked for; None when the place is free.

    Raises:
        UserError: The place is taken by something else.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a folder for the mini data")
    if not any(out.iterdir()):
        return None
    manifest: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        manifest = json.loads((out / "manifest.json").read_text())
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise UserError(f"{out} is not empty and holds no mini data; give a new folder or an empty one")
    wanted = {"version": VERSION, "seed": seed, "sizes": asdict(sizes)}
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise UserError(
                f"{out} holds mini data with another {key} ({manifest.get(key)}, asked for {value}); "
                "give another folder or remove that one"
            )
    present = sum(len(names) for _, _, names in os.walk(out)) - 1
    if present < int(manifest.get("files", 0)):
        raise UserError(
            f"{out} holds {present} of the {manifest['files']} files of its mini data; remove it and make it again"
        )
    return manifest


def make_mini(
    out: Path,
    seed: int = 0,
    workers: int | None = None,
    sizes: MiniSizes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the three sets in `out`, or do nothing where they already are.

    They appear in one step: they are made in a hidden folder beside `out`, which is renamed when it is
    complete and removed when something goes wrong.

    Args:
        out: Folder to make; must not exist, be empty, or hold the same data.
        seed: Not negative; another seed gives other pictures of the same kind.
        workers: Processes; as many as there are processors, at most 8, when not given.
        sizes: Numbers of pictures.
        progress: Called with the numbers of pictures made and to be made.

    Returns:
        The content of `manifest.json`, and `made`: False when the data was already there.

    Raises:
        UserError: `out` holds something else or cannot be written, or an argument is out of range.
    """
    out, sizes = Path(out).absolute(), sizes or MiniSizes()
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if seed < 0 or workers < 1 or min(asdict(sizes).values()) < 1:
        raise UserError("the mini data needs a seed of 0 or more, at least one worker and no empty set")
    found = _existing(out, seed, sizes)
    if found is not None:
        return {**found, "made": False}
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        manifest = _fill(partial, seed, sizes, workers, progress)
        try:
            partial.rename(out)  # onto nothing or an empty folder
        except OSError:
            found = _existing(out, seed, sizes)  # another run may have been faster
            if found is None:
                raise
            return {**found, "made": False}
    except OSError as error:
        raise UserError(f"cannot write the mini data to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {**manifest, "made": True}


def verify_mini(out: Path) -> bool:
    """Whether every file of a finished set is as it was made.

    Args:
        out: Folder that `make_mini` filled.

    Returns:
        True when the hash of the content is the one in the manifest.

    Raises:
        UserError: There is no mini data in `out`.
    """
    out = Path(out)
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        expected = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{out} holds no finished mini data; make it with `cmae-mm data mini --out DIR`"
        ) from error
    files = [p for p in out.rglob("*") if p.is_file() and p != out / "manifest.json"]
    digests = {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return bool(_content_hash(digests) == expected)
