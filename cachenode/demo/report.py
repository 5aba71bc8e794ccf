"""What the demonstration found: the arithmetic from tallies to a verdict, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cachenode.demo.acts import Act
from cachenode.demo.probe import NodeKeys
from cachenode.demo.timeline import SLICE_S, Timeline, percentile

__all__ = ["KillReport", "LayerReport", "NodeReport", "Report", "Tally", "kill_report", "node_reports"]

_RECOVERED_SHARE = 0.8
_LEVEL_S = 4.0
_LAYERS = ("near", "l1", "l2", "origin")


@dataclass(slots=True)
class Tally:
    """Sums of what the client processes report.

    Attributes:
        waited_us: What callers waited for a value, in microseconds, by the layer it came from.
        failed: Requests that raised.
        wrong: Values that differ from the origin's.
        errors: Calls of the cache that failed and were taken for misses, reads and writes.
        not_stored: Those of them that were writes.
        problem: The first failure's text.
        timeline: Requests and hits over time.
    """

    waited_us: dict[str, list[int]] = field(default_factory=lambda: {layer: [] for layer in _LAYERS})
    failed: int = 0
    wrong: int = 0
    errors: int = 0
    not_stored: int = 0
    problem: str = ""
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def requests(self) -> int:
        """Requests that ended, well or not."""
        return sum(len(waits) for waits in self.waited_us.values()) + self.failed

    @property
    def hits(self) -> int:
        """Requests that the cache answered."""
        return sum(len(waits) for layer, waits in self.waited_us.items() if layer != "origin")

    def add(self, line: Mapping[str, Any], at_s: float) -> None:
        """Add one report of one process."""
        for layer in _LAYERS:
            self.waited_us[layer] += line[layer]
        self.failed += line["failed"]
        self.wrong += line["wrong"]
        self.errors += line["errors"]
        self.not_stored += line["not_stored"]
        self.problem = self.problem or line["problem"]
        memory, l2 = len(line["near"]) + len(line["l1"]), len(line["l2"])
        requests = memory + l2 + len(line["origin"]) + line["failed"]
        if requests:
            self.timeline.add(at_s, memory=memory, l2=l2, requests=requests)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Requests that one layer answered, and how long callers waited for them."""

    name: str
    requests: int
    share: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Keys in one node's memory just before the kill and at the end; None where it was not asked or did not answer."""

    id: str
    keys_before: int | None
    keys_after: int | None
    killed: bool


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the loss of a node did.

    Attributes:
        node_id: The node that was killed.
        at_s: When, in seconds since the start.
        noticed_after_s: Until the others had taken it out of their view; None if they had not.
        level_before: Hit ratio of the last seconds before.
        lowest: Lowest hit ratio of half a second afterwards.
        level_after: Hit ratio of the run's last seconds.
        recovered_after_s: Until the hit ratio was back at 80 % of what it had been, for good; None if it was not.
    """

    node_id: str
    at_s: float
    noticed_after_s: float | None
    level_before: float | None
    lowest: float | None
    level_after: float | None
    recovered_after_s: float | None

    @property
    def recovered(self) -> bool:
        """True if the hit ratio came back."""
        if self.level_before is None or self.level_after is None or self.recovered_after_s is None:
            return False
        return self.level_after >= _RECOVERED_SHARE * self.level_before


def kill_report(timeline: Timeline, *, node_id: str, at_s: float, noticed_after_s: float | None) -> KillReport:
    """Judge the time line around a kill."""
    before = timeline.ratio(max(0.0, at_s - _LEVEL_S), at_s)
    settled_s = max(at_s + 2 * SLICE_S, timeline.seconds - _LEVEL_S)
    level = _RECOVERED_SHARE * before if before is not None else 0.0
    return KillReport(
        node_id=node_id,
        at_s=at_s,
        noticed_after_s=noticed_after_s,
        level_before=before,
        lowest=timeline.lowest(at_s),
        level_after=timeline.ratio(settled_s, timeline.seconds),
        recovered_after_s=timeline.recovered_after(at_s, level),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one demonstration."""

    records: int
    processes: int
    callers: int
    seconds: float
    tally: Tally
    asked: int
    nodes: tuple[NodeReport, ...]
    kill: KillReport | None
    origin_delay_ms: float
    memory: str
    acts: tuple[Act, ...] = ()

    @property
    def hit_ratio(self) -> float:
        """Share of the requests that the cache answered."""
        return self.tally.hits / self.tally.requests if self.tally.requests else 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.tally.requests / self.seconds if self.seconds else 0.0

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """One report per layer, nearest first."""
        total = max(1, self.tally.requests)
        return tuple(_layer(name, waits, total) for name, waits in self.tally.waited_us.items())

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the demonstration failed; empty if it did not."""
        tally, found = self.tally, []
        if tally.failed:
            found.append(f"{tally.failed:,} requests failed, the first with {tally.problem}")
        if tally.wrong:
            found.append(f"{tally.wrong:,} values differ from the origin's.")
        if tally.requests < self.asked:
            found.append(f"Only {tally.requests:,} of {self.asked:,} requests were made.")
        if not tally.hits:
            found.append("The cache answered no request.")
        if self.kill is not None and not self.kill.recovered:
            found.append(f"The hit ratio did not return to {_RECOVERED_SHARE:.0%} of its level before the kill.")
        found += [problem for act in self.acts for problem in act.problems]
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        tally = self.tally
        columns = int(tally.timeline.seconds / SLICE_S) or 1
        return {
            "ok": not self.problems,
            "problems": list(self.problems),
            "records": self.records,
            "node_memory": self.memory,
            "processes": self.processes,
            "callers": self.callers,
            "seconds": round(self.seconds, 3),
            "requests": tally.requests,
            "requests_per_second": round(self.rate, 1),
            "hit_ratio": round(self.hit_ratio, 4),
            "layers": [_rounded(asdict(layer)) for layer in self.layers],
            "origin_delay_ms": self.origin_delay_ms,
            "origin_loads": len(tally.waited_us["origin"]),
            "origin_loads_saved": tally.hits,
            "failed": tally.failed,
            "wrong_values": tally.wrong,
            "cache_errors": {"reads": tally.errors - tally.not_stored, "writes": tally.not_stored},
            "nodes": [asdict(node) for node in self.nodes],
            "kill": None if self.kill is None else _rounded(asdict(self.kill)) | {"recovered": self.kill.recovered},
            "acts": {act.name: act.figures for act in self.acts},
            "timeline": {
                "slice_s": SLICE_S,
                "hit_ratios": _rounded_all(tally.timeline.ratios(columns)),
                "memory_hit_ratios": _rounded_all(tally.timeline.ratios(columns, memory_only=True)),
            },
        }


def node_reports(
    before: Mapping[str, NodeKeys], after: Mapping[str, NodeKeys], *, ids: Sequence[str], killed: str
) -> tuple[NodeReport, ...]:
    """Put the keys of each node side by side."""
    return tuple(
        NodeReport(
            id=node_id,
            keys_before=before[node_id].keys if node_id in before else None,
            keys_after=after[node_id].keys if node_id in after else None,
            killed=node_id == killed,
        )
        for node_id in ids
    )


def _layer(name: str, waits: Sequence[int], total: int) -> LayerReport:
    return LayerReport(
        name=name, requests=len(waits), share=len(waits) / total, p50_ms=_ms(waits, 0.5), p99_ms=_ms(waits, 0.99)
    )


def _ms(waits: Sequence[int], share: float) -> float | None:
    value = percentile(waits, share)
    return None if math.isnan(value) else value / 1000


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}


def _rounded_all(ratios: Sequence[float | None]) -> list[float | None]:
    return [None if ratio is None else round(ratio, 4) for ratio in ratios]
