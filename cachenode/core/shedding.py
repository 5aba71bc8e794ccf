"""What a node refuses when it has more to do than it can: the work that is easiest to do later goes first.

Pressure is the largest of four parts, each of its limit: how late the event loop is, the keys and the bytes of calls
under way, and the loads that have not ended. Refreshes and warming are refused from half of the limit on, new loads
from the limit on, writes from one and a half, and reads that memory cannot answer from twice. Hits are always answered,
and so is what ends other work or makes data untrue: loaded values, removals, invalidations.

Pressure follows what is there now, and nothing else: what waits goes down as it is done, and the lateness that was seen
counts half after a quarter of a second. Nothing of it is latched, and refused calls leave nothing behind. So when the
load is gone the node takes everything again after a second or two; it is not kept down by its own refusals, since those
who are refused are told how long to wait, and clients wait that long and somewhat longer, at random.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = ["ShedLimits", "Shedder", "Work"]

_FROM = (0.5, 1.0, 1.5, 2.0)
_HALF_LIFE_S = 0.25
_WAIT_S = 0.25
"""A refused call is to wait so long for each unit of pressure."""
_SHORTEST_S = 0.1
_LONGEST_S = 5.0


class Work(IntEnum):
    """What may be refused, the easiest first."""

    REFRESH = 1
    LOAD = 2
    WRITE = 3
    MISS = 4


class ShedLimits(NamedTuple):
    """Where a node begins to refuse; infinite for never.

    `lag_s` is how late the event loop may be, `keys` and `bytes` how much may be under way, `loads` how many loads.
    """

    lag_s: float = float("inf")
    keys: float = float("inf")
    bytes: float = float("inf")
    loads: float = float("inf")


class Shedder:
    """What one node has to do, and what it refuses.

    Args:
        limits: Where it begins to refuse.

    Attributes:
        level: Work of this class and of those before it is refused; 0: none is.
        refused: Keys refused, by class.
    """

    __slots__ = ("_bytes", "_keys", "_lag_s", "_limits", "_loads", "_observed_at", "level", "refused")

    def __init__(self, limits: ShedLimits | None = None) -> None:
        self._limits = limits or ShedLimits()
        self._keys = 0
        self._bytes = 0
        self._loads = 0
        self._lag_s = 0.0
        self._observed_at = 0.0
        self.level = 0
        self.refused = dict.fromkeys(Work, 0)

    @property
    def limited(self) -> bool:
        """True if anything is ever refused."""
        return min(self._limits) < float("inf")

    @property
    def pressure(self) -> float:
        """What there is to do, as a part of what there may be."""
        limits = self._limits
        return max(
            self._lag_s / limits.lag_s, self._keys / limits.keys, self._bytes / limits.bytes, self._loads / limits.loads
        )

    def began(self, keys: int, size: int) -> None:
        """A call of so many keys and bytes is under way."""
        self._keys += keys
        self._bytes += size
        self._judge()

    def ended(self, keys: int, size: int) -> None:
        """It is no longer."""
        self._keys -= keys
        self._bytes -= size
        if self.level:
            self._judge()

    def observe(self, lag_s: float, loads: int, now: float) -> None:
        """Take note of how late the event loop is, and how many loads have not ended. Call it all the time.

        Args:
            lag_s: By how much a timer was late.
            loads: Loads under way.
            now: The time.
        """
        remembered = self._lag_s * 0.5 ** (max(0.0, now - self._observed_at) / _HALF_LIFE_S)
        self._lag_s = max(lag_s, remembered)
        self._loads = loads
        self._observed_at = now
        self._judge()

    def _judge(self) -> None:
        pressure = self.pressure
        self.level = sum(pressure >= threshold for threshold in _FROM)

    def refuses(self, work: Work, keys: int = 1) -> int:
        """Return after how many milliseconds to come again, and count the keys as refused; 0 if it may be done."""
        if work > self.level:
            return 0
        self.refused[work] += keys
        return round(1_000 * min(_LONGEST_S, max(_SHORTEST_S, _WAIT_S * self.pressure)))

    def __repr__(self) -> str:
        return f"<Shedder level={self.level} pressure={self.pressure:.2f}>"
