"""What a node has counted of a namespace, gathered from those who count: what metrics, statistics and findings show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachenode.core.stats import NamespaceCounters

if TYPE_CHECKING:
    from cachenode.node.drain import Drain
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["counters"]


def _bloom(namespace: Namespace, wall: float, epoch: int) -> dict[str, Any]:
    """Return the counters of a namespace's filter under the names that a namespace's counters have for them."""
    if namespace.bloom is None:
        return {}
    found = {f"bloom_{name}": value for name, value in asdict(namespace.bloom.counters(wall, epoch)).items()}
    return {name: value for name, value in found.items() if name in NamespaceCounters.__dataclass_fields__}


def counters(node: Node, namespace: Namespace, drain: Drain | None) -> NamespaceCounters:
    """Return the counters of a namespace on this node; `drain` has those of its queue of writes behind."""
    epoch, warming = node.placement.epoch, node.warming
    store, demand, quota = namespace.store, namespace.demand, namespace.quota
    return NamespaceCounters(
        name=namespace.policy.name,
        entries=len(store),
        used_bytes=store.used_bytes,
        l1_hits=namespace.l1_hits,
        l2_hits=namespace.l2_hits,
        misses=namespace.misses,
        sets=namespace.sets,
        deletes=namespace.deletes,
        evictions=store.evictions,
        expirations=store.expirations,
        loads=namespace.loads,
        load_waits=namespace.load_waits,
        load_failures=namespace.load_failures,
        invalidations=namespace.invalidations,
        stand_in_loads=namespace.stand_in_loads,
        remote_loads=namespace.remote_loads,
        remote_load_failures=namespace.remote_load_failures,
        remote_values=namespace.remote_values,
        remote_values_missed=namespace.remote_values_missed,
        remote_markers=namespace.markers.count(node.clock.now()) if namespace.markers is not None else 0,
        renewals=namespace.renewed,
        negative_hits=namespace.negative_hits,
        warmed=warming.loaded[namespace.policy.name],
        warm_failures=warming.failed[namespace.policy.name],
        slides=namespace.slides.moved,
        cascades=namespace.cascades,
        cascaded_entries=namespace.cascaded,
        dependents=len(namespace.dependents) if namespace.dependents is not None else 0,
        expired=namespace.expired + namespace.sweep.expired,
        policy_version=namespace.policy_version,
        admitted=demand.admitted if demand is not None else 0,
        not_admitted=demand.not_admitted if demand is not None else 0,
        quota_evictions=quota.evictions if quota is not None else 0,
        quota_refusals=quota.refusals if quota is not None else 0,
        load_seconds=namespace.observed.load_seconds,
        landed=namespace.observed.landed,
        stale_reads=namespace.observed.stale_reads,
        soft_timeouts=namespace.observed.soft_timeouts,
        adaptive_ttls=demand.ttls if demand is not None else 0,
        adaptive_ttl_s=demand.ttl_s if demand is not None else 0.0,
        **_bloom(namespace, node.wall(), epoch),
        **_queue(drain, namespace),
    )


def _queue(drain: Drain | None, namespace: Namespace) -> dict[str, Any]:
    found = None if drain is None else drain.counters(namespace.policy.name)
    if found is None:
        return {}
    return {
        "queue_waiting": found.waiting,
        "queue_oldest_s": found.oldest_s,
        "queue_applied": found.applied,
        "queue_coalesced": found.coalesced,
        "queue_retries": found.retries,
        "queue_dead_letters": found.dead,
    }
