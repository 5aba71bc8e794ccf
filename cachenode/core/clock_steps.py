"""Steps of the time of day, seen against a clock that only runs.

The two clocks keep their distance but for drift and slewing, which are milliseconds a second at most. What changes by
more between two looks, a fraction of a second apart, is a step: somebody or something has set the time. A pause of the
process is none, as both clocks go on.
"""

from __future__ import annotations

import math

__all__ = ["STEP_S", "ClockSteps"]

STEP_S = 0.5
"""Least change that counts."""


class ClockSteps:
    """Watches two clocks.

    Attributes:
        steps: How many there were.
        last_s: The last one, negative if backwards.
        last_at: When, on the clock that only runs; minus infinity if never.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.last_s = 0.0
        self.last_at = -math.inf
        self._distance: float | None = None

    def look(self, wall: float, now: float) -> float:
        """Compare both clocks, read at once. Return the step since the last look in seconds; 0 if there was none."""
        distance, before = wall - now, self._distance
        self._distance = distance
        if before is None or abs(distance - before) < STEP_S:
            return 0.0
        self.steps, self.last_s, self.last_at = self.steps + 1, distance - before, now
        return self.last_s
