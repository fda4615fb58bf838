"""Why tensors are not the encoder that a layout describes."""

from __future__ import annotations

_UNRELATED = 10_000  # keys that differ, where nothing was compared


class Misfit(Exception):
    """Why tensors are not the encoder of a layout, as a clause; internal, users see a `UserError`.

    Attributes:
        distance: Number of keys that speak against it.
    """

    def __init__(self, reason: str, distance: int = _UNRELATED) -> None:
        super().__init__(reason)
        self.distance = distance
