"""How long operations take inside a node, as counts by limit: what a Prometheus histogram is made of.

A batch is timed, not each of its keys; all keys that are answered together count with the same time. So the cost is
that of two looks at the clock and a binary search for each batch.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from cachenode.core.entries import Operation
from cachenode.core.stats import DurationCounters

__all__ = ["LIMITS_S", "Durations"]

LIMITS_S = (0.0001, 0.00025, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
"""From a millisecond on those of the strategy document; below lie the answers from memory."""
_NAMES = {
    Operation.GET: "get",
    Operation.LEASE: "get_or_load",
    Operation.SET: "set",
    Operation.INCR: "incr",
    Operation.DELETE: "delete",
    Operation.TOUCH: "touch",
    Operation.INVALIDATE: "invalidate",
    Operation.BARRIER: "invalidate",
}
_AT_ONCE, _WAITED = "l1", "l2"


class Durations:
    """Counts of operations by kind, by whether they had to wait, and by how long they took."""

    __slots__ = ("_counts", "_seconds", "hits")

    def __init__(self) -> None:
        self.hits = 0
        """Reads of single keys on the shortest way, which is not timed: they count as taking nothing."""
        self._counts = {
            (name, waited): [0] * (len(LIMITS_S) + 1) for name in _NAMES.values() for waited in (False, True)
        }
        self._seconds = dict.fromkeys(self._counts, 0.0)

    @staticmethod
    def counts(operation: Operation) -> bool:
        """Return True if an operation is counted: one that a client asks for."""
        return operation in _NAMES

    def add(self, operation: Operation, keys: int, seconds: float, *, waited: bool) -> None:
        """Count keys that were answered together.

        Args:
            operation: What was done to them.
            keys: How many.
            seconds: Since their batch came.
            waited: False if memory was enough.
        """
        kind = _NAMES[operation], waited
        self._counts[kind][bisect_left(LIMITS_S, seconds)] += keys
        self._seconds[kind] += seconds * keys

    def counters(self) -> tuple[DurationCounters, ...]:
        """Return what has been counted; kinds that never came are left out."""
        found = []
        for (name, waited), counts in self._counts.items():
            hits = self.hits if name == "get" and not waited else 0
            within = tuple(accumulate(counts, initial=hits))[1:]
            if within[-1]:
                layer = _WAITED if waited else _AT_ONCE
                found.append(DurationCounters(name, layer, within, self._seconds[name, waited]))
        return tuple(found)
