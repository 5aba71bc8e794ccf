"""Checks of the links to other regions."""

from __future__ import annotations

from collections.abc import Iterator

from cachenode.findings.moments import Finding, Moment, Severity

__all__ = ["CHECKS"]

_LATE_S, _VERY_LATE_S = 60.0, 600.0


def regions(_: Moment, after: Moment) -> Iterator[Finding]:
    answers = after.answers()
    names = sorted({link.name for stats in answers.values() for link in stats.regions})
    for name in names:
        links = [link for stats in answers.values() for link in stats.regions if link.name == name]
        sending = next((link for link in links if link.sending), None)
        if sending is None:
            remedy = "Does the Redis of regions.url (or l2.url) answer? `cachenode regions status` says why."
            yield Finding(Severity.CRITICAL, "a region is told nothing", name, "no node sends to it", remedy)
        elif sending.state == "refused":
            remedy = "Is regions.name there what regions.peers says here, this region among its peers, the token good?"
            yield Finding(Severity.CRITICAL, "a region refuses what it is told", name, sending.why, remedy)
        elif sending.lag_s > _LATE_S:
            severity = Severity.CRITICAL if sending.lag_s > _VERY_LATE_S else Severity.WARNING
            evidence = f"{sending.lag_entries:,} entries, the oldest for {sending.lag_s:,.0f} s; {sending.state}"
            remedy = (
                "Is it up and reached? It serves what is untrue here. `cachenode regions status`; paused? resume it."
            )
            yield Finding(severity, "a region is behind", name, evidence, remedy)
    for node, stats in sorted(answers.items()):
        if stats.regions_owed:
            remedy = "Is the Redis of regions.url (or l2.url) up? Should the node die before, other regions miss these."
            evidence = f"{stats.regions_owed:,} entries"
            yield Finding(Severity.CRITICAL, "the outbox takes nothing", node, evidence, remedy)


CHECKS = (regions,)
