"""Checks of what time does to a node: clocks that jump or differ, certificates that end, clients that are late."""

from __future__ import annotations

from collections.abc import Iterator

from cachenode.findings.moments import Finding, Moment, Severity

__all__ = ["CHECKS"]

_DAY_S = 86_400.0
_SOON_S, _VERY_SOON_S = 14 * _DAY_S, 2 * _DAY_S
_SKEW_S = 2.0
"""Beyond what the answers' way here explains."""
_RECENT_S = 3_600.0


def clocks(before: Moment, after: Moment) -> Iterator[Finding]:
    for name, stats in sorted(after.answers().items()):
        if stats.clock.steps and stats.clock.last_step_age_s < _RECENT_S:
            evidence = (
                f"{stats.clock.steps:,} since the start, the last by {stats.clock.last_step_s:+.1f} s,"
                f" {stats.clock.last_step_age_s:,.0f} s ago"
            )
            remedy = "Let the time service slew instead of step. Leases count on another clock; cron jobs do not."
            yield Finding(Severity.WARNING, "the time of day has jumped", name, evidence, remedy)
    earlier, later = _offsets(before), _offsets(after)
    apart = {name: min(later[name], earlier[name], key=abs) for name in later if name in earlier}
    for name, offset_s in sorted(apart.items()):
        if abs(offset_s) > _SKEW_S and (earlier[name] > 0) == (later[name] > 0):
            evidence = f"{offset_s:+.1f} s from the others"
            remedy = "Is the time service running there? Nothing that is kept depends on it; cron jobs and logs do."
            yield Finding(Severity.WARNING, "the time of day differs", name, evidence, remedy)


def _offsets(moment: Moment) -> dict[str, float]:
    """Return how far each node's time of day is from that of the one in the middle."""
    times = {name: stats.clock.wall_s for name, stats in moment.answers().items() if stats.clock.wall_s}
    if len(times) < 2:
        return {}
    ordered = sorted(times.values())
    middle = ordered[(len(ordered) - 1) // 2]
    return {name: time - middle for name, time in times.items()}


def certificates(_: Moment, after: Moment) -> Iterator[Finding]:
    for name, stats in sorted(after.answers().items()):
        if not stats.HasField("certificate_expires_at") or not stats.clock.wall_s:
            continue
        left_s = stats.certificate_expires_at - stats.clock.wall_s
        if left_s < _SOON_S:
            severity = Severity.CRITICAL if left_s < _VERY_SOON_S else Severity.WARNING
            evidence = f"in {left_s / _DAY_S:.1f} days" if left_s > 0 else f"{-left_s / _DAY_S:.1f} days ago"
            what = "the certificate ends soon" if left_s > 0 else "the certificate has ended"
            remedy = "Renew the files in place: they are looked at for each handshake, without a restart."
            yield Finding(severity, what, name, evidence, remedy)


def late_sessions(before: Moment, after: Moment) -> Iterator[Finding]:
    earlier = before.answers()
    for name, stats in sorted(after.answers().items()):
        known = earlier.get(name)
        if known is None or known.incarnation != stats.incarnation:
            continue
        late = stats.late_holders - known.late_holders
        if late > 0:
            waits = stats.invalidation_waits - known.invalidation_waits
            evidence = f"{late:,} leases refused, {waits:,} writes waited for clients"
            remedy = "A client with a near cache does not come round: is its event loop blocked, or its CPU limited?"
            yield Finding(Severity.WARNING, "clients acknowledge late", name, evidence, remedy)


CHECKS = (clocks, certificates, late_sessions)
