"""Checks of the ways to and from origins."""

from __future__ import annotations

from collections.abc import Iterator

from cachenode.findings.moments import Finding, Moment, Severity

__all__ = ["CHECKS"]

_LATE_S, _VERY_LATE_S = 60.0, 300.0


def origins(before: Moment, after: Moment) -> Iterator[Finding]:
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


def write_behind(_: Moment, after: Moment) -> Iterator[Finding]:
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
            remedy = "`cachenode writebehind dead` shows which are left, and why; replay them when that is mended."
            evidence = f"{count:,} dead {'letter' if count == 1 else 'letters'} since the nodes have started"
            yield Finding(Severity.CRITICAL, "an origin refuses writes", name, evidence, remedy)


CHECKS = (origins, write_behind)
