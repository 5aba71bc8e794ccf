"""What is wrong with a cluster, from what its nodes say at two moments: the runbook's questions, asked by a program.

Nothing here is asked of anybody: the answers come as arguments, so each rule can be tried on answers that are made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["Finding", "Moment", "Severity", "examine"]

_FEWEST_READS = 100
_LOW_HIT_RATIO = 0.7
_FULL, _LOSSY = 0.85, 0.05
_FAILING = 0.1
_LATE_S, _VERY_LATE_S = 60.0, 300.0
_HOT_PART, _HOT_READS_PER_S = 0.5, 100.0


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
    """

    severity: Severity
    what: str
    where: str
    evidence: str
    remedy: str


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


def examine(before: Moment, after: Moment) -> list[Finding]:
    """Return all findings, critical ones first. Rates are those between the two moments."""
    rules: Sequence[Callable[[Moment, Moment], Iterator[Finding]]] = (
        _silent,
        _views,
        _links,
        _l2,
        _releases,
        _hit_ratios,
        _memory,
        _loads,
        _origins,
        _write_behind,
        _quotas,
        _policies,
        _hot_key,
    )
    found = [finding for rule in rules for finding in rule(before, after)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.CRITICAL)


# The cluster.


def _silent(_: Moment, after: Moment) -> Iterator[Finding]:
    for name, answer in sorted(after.stats.items()):
        if answer is None:
            remedy = "Is the process up, and reached from here? It leaves the view by itself once its lease is over."
            yield Finding(Severity.CRITICAL, "a member does not answer", name, "no answer to a call", remedy)


def _views(_: Moment, after: Moment) -> Iterator[Finding]:
    epochs = {name: reply.header.view_epoch for name, reply in after.views.items() if reply is not None}
    if len(set(epochs.values())) > 1:
        evidence = ", ".join(f"{name} at {epoch}" for name, epoch in sorted(epochs.items()))
        remedy = "Passes within seconds after a change. If it lasts: do all nodes use one registry (l2.registry_url)?"
        yield Finding(Severity.CRITICAL, "nodes act under different views", "", evidence, remedy)


def _links(_: Moment, after: Moment) -> Iterator[Finding]:
    for name, reply in sorted(after.views.items()):
        lost = [peer.node_id for peer in reply.peers if not peer.linked] if reply is not None else []
        if lost:
            remedy = "Can the two reach each other's gRPC port? With TLS: do they believe each other's certificates?"
            yield Finding(Severity.CRITICAL, "peers do not hear each other", name, f"not {', '.join(lost)}", remedy)


def _l2(_: Moment, after: Moment) -> Iterator[Finding]:
    answers = after.answers()
    for name, stats in sorted(answers.items()):
        if stats.l2_state in {"open", "half_open"}:
            evidence = f"state {stats.l2_state}, {stats.l2_errors:,} calls failed"
            remedy = "Is Redis up and reached, and quicker than l2.timeout_s? It is tried again every second."
            yield Finding(Severity.CRITICAL, "L2 is not used", name, evidence, remedy)
    if len(answers) > 1 and all(stats.l2_state == "off" for stats in answers.values()):
        remedy = "Set l2.url: without it the values of a node that dies are lost, and loaded again."
        yield Finding(Severity.WARNING, "there is no L2", "", f"{len(answers)} nodes, none with one", remedy)


def _releases(_: Moment, after: Moment) -> Iterator[Finding]:
    releases = {stats.version for stats in after.answers().values()}
    if len(releases) > 1:
        remedy = "Finish the update: older nodes may not understand what newer ones offer."
        yield Finding(Severity.WARNING, "nodes of different releases", "", ", ".join(sorted(releases)), remedy)


# The namespaces.


@dataclass(slots=True)
class _Sum:
    """What happened in one namespace between the moments, at all nodes together."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    invalidations: int = 0
    absences: int = 0
    loads: int = 0
    load_failures: int = 0
    quota_refusals: int = 0

    @property
    def reads(self) -> int:
        return self.hits + self.misses


def _sums(before: Moment, after: Moment) -> dict[str, _Sum]:
    sums: dict[str, _Sum] = {}
    earlier = before.answers()
    for node, stats in after.answers().items():
        known = earlier.get(node)
        if known is None or known.incarnation != stats.incarnation:
            continue
        former = {space.name: space for space in known.namespaces}
        for space in stats.namespaces:
            was = former.get(space.name, pb.NamespaceStats())
            total = sums.setdefault(space.name, _Sum())
            total.hits += space.l1_hits + space.l2_hits - was.l1_hits - was.l2_hits
            total.misses += space.misses - was.misses
            total.evictions += space.evictions - was.evictions
            total.expirations += space.expirations - was.expirations
            total.invalidations += space.invalidations - was.invalidations
            total.absences += space.negative_hits - was.negative_hits
            total.loads += space.loads - was.loads
            total.load_failures += space.load_failures - was.load_failures
            total.quota_refusals += space.quota_refusals - was.quota_refusals
    return sums


def _hit_ratios(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(_sums(before, after).items()):
        if total.reads < _FEWEST_READS or total.hits >= _LOW_HIT_RATIO * total.reads:
            continue
        evidence = f"{total.hits / total.reads:.0%} of {total.reads:,} reads"
        yield Finding(Severity.WARNING, "few reads find a value", name, evidence, _why_misses(total))


def _why_misses(total: _Sum) -> str:
    causes = {
        "Memory is short: see `cachenode bigkeys`, or give nodes more memory.": total.evictions,
        "Values end before they are read again: raise ttl_s.": total.expirations,
        "Values are declared untrue all the time: name what has changed more narrowly.": total.invalidations,
        "Keys are asked for that do not exist: set negative_ttl_s, or bloom.": total.absences,
    }
    cause, times = max(causes.items(), key=lambda item: item[1])
    if times * 5 < total.misses:
        return "Most keys are asked for once only, or for the first time: `cachenode advise` says whether caching pays."
    return cause


def _memory(before: Moment, after: Moment) -> Iterator[Finding]:
    sums = _sums(before, after)
    full = [name for name, stats in after.answers().items() if stats.used_bytes > _FULL * stats.max_bytes]
    for name, total in sorted(sums.items()):
        if full and total.reads >= _FEWEST_READS and total.evictions > _LOSSY * total.reads:
            evidence = f"{total.evictions:,} evictions beside {total.reads:,} reads; full: {', '.join(sorted(full))}"
            remedy = "More memory (memory.max_bytes), more nodes, or a quota for the namespace that fills it."
            yield Finding(Severity.WARNING, "memory is too small", name, evidence, remedy)


def _loads(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(_sums(before, after).items()):
        if total.load_failures > _FAILING * max(total.loads, 1):
            evidence = f"{total.load_failures:,} of {total.loads:,}"
            remedy = "The log of nodes (load_failed) or of clients says with what. `stale_s` spans outages."
            yield Finding(Severity.WARNING, "loads fail", name, evidence, remedy)


def _quotas(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(_sums(before, after).items()):
        if total.quota_refusals:
            evidence = f"{total.quota_refusals:,} writes were refused"
            yield Finding(Severity.WARNING, "a quota is full", name, evidence, "Raise it, or let it evict: quota.")


def _policies(_: Moment, after: Moment) -> Iterator[Finding]:
    versions: dict[str, set[int]] = {}
    for stats in after.answers().values():
        for space in stats.namespaces:
            versions.setdefault(space.name, set()).add(space.policy_version)
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            remedy = "Set it again: `cachenode namespace set` tells every member."
            evidence = f"versions {', '.join(map(str, sorted(found)))}"
            yield Finding(Severity.WARNING, "nodes have different settings", name, evidence, remedy)


# Origins, queues, keys.


def _origins(before: Moment, after: Moment) -> Iterator[Finding]:
    waited = {
        (node, origin.name) for node, stats in before.answers().items() for origin in stats.origins if origin.waiting
    }
    for node, stats in sorted(after.answers().items()):
        for origin in stats.origins:
            where = f"{origin.name} at {node}"
            if origin.state == "open":
                evidence = f"{origin.failures:,} of {origin.calls:,} calls brought nothing"
                remedy = "Mend the origin; nodes find out within a second or so."
                yield Finding(
                    Severity.CRITICAL, "an origin is left alone", f"{origin.name} at {node}", evidence, remedy
                )
            elif origin.waiting and (node, origin.name) in waited:
                evidence = f"{origin.waiting:,} keys wait while {origin.busy} calls are under way"
                remedy = "It is slower than it is asked: raise concurrency or batch_keys, or warm what is asked for."
                yield Finding(Severity.WARNING, "keys wait for an origin", where, evidence, remedy)


def _write_behind(_: Moment, after: Moment) -> Iterator[Finding]:
    oldest: dict[str, float] = {}
    dead: dict[str, int] = {}
    for stats in after.answers().values():
        for space in stats.namespaces:
            oldest[space.name] = max(oldest.get(space.name, 0.0), space.queue_oldest_s)
            dead[space.name] = dead.get(space.name, 0) + space.queue_dead_letters
    for name, age_s in sorted(oldest.items()):
        if age_s > _LATE_S:
            severity = Severity.CRITICAL if age_s > _VERY_LATE_S else Severity.WARNING
            remedy = "Is the origin up, and quick enough? `cachenode writebehind status` shows the queue."
            yield Finding(severity, "queued writes wait long", name, f"the oldest for {age_s:,.0f} s", remedy)
    for name, count in sorted(dead.items()):
        if count:
            remedy = "`cachenode writebehind dead` says why; replay them when that is mended."
            yield Finding(Severity.CRITICAL, "an origin refuses writes", name, f"{count:,} dead letters", remedy)


def _hot_key(before: Moment, after: Moment) -> Iterator[Finding]:
    seconds = after.at_s - before.at_s
    reads = sum(total.reads for total in _sums(before, after).values()) / seconds if seconds > 0 else 0.0
    for node, stats in sorted(after.answers().items()):
        rate = stats.hottest_reads_per_s
        if rate >= _HOT_READS_PER_S and rate > _HOT_PART * reads:
            evidence = f"{rate:,.0f} of {reads:,.0f} reads a second"
            remedy = "`cachenode hotkeys` names it. A near cache in the clients spares the node these reads."
            yield Finding(Severity.WARNING, "one key makes most of the load", node, evidence, remedy)
