"""Class lists that lie beside a segmentation set."""

from __future__ import annotations

import csv
from pathlib import Path

from cmae_mm.errors import UserError

FILES = ("classes.txt", "objectInfo150.csv", "objectInfo150.txt")
"""Looked for in this order; the last two are ADE20K's own."""


def read_class_names(root: str | Path) -> tuple[str, ...]:
    """Read the class list of a folder in ADE20K layout.

    Understood are a name in each line; a number and a name, separated by a tab, where 0 is void and is left out; and
    ADE20K's table, of whose synonyms the first one is taken. Where there are numbers they must be 1, 2, 3 ...

    Args:
        root: Folder with one of `FILES`.

    Returns:
        Names of the classes; the first one has the label 1.

    Raises:
        UserError: There is no such file, or it names no classes in order.
    """
    found = [Path(root) / name for name in FILES if (Path(root) / name).is_file()]
    if not found:
        raise UserError(
            f"{root} has no class list: put a classes.txt there with one name in each line, in the order of the labels"
        )
    path = found[0]
    text = path.read_text(encoding="utf-8-sig")
    if path.name == "classes.txt":
        rows = [line.split("\t") for line in text.splitlines() if line.strip()]
        numbered = [(row[0], row[1]) for row in rows if len(row) > 1]
        pairs = (
            numbered
            if len(numbered) == len(rows)
            else [(str(k), row[0]) for k, row in enumerate(rows, start=1)]
        )
    else:
        table = csv.reader(text.splitlines(), delimiter="," if path.suffix == ".csv" else "\t")
        pairs = [(row[0], row[-1].replace(",", ";").split(";")[0]) for row in list(table)[1:] if row]
    names = [(number.strip(), name.strip()) for number, name in pairs if number.strip() != "0"]
    if not names or [number for number, _ in names] != [str(k) for k in range(1, len(names) + 1)]:
        raise UserError(f"{path} does not number its classes 1, 2, 3 ... in order (0 is void); correct it")
    return tuple(name for _, name in names)
