"""What advice on a namespace rests on besides its other counters, and how much all of them rose lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Observed", "Window"]


class Window:
    """Some counters of one group, noted now and then.

    Args:
        every_s: Time between notes.
        keep_s: How far back they go.
    """

    __slots__ = ("_every_s", "_keep_s", "_notes")

    def __init__(self, *, every_s: float = 10.0, keep_s: float = 300.0) -> None:
        self._every_s = every_s
        self._keep_s = keep_s
        self._notes: deque[tuple[float, Sequence[float]]] = deque()

    def due(self, now: float) -> bool:
        """Return True if it is time for another note."""
        return not self._notes or now - self._notes[-1][0] >= self._every_s

    def note(self, now: float, counters: Sequence[float]) -> None:
        """Take note of the counters."""
        while self._notes and now - self._notes[0][0] > self._keep_s:
            self._notes.popleft()
        self._notes.append((now, counters))

    def since(self, now: float, counters: Sequence[float]) -> tuple[float, list[float]]:
        """Return how long ago the oldest note is, and how much each counter has risen since; nothing without notes."""
        if not self._notes:
            return 0.0, [0.0] * len(counters)
        began, noted = self._notes[0]
        return now - began, [counter - former for counter, former in zip(counters, noted, strict=True)]

    def __repr__(self) -> str:
        return f"<Window of {len(self._notes)} notes>"


class Observed:
    """What was seen of one namespace's loads and reads.

    Attributes:
        landed: Loads that have brought a value.
        stored: Those of them that were stored, which count among the values stored too.
        load_seconds: How long those that landed took together.
        stale_reads: Reads that were given a value past its TTL.
        soft_timeouts: Those of them whose load took longer than they wait.
        window: Of these counters and others.
    """

    __slots__ = ("landed", "load_seconds", "soft_timeouts", "stale_reads", "stored", "window")

    def __init__(self) -> None:
        self.landed = 0
        self.stored = 0
        self.load_seconds = 0.0
        self.stale_reads = 0
        self.soft_timeouts = 0
        self.window = Window()

    def counted(self) -> tuple[float, float, float]:
        """Return stale reads, loads, and the seconds that these took."""
        return self.stale_reads, self.landed, self.load_seconds

    def __repr__(self) -> str:
        return f"<Observed {self.landed} loads in {self.load_seconds:.3f} s>"
