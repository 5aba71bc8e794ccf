"""Metrics for Prometheus: a collector that reads the node's plain integers when it is scraped.

Nothing on the path of a call knows about metrics: no locks and no label look-ups there. Labels are closed sets
(layers, namespaces, reasons), never keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachenode.core.stats import NamespaceCounters, NodeStats, OriginCounters

__all__ = ["NodeCollector"]

_L2_STATES = ("off", "closed", "open", "half_open", "catching_up")


class NodeCollector(Collector):
    """Turns the counters of one node into metrics.

    Args:
        stats: Returns the present counters.
    """

    def __init__(self, stats: Callable[[], NodeStats]) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Return nothing: the counters are not asked before the node is built."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        stats = self._stats()
        yield from _of_namespaces(stats.namespaces)
        yield from _of_node(stats)
        if stats.origins:
            yield from _of_origins(stats.origins)


def _of_namespaces(namespaces: tuple[NamespaceCounters, ...]) -> Iterator[Metric]:
    hits = CounterMetricFamily("cache_hits", "Reads that found a value.", labels=["cache_layer", "namespace"])
    misses = CounterMetricFamily("cache_misses", "Reads that found none.", labels=["namespace"])
    rate = GaugeMetricFamily("cache_hit_rate", "Part of all reads that found a value.", labels=["namespace"])
    operations = CounterMetricFamily("cache_operations", "Writes done.", labels=["operation", "namespace"])
    memory = GaugeMetricFamily("cache_memory_bytes", "Cost of the entries in memory.", labels=["namespace"])
    keys = GaugeMetricFamily("cache_keys_total", "Entries in memory.", labels=["namespace"])
    evictions = CounterMetricFamily(
        "cache_evictions", "Entries that left memory by themselves.", labels=["namespace", "reason"]
    )
    loads = CounterMetricFamily(
        "cachenode_loads", "Loads of absent values, by callers or by nodes.", labels=["namespace"]
    )
    waits = CounterMetricFamily("cachenode_load_waits", "Reads that waited for a load.", labels=["namespace"])
    failures = CounterMetricFamily("cachenode_load_failures", "Loads that failed.", labels=["namespace"])
    stood_in = "Loads of keys whose owner could not be reached."
    stand_ins = CounterMetricFamily("cachenode_stand_in_loads", stood_in, labels=["namespace"])
    anew = "Loads that were to replace a value before its end."
    renewals = CounterMetricFamily("cachenode_renewals", anew, labels=["namespace"])
    nothing = "Reads that were told at once that the origin has nothing."
    negatives = CounterMetricFamily("cachenode_negative_hits", nothing, labels=["namespace"])
    lives = "Values that got a life by how much their key is asked for."
    adaptive = CounterMetricFamily("cachenode_adaptive_ttls", lives, labels=["namespace"])
    summed = "Sum of these lives; over their number it is the mean."
    adaptive_s = CounterMetricFamily("cachenode_adaptive_ttl_seconds", summed, labels=["namespace"])
    untrue = CounterMetricFamily(
        "cache_invalidations", "Keys and selectors that were declared untrue.", labels=["namespace"]
    )
    for space in namespaces:
        found = space.l1_hits + space.l2_hits
        hits.add_metric(["l1", space.name], space.l1_hits)
        hits.add_metric(["l2", space.name], space.l2_hits)
        misses.add_metric([space.name], space.misses)
        rate.add_metric([space.name], found / (found + space.misses) if found + space.misses else 0.0)
        operations.add_metric(["set", space.name], space.sets)
        operations.add_metric(["delete", space.name], space.deletes)
        memory.add_metric([space.name], space.used_bytes)
        keys.add_metric([space.name], space.entries)
        evictions.add_metric([space.name, "capacity"], space.evictions)
        evictions.add_metric([space.name, "expired"], space.expirations)
        loads.add_metric([space.name], space.loads)
        waits.add_metric([space.name], space.load_waits)
        failures.add_metric([space.name], space.load_failures)
        stand_ins.add_metric([space.name], space.stand_in_loads)
        renewals.add_metric([space.name], space.renewals)
        negatives.add_metric([space.name], space.negative_hits)
        untrue.add_metric([space.name], space.invalidations)
        adaptive.add_metric([space.name], space.adaptive_ttls)
        adaptive_s.add_metric([space.name], space.adaptive_ttl_s)
    yield from (
        hits,
        misses,
        rate,
        operations,
        memory,
        keys,
        evictions,
        loads,
        waits,
        failures,
        stand_ins,
        renewals,
        negatives,
        untrue,
        adaptive,
        adaptive_s,
    )


def _of_node(stats: NodeStats) -> Iterator[Metric]:
    errors = CounterMetricFamily("cache_errors", "Keys that failed, by stable reason.", labels=["reason"])
    for reason, count in sorted(stats.errors.items()):
        errors.add_metric([reason], count)
    yield errors
    state = GaugeMetricFamily("cachenode_l2_state", "1 for the state that L2 is in.", labels=["state"])
    for name in _L2_STATES:
        state.add_metric([name], float(stats.l2_state == name))
    yield state
    info = GaugeMetricFamily("cachenode_build_info", "Always 1.", labels=["node_id", "version"])
    info.add_metric([stats.node_id, stats.version], 1)
    yield info
    yield CounterMetricFamily("cachenode_l2_errors", "Calls to L2 that failed.", value=stats.l2_errors)
    yield CounterMetricFamily("cachenode_forwarded", "Keys sent on to their owner.", value=stats.forwarded)
    yield GaugeMetricFamily("cachenode_copies", "Copies of other nodes' hot keys.", value=stats.copies)
    hits = "Reads of other nodes' hot keys that were answered from copies."
    yield CounterMetricFamily("cachenode_copy_hits", hits, value=stats.copy_hits)
    handover = CounterMetricFamily(
        "cachenode_handover", "Entries handed to or got from others when keys moved.", labels=["outcome"]
    )
    handover.add_metric(["sent"], stats.handed_over)
    handover.add_metric(["declined"], stats.handover_declined)
    handover.add_metric(["accepted"], stats.handover_accepted)
    handover.add_metric(["refused"], stats.handover_refused)
    yield handover
    waits = "Writes that waited until nobody served an older copy."
    yield CounterMetricFamily("cachenode_invalidation_waits", waits, value=stats.invalidation_waits)
    yield CounterMetricFamily("cachenode_swept", "Entries that barriers removed from memory.", value=stats.swept)
    holders = "Sessions that may hold copies in a near cache."
    yield GaugeMetricFamily("cachenode_near_holders", holders, value=stats.near_holders)
    yield GaugeMetricFamily("cachenode_sessions", "Open client sessions.", value=stats.sessions)
    yield GaugeMetricFamily("cachenode_view_epoch", "Epoch of the view in force.", value=stats.view_epoch)
    yield GaugeMetricFamily("cachenode_members", "Members of the view in force.", value=stats.members)
    yield GaugeMetricFamily("cachenode_memory_max_bytes", "Budget for entries.", value=stats.max_bytes)
    yield GaugeMetricFamily("cachenode_uptime_seconds", "Time since the start.", value=stats.uptime_s)


def _of_origins(origins: tuple[OriginCounters, ...]) -> Iterator[Metric]:
    by_origin = ["origin"]
    calls = CounterMetricFamily("cachenode_origin_calls", "Calls of a loader.", labels=by_origin)
    keys = CounterMetricFamily("cachenode_origin_keys", "Keys that loaders were asked for.", labels=by_origin)
    failures = CounterMetricFamily("cachenode_origin_failures", "Calls that brought nothing.", labels=by_origin)
    retries = CounterMetricFamily("cachenode_origin_retries", "Calls made again after a failure.", labels=by_origin)
    seconds = CounterMetricFamily("cachenode_origin_seconds", "Time spent in calls.", labels=by_origin)
    busy = GaugeMetricFamily("cachenode_origin_busy", "Calls under way.", labels=by_origin)
    waiting = GaugeMetricFamily("cachenode_origin_waiting", "Keys that wait for a call.", labels=by_origin)
    left_alone = "1 while the origin is left alone because it kept failing."
    breaker = GaugeMetricFamily("cachenode_origin_breaker_open", left_alone, labels=by_origin)
    for origin in origins:
        calls.add_metric([origin.name], origin.calls)
        keys.add_metric([origin.name], origin.keys)
        failures.add_metric([origin.name], origin.failures)
        retries.add_metric([origin.name], origin.retries)
        seconds.add_metric([origin.name], origin.seconds)
        busy.add_metric([origin.name], origin.busy)
        waiting.add_metric([origin.name], origin.waiting)
        breaker.add_metric([origin.name], float(origin.state != "closed"))
    yield from (calls, keys, failures, retries, seconds, busy, waiting, breaker)
