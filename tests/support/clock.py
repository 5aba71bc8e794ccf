"""A clock that moves when the test says so."""

from __future__ import annotations


class ManualClock:
    """A `Clock` that stands still until `advance`."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        assert seconds >= 0
        self._now += seconds
