"""The hit ratio over time: equal slices of the run, a spark line, and how long a dip took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["FLOOR", "SLICE_S", "Timeline", "percentile", "sparkline"]

SLICE_S = 0.5
FLOOR = 0.5  # below it a spark line has no detail, so that it has some where hit ratios are

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"


def percentile(values: Sequence[int], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    rank = max(1, math.ceil(share * len(values)))
    return float(sorted(values)[rank - 1])


def sparkline(ratios: Sequence[float | None], *, unicode: bool = True) -> str:
    """Draw each ratio as one of eight characters for `FLOOR` (or less) to 1; None, no data, as a blank."""
    marks = _BLOCKS if unicode else _PLAIN
    return "".join(" " if ratio is None else marks[_level(ratio)] for ratio in ratios)


def _level(ratio: float) -> int:
    height = (ratio - FLOOR) / (1 - FLOOR)
    return min(max(int(height * len(_BLOCKS)), 0), len(_BLOCKS) - 1)


@dataclass(slots=True)
class Timeline:
    """Requests, and those that the cache answered, by slices of time since the start."""

    _memory: list[int] = field(default_factory=list)
    _hits: list[int] = field(default_factory=list)
    _requests: list[int] = field(default_factory=list)

    def add(self, at_s: float, *, memory: int, l2: int, requests: int) -> None:
        """Count requests that were answered at this time, and how many of them from memory and from L2."""
        index = int(at_s / SLICE_S)
        for counts, count in ((self._memory, memory), (self._hits, memory + l2), (self._requests, requests)):
            counts.extend([0] * (index + 1 - len(counts)))
            counts[index] += count

    @property
    def seconds(self) -> float:
        """Length of the time line."""
        return len(self._requests) * SLICE_S

    def ratio(self, from_s: float, to_s: float, *, memory_only: bool = False) -> float | None:
        """Return the hit ratio of the slices that lie within these times; None without a request."""
        first, last = max(0, math.ceil(from_s / SLICE_S)), max(0, math.floor(to_s / SLICE_S))
        requests = sum(self._requests[first:last])
        return sum((self._memory if memory_only else self._hits)[first:last]) / requests if requests else None

    def rate(self, now_s: float) -> float:
        """Return the requests a second in the last whole slices before this time."""
        last = int(now_s / SLICE_S)
        recent = self._requests[max(0, last - 3) : last]
        return sum(recent) / (len(recent) * SLICE_S) if recent else 0.0

    def column_s(self, columns: int) -> float:
        """Return the seconds that a column stands for if there are at most so many."""
        return max(1, math.ceil(len(self._requests) / columns)) * SLICE_S

    def ratios(self, columns: int, *, memory_only: bool = False) -> list[float | None]:
        """Return the hit ratios in at most so many columns."""
        width = self.column_s(columns)
        starts = [column * width for column in range(math.ceil(self.seconds / width))]
        return [self.ratio(start, start + width, memory_only=memory_only) for start in starts]

    def lowest(self, from_s: float) -> float | None:
        """Return the lowest hit ratio of a slice that begins at this time or later."""
        return min((ratio for _, ratio in self._slices(from_s)), default=None)

    def recovered_after(self, from_s: float, level: float) -> float | None:
        """Return the seconds from this time to the end of the last slice below the level.

        0 if it never fell below; None if it was still below when the run ended.
        """
        slices = self._slices(from_s)
        below = [end_s for end_s, ratio in slices if ratio < level]
        if not below:
            return 0.0 if slices else None
        return None if below[-1] == slices[-1][0] else below[-1] - from_s

    def _slices(self, from_s: float) -> list[tuple[float, float]]:
        """Return end and hit ratio of the slices with requests; the last, seldom a whole one, is left out."""
        first = math.ceil(from_s / SLICE_S)
        return [
            ((index + 1) * SLICE_S, self._hits[index] / self._requests[index])
            for index in range(first, len(self._requests) - 1)
            if self._requests[index]
        ]
