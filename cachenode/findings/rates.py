"""What happens in a second, by node and by namespace, and how long it takes: from the counters at two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["Answers", "Latency", "Rates", "latencies", "rates"]

_COUNTED = (
    "l1_hits",
    "l2_hits",
    "misses",
    "sets",
    "deletes",
    "loads",
    "invalidations",
    "evictions",
    "expirations",
)

Answers = Mapping[str, pb.GetStatsResponse | None]


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened in a second, on average since the last look.

    Attributes:
        counted: Events a second by the counter's name.
        entries: In memory now.
        used_bytes: What they cost.
    """

    counted: Mapping[str, float]
    entries: int = 0
    used_bytes: int = 0

    @property
    def reads(self) -> float:
        """Reads a second."""
        return self.hits + self.counted["misses"]

    @property
    def hits(self) -> float:
        """Reads a second that found a value."""
        return self.counted["l1_hits"] + self.counted["l2_hits"]

    @property
    def writes(self) -> float:
        """Writes and removals a second."""
        return self.counted["sets"] + self.counted["deletes"]


def rates(before: Answers, after: Answers, seconds: float) -> tuple[dict[str, Rates], dict[str, Rates]]:
    """Return the rates by node and by namespace.

    Nodes that did not answer twice as the same incarnation have none. A namespace that nothing happens in is shown with
    its entries.
    """
    nodes: dict[str, Rates] = {}
    spaces: dict[str, list[tuple[Mapping[str, float], int, int]]] = {}
    for name, stats in after.items():
        known = before.get(name)
        if stats is None or known is None or known.incarnation != stats.incarnation:
            continue
        former = {space.name: space for space in known.namespaces}
        total = dict.fromkeys(_COUNTED, 0.0)
        for space in stats.namespaces:
            was: Any = former.get(space.name)
            counted = {each: (getattr(space, each) - getattr(was, each, 0)) / seconds for each in _COUNTED}
            spaces.setdefault(space.name, []).append((counted, space.entries, space.used_bytes))
            for each, value in counted.items():
                total[each] += value
        nodes[name] = Rates(total, sum(space.entries for space in stats.namespaces), stats.used_bytes)
    return nodes, {name: _sum(parts) for name, parts in spaces.items()}


def _sum(parts: list[tuple[Mapping[str, float], int, int]]) -> Rates:
    counted = {each: sum(part[0][each] for part in parts) for each in _COUNTED}
    return Rates(counted, sum(part[1] for part in parts), sum(part[2] for part in parts))


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an operation took between two looks.

    Attributes:
        count: Keys that were answered.
        p50_s: Half of them took at most so long; None if there were none.
        p99_s: The same for 99 of a hundred.
    """

    count: int
    p50_s: float | None
    p99_s: float | None


def latencies(before: Answers, after: Answers) -> dict[str, Latency]:
    """Return by operation how long it took at all nodes together, as far as the histograms' limits tell.

    Within a limit times are taken to be spread evenly, as Prometheus's histogram_quantile does; beyond the last limit
    they count as that limit.
    """
    sums: dict[str, list[int]] = {}
    limits: tuple[float, ...] = ()
    for name, stats in after.items():
        known = before.get(name)
        if stats is None or known is None or known.incarnation != stats.incarnation:
            continue
        former = {(each.operation, each.cache_layer): each.within for each in known.durations}
        for each in stats.durations:
            limits = tuple(each.limits_s)
            was = former.get((each.operation, each.cache_layer), [0] * len(each.within))
            total = sums.setdefault(each.operation, [0] * len(each.within))
            for at, (now, then) in enumerate(zip(each.within, was, strict=True)):
                total[at] += now - then
    return {
        name: Latency(within[-1], _quantile(0.5, limits, within), _quantile(0.99, limits, within))
        for name, within in sums.items()
        if within[-1]
    }


def _quantile(part: float, limits: tuple[float, ...], within: list[int]) -> float:
    rank = part * within[-1]
    below, lower = 0, 0.0
    for limit, count in zip(limits, within, strict=False):
        if count >= rank:
            return lower + (limit - lower) * (rank - below) / (count - below or 1)
        below, lower = count, limit
    return limits[-1]
