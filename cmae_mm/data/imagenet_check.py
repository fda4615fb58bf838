"""``cmae-mm data check imagenet``: what is there, whether it is complete, readable and labelled in the right order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from cmae_mm.data.image_facts import Facts, look_at_all
from cmae_mm.data.image_files import spread
from cmae_mm.data.imagenet_layout import WNID, find_classes, find_split, label_lists, wnids
from cmae_mm.data.progress import CountLine
from cmae_mm.data.sources import Source
from cmae_mm.data.sources.listed import ListedSource
from cmae_mm.errors import UserError

PUBLISHED = {"train": 1_281_167, "val": 50_000}
QUICK = 2000
"""Images that the quick check decodes of each split, evenly spread."""

_SHOWN = 3


@dataclass
class SplitReport:
    """What was found of one split.

    Attributes:
        name: ``train`` or ``val``.
        layout: In words; empty if nothing was found.
        where: Folder or file.
        images: How many there are.
        classes: Class name to number of images.
        facts: Of the images that were decoded.
        problems: In sentences.
    """

    name: str
    layout: str = ""
    where: str = ""
    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    problems: list[str] = field(default_factory=list)


def check_command(
    root: Path,
    splits: Sequence[str],
    full: bool,
    workers: int,
    record: Path | None = None,
    write_list: bool = False,
) -> int:
    """Check, print, and write what is asked for.

    Args:
        root: Data root, or one tar.
        splits: Of ``train`` and ``val``.
        full: Decode every image.
        workers: Processes.
        record: JSON with every name; None for none.
        write_list: Write ``meta/val.txt`` beside a flat val, which mmpretrain's ``ImageNet`` reads.

    Returns:
        0 if all is well, 1 if there are problems.

    Raises:
        UserError: There is nothing, or the record cannot be written.
    """
    if not root.exists():
        raise UserError(f"there is no {root}; give the folder that holds train and val, or a tar")
    found = {split: find_split(root, split) for split in splits}
    if not any(found.values()):
        found = {root.name: find_classes(root)}
    reports = [
        check_split(root, split, source, full, workers, CountLine("images"))
        for split, source in found.items()
    ]
    if not any(r.images for r in reports):
        raise UserError(
            f"{root}: holds none of {', '.join(splits)} in a layout that is known: class folders, a flat val with its "
            f"lists, Kaggle's folders, tars, shards or parquet files"
        )
    problems = _tell(reports, full)
    if write_list:
        print(_write_list(found.get("val")))
    if record is not None:
        splits_found = [{**vars(r), "facts": vars(r.facts)} for r in reports]
        _write(record, {"root": str(root), "full": full, "splits": splits_found, "problems": problems})
    return 1 if problems else 0


def _tell(reports: Sequence[SplitReport], full: bool) -> list[str]:
    """Print what was found; returns the problems."""
    for report in reports:
        print("\n".join(_lines(report)))
    problems = [p for r in reports for p in r.problems] + _differing_classes(reports)
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        print(f"{len(problems)} problem{'s' * (len(problems) > 1)}")
    else:
        print("no problems found" + ("" if full else _quick_note(reports)))
    return problems


def check_split(
    root: Path,
    split: str,
    source: Source | None,
    full: bool,
    workers: int,
    progress: Callable[[int, int], None],
) -> SplitReport:
    """Check one split.

    Args:
        root: Data root, or one tar.
        split: ``train`` or ``val``, or the name of a folder of classes.
        source: Its images, if there are any.
        full: Decode every image, not `QUICK` of them.
        workers: Processes that decode; 0 takes this one.
        progress: Called with images done and their number.

    Returns:
        What was found.

    Raises:
        UserError: A list, tar or parquet file is damaged.
    """
    report = SplitReport(split)
    if source is None:
        report.problems.append(f"{split}: there is nothing of it in {root}")
        return report
    report.layout, report.where, report.images = source.kind, source.where, len(source)
    rows = list(range(len(source))) if full else spread(range(len(source)), QUICK)
    report.facts = look_at_all(source, rows, workers, progress)
    report.problems += [
        *_unreadable(report),
        *_labels(source, report, root),
        *_order(source, rows if source.kind == "parquet files" else range(len(source)), report),
        *_counts(report),
    ]
    return report


def _unreadable(report: SplitReport) -> Iterable[str]:
    for name, reason in report.facts.broken[:_SHOWN]:
        yield f"{report.name}: cannot read {name} ({reason})"
    if (rest := len(report.facts.broken) - _SHOWN) > 0:
        yield f"{report.name}: so it is with {rest:,} more images; --json FILE lists all"


def _labels(source: Source, report: SplitReport, root: Path) -> Iterable[str]:
    """Count classes; compare lists where there are several."""
    count = Counter(source.label(i) for i in range(len(source)))
    names = source.classes
    report.classes = {name: count.get(i, 0) for i, name in enumerate(names)}
    strange = sum(n for label, n in count.items() if not 0 <= label < max(len(names), 1) or not names)
    if strange:
        yield (
            f"{report.name}: {strange:,} images have no label; add the devkit, Kaggle's LOC_val_solution.csv or "
            f"meta/{report.name}.txt"
        )
    empty = [name for name, n in report.classes.items() if n == 0]
    if empty and len(names) != 1000:
        yield f"{report.name}: {len(empty)} classes have no images ({_few(empty)})"
    lists = list(label_lists(root, report.name).items()) if root.is_dir() else []
    for (first, a), (second, b) in pairwise(lists):
        stems = {PurePosixPath(k).stem: v for k, v in a.items()}
        wrong = [k for k, v in b.items() if stems.get(PurePosixPath(k).stem, v) != v]
        if wrong:
            yield (
                f"{report.name}: {first} and {second} disagree about {len(wrong):,} images ({_few(wrong)}); labels are "
                f"places in the sorted list of synsets, not the devkit's own numbers"
            )


def _order(source: Source, rows: Iterable[int], report: SplitReport) -> Iterable[str]:
    """Compare labels with the synset that stands in a file's name or its folder's."""
    places = {wnid: i for i, wnid in enumerate(wnids())}
    names = source.classes
    if set(names) - set(places) and any(WNID.fullmatch(n) for n in names):
        places = {
            wnid: i for i, wnid in enumerate(names)
        }  # not the 1000, but synsets: the folders' own order
    elif not names or len(names) < 1000:
        places = {wnid: i for i, wnid in enumerate(names)}
    wrong = []
    for row in rows:
        path = PurePosixPath(source.name(row).replace(":", "/"))
        found = WNID.match(path.name) or WNID.fullmatch(path.parent.name)
        if found and found[0] in places and source.label(row) not in (-1, places[found[0]]):
            wrong.append(path.name)
    if wrong:
        yield (
            f"{report.name}: {len(wrong):,} images have another label than their synset's place in the sorted list "
            f"({_few(wrong)})"
        )


def _counts(report: SplitReport) -> Iterable[str]:
    if not _is_imagenet(report.classes) or report.name not in PUBLISHED:
        return
    published = PUBLISHED[report.name]
    if report.images != published:
        way = "fewer" if report.images < published else "more"
        difference = f"{abs(report.images - published):,} {way} than the published {published:,}"
        yield f"{report.name}: {report.images:,} images, {difference}"
    elif report.name == "val" and set(report.classes.values()) != {50}:
        other = [name for name, n in report.classes.items() if n != 50]
        yield f"val: {len(other)} classes have not 50 images ({_few(other)}): its labels are of another list"


def _is_imagenet(classes: dict[str, int]) -> bool:
    return set(classes) in (set(wnids()), {str(i) for i in range(1000)})


def _differing_classes(reports: Sequence[SplitReport]) -> list[str]:
    known = [r for r in reports if r.classes and not all(name.isdecimal() for name in r.classes)]
    if len(known) < 2 or set(known[0].classes) == set(known[1].classes):
        return []
    only = sorted(set(known[0].classes) ^ set(known[1].classes))
    return [f"{known[0].name} and {known[1].name} have different classes ({_few(only)})"]


def _lines(report: SplitReport) -> Iterable[str]:
    if not report.images:
        return
    yield f"{report.name}: {report.layout}, {report.where}"
    if report.classes:
        sizes = sorted(report.classes.values())
        kind = (
            "the 1000 classes of ImageNet-1k" if _is_imagenet(report.classes) else f"{len(sizes):,} classes"
        )
        inside = sum(name in set(wnids()) for name in report.classes)
        also = "" if _is_imagenet(report.classes) or not inside else f", {inside} of them of ImageNet-1k"
        yield f"  {report.images:,} images of {kind}{also}; {sizes[0]:,} to {sizes[-1]:,} images a class"
    else:
        yield f"  {report.images:,} images, classes not known"
    facts = report.facts
    kinds = ", ".join(f"{name} {n:,}" for name, n in facts.formats.most_common())
    yield f"  {facts.images:,} decoded: {kinds}; {len(facts.broken):,} cannot be read"
    if facts.misnamed:
        yield f"  named otherwise than they are: {_named(facts.misnamed)}; read by their content"
    grey = sum(facts.modes[mode] for mode in ("L", "LA", "1"))
    yield f"  greyscale {grey:,}, CMYK {_named(facts.cmyk)}: read as RGB"
    yield f"  EXIF orientation {_named(facts.turned)}: not applied, as published numbers are made"


def _named(names: Sequence[str]) -> str:
    return f"{len(names):,} ({_few(names)})" if names else "0"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(PurePosixPath(name).name for name in names[:_SHOWN])
    return f"{shown} ..." if len(names) > _SHOWN else shown


def _quick_note(reports: Sequence[SplitReport]) -> str:
    seen, every = sum(r.facts.images for r in reports), sum(r.images for r in reports)
    return f"; {seen:,} of {every:,} images were decoded, --full decodes all" if seen < every else ""


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --json") from None


def _write_list(source: Source | None) -> str:
    """Write the labels of a flat val as OpenMMLab's list; returns what was done.

    Raises:
        UserError: There is no flat val with labels, or the list cannot be written.
    """
    if not isinstance(source, ListedSource) or not source.classes or min(source.labels, default=-1) < 0:
        raise UserError(
            "--write-list: there is no flat val whose labels are known; class folders need no list"
        )
    file = Path(source.where).parent / "meta" / "val.txt"
    if file.exists() or "meta" in Path(source.where).parts[-2:]:
        return f"{file}: is there already"
    lines = [f"{path.name} {label}\n" for path, label in zip(source.files, source.labels, strict=True)]
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(lines))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); make the folder writable") from None
    return f"{file}: written, {len(lines):,} labels"
