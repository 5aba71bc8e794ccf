"""What the console shows of a cluster at one moment, as a document; and the ring, as a picture needs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cachenode.findings import Finding, Moment
from cachenode.findings.rates import Latency, Rates, latencies, rates
from cachenode_api.ring import Ring
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.view import Member, View

__all__ = ["MOST_NAMESPACES", "past", "picture", "ring_document"]

MOST_NAMESPACES = 20
"""Those with most reads have curves of their own; the sums are of all."""
_SEGMENTS = 720
_PAST = ("at", "total", "namespaces", "latency", "nodes_up")
"""What of a picture is kept for the curves."""


def picture(view: View, me: str, before: Moment | None, after: Moment, findings: list[Finding]) -> dict[str, Any]:
    """Return the cluster at a moment; rates are those since the moment before, and missing without one."""
    nodes: Mapping[str, Rates] = {}
    spaces: Mapping[str, Rates] = {}
    took: Mapping[str, Latency] = {}
    if before is not None:
        nodes, spaces = rates(before.stats, after.stats, after.at_s - before.at_s)
        took = latencies(before.stats, after.stats)
    shares = Ring(view).shares()
    busiest = sorted(spaces, key=lambda name: (-spaces[name].reads, name))
    return {
        "at": round(time.time(), 1),
        "epoch": view.epoch,
        "seen_by": me,
        "members": [_member(each, shares[each.id], after, nodes.get(each.id)) for each in view.members],
        "nodes_up": sum(answer is not None for answer in after.stats.values()),
        "total": _rates(*spaces.values()) if spaces else None,
        "namespaces": {name: _rates(spaces[name]) for name in busiest[:MOST_NAMESPACES]},
        "more_namespaces": max(0, len(spaces) - MOST_NAMESPACES),
        "latency": {name: _latency(each) for name, each in took.items()},
        "findings": [asdict(finding) for finding in findings],
    }


def past(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a picture the curves are made of."""
    return {name: document[name] for name in _PAST}


def ring_document(view: View) -> dict[str, Any]:
    """Return the ring in parts of one owner each, in parts of 720, beginning where the hashes do."""
    owners = Ring(view).segments(_SEGMENTS)
    runs = [[owner, len(list(run))] for owner, run in groupby(owners)]
    return {"epoch": view.epoch, "parts": _SEGMENTS, "runs": runs, "vnodes": view.vnodes, "hash": view.ring_hash}


def _member(member: Member, share: float, after: Moment, rate: Rates | None) -> dict[str, Any]:
    shown, stats = after.views.get(member.id), after.stats.get(member.id)
    document: dict[str, Any] = {
        "id": member.id,
        "address": member.address,
        "http": member.http_address,
        "weight": member.weight,
        "share": round(share, 6),
        "answers": stats is not None and shown is not None,
        "epoch": shown.header.view_epoch if shown is not None else None,
        "links": len(shown.peers) if shown is not None else 0,
        "links_down": [peer.node_id for peer in shown.peers if not peer.linked] if shown is not None else [],
    }
    if stats is not None:
        document |= _stats(stats)
    if rate is not None:
        document |= {"reads": _round(rate.reads), "hits": _round(rate.hits), "writes": _round(rate.writes)}
    return document


def _stats(stats: pb.GetStatsResponse) -> dict[str, Any]:
    return {
        "version": stats.version,
        "uptime_s": round(stats.uptime_s),
        "used_bytes": stats.used_bytes,
        "max_bytes": stats.max_bytes,
        "entries": sum(space.entries for space in stats.namespaces),
        "sessions": stats.sessions,
        "l2_state": stats.l2_state,
        "pressure": round(stats.pressure, 3),
        "warm_jobs": stats.warm_jobs,
    }


def _rates(*each: Rates) -> dict[str, float]:
    summed = {name: _round(sum(rate.counted[name] for rate in each)) for name in each[0].counted}
    return summed | {
        "entries": sum(rate.entries for rate in each),
        "used_bytes": sum(rate.used_bytes for rate in each),
    }


def _latency(each: Latency) -> dict[str, Any]:
    return {"count": each.count, "p50_s": each.p50_s, "p99_s": each.p99_s}


def _round(value: float) -> float:
    return round(value, 2)
