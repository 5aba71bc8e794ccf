"""Checks of the nodes among each other, and of L2."""

from __future__ import annotations

from collections.abc import Iterator

from cachenode.findings.moments import Finding, Moment, Severity

__all__ = ["CHECKS"]


def silent(_: Moment, after: Moment) -> Iterator[Finding]:
    for name, answer in sorted(after.stats.items()):
        if answer is None:
            remedy = "Is the process up, and reached from here? It leaves the view by itself once its lease is over."
            yield Finding(Severity.CRITICAL, "a member does not answer", name, "no answer to a call", remedy)


def views(_: Moment, after: Moment) -> Iterator[Finding]:
    epochs = {name: reply.header.view_epoch for name, reply in after.views.items() if reply is not None}
    if len(set(epochs.values())) > 1:
        evidence = ", ".join(f"{name} at {epoch}" for name, epoch in sorted(epochs.items()))
        remedy = "Passes within seconds after a change. If it lasts: do all nodes use one registry (l2.registry_url)?"
        yield Finding(Severity.CRITICAL, "nodes act under different views", "", evidence, remedy)


def links(_: Moment, after: Moment) -> Iterator[Finding]:
    for name, reply in sorted(after.views.items()):
        lost = [peer.node_id for peer in reply.peers if not peer.linked] if reply is not None else []
        if lost:
            remedy = "Can the two reach each other's gRPC port? With TLS: do they believe each other's certificates?"
            yield Finding(Severity.CRITICAL, "peers do not hear each other", name, f"not {', '.join(lost)}", remedy)


def l2(_: Moment, after: Moment) -> Iterator[Finding]:
    answers = after.answers()
    for name, stats in sorted(answers.items()):
        if stats.l2_state in {"open", "half_open"}:
            evidence = f"state {stats.l2_state}, {stats.l2_errors:,} calls failed"
            remedy = (
                "Is Redis up and reached, and quicker than l2.timeout_s? Do they believe each other's passwords "
                "and certificates? The node's log says why, in its line l2_away. It is tried again every second."
            )
            yield Finding(Severity.CRITICAL, "L2 is not used", name, evidence, remedy)
    if len(answers) > 1 and all(stats.l2_state == "off" for stats in answers.values()):
        remedy = "Set l2.url: without it the values of a node that dies are lost, and loaded again."
        yield Finding(Severity.WARNING, "there is no L2", "", f"{len(answers)} nodes, none with one", remedy)


_REDIS = {
    "old": ("Redis is too old", "Use Redis 7.0 or later, or Valkey: the nodes' scripts need it."),
    "evicts": (
        "Redis evicts what is no cache",
        "Set maxmemory-policy to volatile-lru: what has no TTL, as members and queued writes, must stay.",
    ),
    "no_file": (
        "queued writes are in Redis's memory alone",
        "Set appendonly to yes there (everysec loses a second at most), or name another server: l2.queue_url.",
    ),
    "min_replicas": (
        "a Redis master that is cut off goes on taking writes",
        "Set min-replicas-to-write to 1 and min-replicas-max-lag to 2: what it takes then is lost in a failover.",
    ),
    "slow_failover": (
        "a failover of Redis outlasts the nodes' leases",
        "Lower cluster-node-timeout or raise cluster.lease_s: that time and a second must be within 0.6 of the lease.",
    ),
}


def redis_settings(_: Moment, after: Moment) -> Iterator[Finding]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, stats in sorted(after.answers().items()):
        for each in stats.redis_problems:
            found.setdefault((each.kind, each.use, each.evidence), []).append(name)
    for (kind, use, evidence), names in found.items():
        what, remedy = _REDIS.get(kind, (f"a setting of Redis does not fit: {kind}", "See cachenode docs redis."))
        yield Finding(Severity.WARNING, what, "", f"{evidence} ({use}; seen by {', '.join(names)})", remedy)


def releases(_: Moment, after: Moment) -> Iterator[Finding]:
    releases = {stats.version for stats in after.answers().values()}
    if len(releases) > 1:
        remedy = "Finish the update: older nodes may not understand what newer ones offer."
        yield Finding(Severity.WARNING, "nodes of different releases", "", ", ".join(sorted(releases)), remedy)


CHECKS = (silent, views, links, l2, redis_settings, releases)
