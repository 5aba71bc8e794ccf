"""Checks of what namespaces are used for, and of the memory that they have."""

from __future__ import annotations

from collections.abc import Iterator

from cachenode.findings.moments import Finding, Moment, Severity, Sum, sums_of

__all__ = ["CHECKS"]

_FEWEST_READS = 100
_LOW_HIT_RATIO = 0.7
_FULL, _LOSSY = 0.85, 0.05
_FAILING = 0.1
_CROWD, _CROWDED = 200, 20
"""Reads that wait in all, and for each load, from which on it is a crowd."""
_HOT_PART, _HOT_READS_PER_S = 0.5, 100.0


def hit_ratios(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(sums_of(before, after).items()):
        if total.reads < _FEWEST_READS or total.hits >= _LOW_HIT_RATIO * total.reads:
            continue
        evidence = f"{total.hits / total.reads:.0%} of {total.reads:,} reads"
        yield Finding(Severity.WARNING, "few reads find a value", name, evidence, _why_misses(total))


def _why_misses(total: Sum) -> str:
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


def memory(before: Moment, after: Moment) -> Iterator[Finding]:
    sums = sums_of(before, after)
    full = [name for name, stats in after.answers().items() if stats.used_bytes > _FULL * stats.max_bytes]
    for name, total in sorted(sums.items()):
        if full and total.reads >= _FEWEST_READS and total.evictions > _LOSSY * total.reads:
            evidence = f"{total.evictions:,} evictions beside {total.reads:,} reads; full: {', '.join(sorted(full))}"
            remedy = "More memory (memory.max_bytes), more nodes, or a quota for the namespace that fills it."
            yield Finding(Severity.WARNING, "memory is too small", name, evidence, remedy)


def loads(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(sums_of(before, after).items()):
        if total.load_failures > _FAILING * max(total.loads, 1):
            evidence = f"{total.load_failures:,} of {total.loads:,}"
            remedy = "The log of nodes (load_failed) or of clients says with what. `stale_s` spans outages."
            yield Finding(Severity.WARNING, "loads fail", name, evidence, remedy)


def stampede(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(sums_of(before, after).items()):
        if total.load_waits >= _CROWD and total.load_waits > _CROWDED * max(total.loads, 1):
            evidence = f"{total.load_waits:,} reads waited for {total.loads:,} loads"
            remedy = "Nobody loads twice, but all wait: refresh_ahead, xfetch_beta or stale_s renew before the end."
            yield Finding(Severity.WARNING, "many wait for few loads", name, evidence, remedy)


def overload(before: Moment, after: Moment) -> Iterator[Finding]:
    earlier = before.answers()
    for name, stats in sorted(after.answers().items()):
        known = earlier.get(name)
        if known is None or known.incarnation != stats.incarnation:
            continue
        shed = {work: count - known.shed.get(work, 0) for work, count in sorted(stats.shed.items())}
        refused = ", ".join(f"{count:,} of {work}" for work, count in shed.items() if count > 0)
        if refused:
            remedy = "More nodes, or fewer loads at a time: what takes them? `cachenode docs load-shedding`."
            yield Finding(Severity.WARNING, "a node has too much to do", name, f"refused: {refused}", remedy)


def quotas(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, total in sorted(sums_of(before, after).items()):
        if total.quota_refusals:
            evidence = f"{total.quota_refusals:,} writes were refused"
            yield Finding(Severity.WARNING, "a quota is full", name, evidence, "Raise it, or let it evict: quota.")


def policies(_: Moment, after: Moment) -> Iterator[Finding]:
    versions: dict[str, set[int]] = {}
    for stats in after.answers().values():
        for space in stats.namespaces:
            versions.setdefault(space.name, set()).add(space.policy_version)
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            remedy = "Set it again: `cachenode namespace set` tells every member."
            evidence = f"versions {', '.join(map(str, sorted(found)))}"
            yield Finding(Severity.WARNING, "nodes have different settings", name, evidence, remedy)


def hot_key(before: Moment, after: Moment) -> Iterator[Finding]:
    seconds = after.at_s - before.at_s
    reads = sum(total.reads for total in sums_of(before, after).values()) / seconds if seconds > 0 else 0.0
    for node, stats in sorted(after.answers().items()):
        rate = stats.hottest_reads_per_s
        if rate >= _HOT_READS_PER_S and rate > _HOT_PART * reads:
            evidence = f"{rate:,.0f} of {reads:,.0f} reads a second"
            remedy = "`cachenode hotkeys` names it. A near cache in the clients spares the node these reads."
            yield Finding(Severity.WARNING, "one key makes most of the load", node, evidence, remedy)


CHECKS = (hit_ratios, memory, loads, stampede, overload, quotas, policies, hot_key)
