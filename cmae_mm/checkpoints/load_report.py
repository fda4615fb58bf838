"""What a load did, tensor by tensor: short on the screen, whole in the log file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmengine.logging import MMLogger

NAMED = 3  # names or groups of names on the screen


@dataclass
class LoadReport:
    """What a load did.

    Attributes:
        path: The backbone file.
        matched: Keys that were copied as they are.
        resized: Keys that were copied in another size, with the old and the new one, such as ``"14x14 to 32x32"``.
        missing: Parameters of the model that the file does not hold (allowed ones); they stay as they were.
        unexpected: Keys of the file that the model has no place for (allowed ones).
        notes: Things that were changed on the way, such as the order of the colour channels.
    """

    path: str
    matched: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def loaded(self) -> int:
        """Tensors of the file that found their place."""
        return len(self.matched) + len(self.resized)

    @property
    def total(self) -> int:
        """Tensors of the file."""
        return self.loaded + len(self.unexpected)

    def __str__(self) -> str:
        parts = [f"backbone file {self.path}: {self.loaded} of {self.total} encoder tensors loaded"]
        for sizes in sorted(set(self.resized.values())):
            names = [k for k, v in self.resized.items() if v == sizes]
            parts.append(f"{shorten(names)} resized from {sizes}")
        if self.missing:
            parts.append(f"{len(self.missing)} of the model not in the file ({shorten(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} left out ({shorten(self.unexpected)})")
        return "; ".join(parts + self.notes)

    def full(self) -> str:
        """Returns: The report with every name, one a line."""
        lists = {
            "matched": self.matched,
            "resized": [f"{k}: {v}" for k, v in self.resized.items()],
            "missing in the file": self.missing,
            "unexpected, left out": self.unexpected,
        }
        lines = [str(self)]
        for title, names in lists.items():
            lines += [f"{title}: {len(names)}", *(f"  {name}" for name in names)]
        return "\n".join(lines)


def shorten(keys: Iterable[str], named: int = NAMED) -> str:
    """Name keys in a few words: blocks are counted instead of listed.

    Args:
        keys: Names of tensors.
        named: Groups to name; more are only counted.

    Returns:
        For example ``"blocks.*.ls1.gamma (12 times), norm.bias and 2 more"``.
    """
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(re.sub(r"^blocks\.\d+\.", "blocks.*.", key), []).append(key)
    words = [f"{name} ({len(same)} times)" if len(same) > 1 else same[0] for name, same in groups.items()]
    rest = len(words) - named
    return ", ".join(words[:named]) + (f" and {rest} more" if rest > 0 else "")


def write_to_log_file(text: str) -> None:
    """Write to the log files of the running program and not to its screen.

    Hundreds of names would bury what a user has to see, and a log level that hides them there would hide
    them in the file as well: mmengine gives both the same.
    """
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
