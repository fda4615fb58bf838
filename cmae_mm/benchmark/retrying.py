"""When a stage that failed for an outside reason is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Retries:
    """Exponential backoff with jitter.

    Attributes:
        times: Attempts after the first one; an attempt that got further than the one before does not count.
        base: Seconds before the second attempt, on average three quarters of it.
        most: Longest wait in seconds.
        rng: Draws the jitter: benchmarks that failed together do not come back together.
    """

    times: int = 3
    base: float = 30.0
    most: float = 1800.0
    rng: random.Random = field(default_factory=random.Random)
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict)

    def delay(self, name: str, progress: float) -> float | None:
        """Note a failure.

        Args:
            name: The stage.
            progress: How far it got, 0 to 1.

        Returns:
            Seconds to wait before the next attempt; None if it was the last.
        """
        count, best = self._failed.get(name, (0, 0.0))
        count = 1 if progress > best else count + 1
        self._failed[name] = (count, max(best, progress))
        if count > self.times:
            return None
        return min(self.most, self.base * 2 ** (count - 1)) * self.rng.uniform(0.5, 1.0)
