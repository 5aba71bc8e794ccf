"""Keeps an event that happens over and over from filling the log: some lines in a while, and how many were left out.

The first lines of a period are written, since they say what is going on; those beyond are counted, and the next line
that is written says how many they were. Nothing is left out of an event that is rare, and no timer runs: what was
counted of an event that does not come again is not told.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["PERIOD_S", "LogBursts"]

PERIOD_S = 10.0
_MOST_EVENTS = 1_000
"""Events are named in the code, so there are fewer; if not, all are forgotten now and then."""


class LogBursts:
    """Decides which lines are written.

    Args:
        most: Lines of one event in a period; 0: any number.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._seen: dict[Hashable, list[float]] = {}
        """By event: when its period began, the lines in it, and those left out since one was written."""

    def admit(self, event: Hashable, now: float) -> int:
        """Return how many lines of the event were left out since the last one if this is written, -1 if it is not."""
        if not self.most:
            return 0
        seen = self._seen.get(event)
        if seen is None:
            if len(self._seen) >= _MOST_EVENTS:
                self._seen.clear()
            self._seen[event] = [now, 1, 0]
            return 0
        if now - seen[0] >= PERIOD_S:
            seen[0], seen[1] = now, 0
        seen[1] += 1
        if seen[1] > self.most:
            seen[2] += 1
            return -1
        left_out, seen[2] = int(seen[2]), 0
        return left_out
