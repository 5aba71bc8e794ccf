"""What findings are made of: the answers of all nodes at two moments, and what happened between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["Check", "Finding", "Moment", "Severity", "Sum", "sums_of"]


class Severity(StrEnum):
    """How soon somebody should look."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, how that shows, and what to do.

    Attributes:
        severity: How soon somebody should look.
        what: In a few words.
        where: The node, namespace or origin; empty for the whole cluster.
        evidence: The numbers.
        remedy: What to do, or where to look next.
        section: Of the runbook that says more.
    """

    severity: Severity
    what: str
    where: str
    evidence: str
    remedy: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """What every member says, None where it does not answer.

    Attributes:
        at_s: When, on any clock.
        views: By node.
        stats: By node.
    """

    at_s: float
    views: Mapping[str, pb.GetViewResponse | None]
    stats: Mapping[str, pb.GetStatsResponse | None]

    def answers(self) -> dict[str, pb.GetStatsResponse]:
        """Return what the nodes have counted that answer."""
        return {name: each for name, each in self.stats.items() if each is not None}


class Check(Protocol):
    """Looks for one thing. Rates are those between the two moments."""

    __name__: str

    def __call__(self, before: Moment, after: Moment, /) -> Iterator[Finding]:
        """Yield what is found."""


@dataclass(slots=True)
class Sum:
    """What happened in one namespace between the moments, at all nodes together."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    invalidations: int = 0
    absences: int = 0
    loads: int = 0
    load_waits: int = 0
    load_failures: int = 0
    quota_refusals: int = 0

    @property
    def reads(self) -> int:
        """Reads that reached a node."""
        return self.hits + self.misses


def sums_of(before: Moment, after: Moment) -> dict[str, Sum]:
    """Return what happened in each namespace between the moments; restarted nodes are left out."""
    sums: dict[str, Sum] = {}
    earlier = before.answers()
    for node, stats in after.answers().items():
        known = earlier.get(node)
        if known is None or known.incarnation != stats.incarnation:
            continue
        former = {space.name: space for space in known.namespaces}
        for space in stats.namespaces:
            was = former.get(space.name, pb.NamespaceStats())
            total = sums.setdefault(space.name, Sum())
            total.hits += space.l1_hits + space.l2_hits - was.l1_hits - was.l2_hits
            total.misses += space.misses - was.misses
            total.evictions += space.evictions - was.evictions
            total.expirations += space.expirations - was.expirations
            total.invalidations += space.invalidations - was.invalidations
            total.absences += space.negative_hits - was.negative_hits
            total.loads += space.loads - was.loads
            total.load_waits += space.load_waits - was.load_waits
            total.load_failures += space.load_failures - was.load_failures
            total.quota_refusals += space.quota_refusals - was.quota_refusals
    return sums
