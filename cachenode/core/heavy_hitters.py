"""Which keys take the largest part of the reads: a bounded list, from samples, that forgets.

Space-Saving (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT
2005): so many counters as there is room for; a key that has none takes the place of the least, and its count, as a
possible error. Every key with more than one part in `room` of all that was counted has a counter, and a count is too
high by its error at most.

Counts fade with a half-life. Instead of making all of them smaller, each new one counts for more (forward decay:
Cormode, Shkapenyuk, Srivastava, Xu, ICDE 2009); only when the numbers become large all are brought down at once.

A sample is the key of one read in so many, and stands for all reads since the last sample. So what is counted of a key,
as a part of all that is counted, is about its part of the reads, also while one in more or fewer of them is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["HeavyHitters", "Hitter"]

K = TypeVar("K", bound=Hashable)
_MOST_GROWTH = 1e12
_MOST_DOUBLINGS = 1_000.0


class Hitter(NamedTuple, Generic[K]):
    """A key that takes a large part of the reads.

    `share` is its part of them, too high by `error` at most, beside the chance of sampling; `per_s` are reads a second.
    """

    key: K
    share: float
    error: float
    per_s: float


class HeavyHitters(Generic[K]):
    """The keys that are read most.

    Args:
        room: Counters.
        half_life_s: After so long a sample counts half.
    """

    __slots__ = ("_base", "_began", "_counts", "_errors", "_half_life_s", "_reads", "_room")

    def __init__(self, room: int = 128, *, half_life_s: float = 30.0) -> None:
        self._room = room
        self._half_life_s = half_life_s
        self._counts: dict[K, float] = {}
        self._errors: dict[K, float] = {}
        self._reads = 0.0
        self._base = 0.0
        self._began: float | None = None

    def add(self, key: K, reads: int, now: float) -> None:
        """Count a sample.

        Args:
            key: The key.
            reads: Reads since the last sample, which this one stands for.
            now: The time.
        """
        if self._began is None:
            self._began = self._base = now
        growth = 2.0 ** min((now - self._base) / self._half_life_s, _MOST_DOUBLINGS)
        if growth > _MOST_GROWTH:
            self._fade(growth, now)
            growth = 1.0
        self._reads += reads * growth
        counts = self._counts
        if key not in counts and len(counts) >= self._room:
            least = min(counts, key=counts.__getitem__)
            self._errors.pop(least, None)
            counts[key] = self._errors[key] = counts.pop(least)
        counts[key] = counts.get(key, 0.0) + reads * growth

    def _fade(self, growth: float, now: float) -> None:
        self._base = now
        self._counts = {key: count / growth for key, count in self._counts.items()}
        self._errors = {key: error / growth for key, error in self._errors.items()}
        self._reads /= growth

    def reads_per_s(self, now: float) -> float:
        """Return how many reads a second there are, of late."""
        if self._began is None:
            return 0.0
        # A steady rate makes a sum of rate * half-life / ln 2, as soon as it has lasted for a while.
        faded: float = self._reads / 2.0 ** min((now - self._base) / self._half_life_s, _MOST_DOUBLINGS)
        lasted: float = 1.0 - 2.0 ** (-max(now - self._began, 1.0) / self._half_life_s)
        return faded * math.log(2) / (self._half_life_s * lasted)

    def top(self, limit: int, now: float) -> list[Hitter[K]]:
        """Return the keys that are read most, the hottest first."""
        rate = self.reads_per_s(now)
        hottest = sorted(self._counts, key=self._counts.__getitem__, reverse=True)[:limit]
        return [self._hitter(key, rate) for key in hottest]

    def _hitter(self, key: K, rate: float) -> Hitter[K]:
        share = self._counts[key] / self._reads
        return Hitter(key, share, self._errors.get(key, 0.0) / self._reads, share * rate)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"<HeavyHitters {len(self._counts)} of {self._room} keys>"
