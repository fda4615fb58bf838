"""Numbers of each class beside the metrics of a whole data set."""

from __future__ import annotations


class ClassTable(dict[str, dict[str, float | None]]):
    """Numbers of each class; short in a line of the log, whole in a record."""

    def __str__(self) -> str:
        return f"{len(self)} classes"
