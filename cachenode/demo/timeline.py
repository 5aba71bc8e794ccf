"""The hit ratio over time: equal slices of the run, a spark line, and how long a dip took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["SLICE_S", "Timeline", "percentile", "sparkline"]

SLICE_S = 0.5

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"


def percentile(values: Sequence[int], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    rank = max(1, math.ceil(share * len(values)))
    return float(sorted(values)[rank - 1])


def sparkline(ratios: Sequence[float | None], *, unicode: bool = True) -> str:
    """Draw ratios of 0 to 1 as one character each; None, no data, as a blank."""
    marks = _BLOCKS if unicode else _PLAIN
    top = len(marks) - 1
    return "".join(" " if ratio is None else marks[min(top, int(ratio * len(marks)))] for ratio in ratios)


@dataclass(slots=True)
class Timeline:
    """Requests and hits by slices of time since the start."""

    _hits: list[int] = field(default_factory=list)
    _requests: list[int] = field(default_factory=list)

    def add(self, at_s: float, *, hits: int, requests: int) -> None:
        """Count requests that were answered at this time."""
        index = int(at_s / SLICE_S)
        missing = index + 1 - len(self._requests)
        self._hits += [0] * missing
        self._requests += [0] * missing
        self._hits[index] += hits
        self._requests[index] += requests

    @property
    def seconds(self) -> float:
        """Length of the time line."""
        return len(self._requests) * SLICE_S

    def ratio(self, from_s: float, to_s: float) -> float | None:
        """Return the hit ratio of the slices that lie within these times; None without a request."""
        first, last = max(0, math.ceil(from_s / SLICE_S)), max(0, math.floor(to_s / SLICE_S))
        requests = sum(self._requests[first:last])
        return sum(self._hits[first:last]) / requests if requests else None

    def rate(self, now_s: float) -> float:
        """Return the requests a second of the last whole second or so before this time."""
        last = int(now_s / SLICE_S)
        recent = self._requests[max(0, last - 3) : last]
        return sum(recent) / (len(recent) * SLICE_S) if recent else 0.0

    def ratios(self, columns: int) -> tuple[float, list[float | None]]:
        """Return the hit ratios in at most so many columns, and the seconds that a column stands for."""
        width = max(1, math.ceil(len(self._requests) / columns)) * SLICE_S
        count = math.ceil(self.seconds / width)
        return width, [self.ratio(column * width, (column + 1) * width) for column in range(count)]

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
        """Return end and hit ratio of the slices with requests, the last one, which is seldom whole, left out."""
        first = math.ceil(from_s / SLICE_S)
        return [
            ((index + 1) * SLICE_S, self._hits[index] / self._requests[index])
            for index in range(first, len(self._requests) - 1)
            if self._requests[index]
        ]
