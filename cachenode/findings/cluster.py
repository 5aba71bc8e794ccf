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
            remedy = "Is Redis up and reached, and quicker than l2.timeout_s? It is tried again every second."
            yield Finding(Severity.CRITICAL, "L2 is not used", name, evidence, remedy)
    if len(answers) > 1 and all(stats.l2_state == "off" for stats in answers.values()):
        remedy = "Set l2.url: without it the values of a node that dies are lost, and loaded again."
        yield Finding(Severity.WARNING, "there is no L2", "", f"{len(answers)} nodes, none with one", remedy)


def releases(_: Moment, after: Moment) -> Iterator[Finding]:
    releases = {stats.version for stats in after.answers().values()}
    if len(releases) > 1:
        remedy = "Finish the update: older nodes may not understand what newer ones offer."
        yield Finding(Severity.WARNING, "nodes of different releases", "", ", ".join(sorted(releases)), remedy)


CHECKS = (silent, views, links, l2, releases)
