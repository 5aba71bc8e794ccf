"""Metrics for Prometheus: a collector that reads the node's plain integers when it is scraped.

Nothing on the path of a call knows about metrics: no locks and no label look-ups there. Labels are closed sets
(layers, namespaces, reasons), never keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cachenode.core.durations import LIMITS_S
from cachenode.core.stats import (
    DurationCounters,
    NamespaceCounters,
    NodeStats,
    OriginCounters,
    OriginRegionCounters,
    RegionCounters,
)

__all__ = ["NodeCollector"]

_L2_STATES = ("off", "closed", "open", "half_open", "catching_up")
_Named = NamespaceCounters | OriginCounters | RegionCounters | OriginRegionCounters
_Table = tuple[tuple[str, str, str], ...]
"""Rows of a metric's name, its help, and which counter it shows."""
_NAMESPACE_COUNTERS: _Table = (
    ("cache_misses", "Reads that found none.", "misses"),
    ("cache_invalidations", "Keys and selectors that were declared untrue.", "invalidations"),
    ("cachenode_expired_values", "Values in memory that an invalidation left to be served as stale.", "expired"),
    ("cachenode_loads", "Loads of absent values, by callers or by nodes.", "loads"),
    ("cachenode_load_waits", "Reads that waited for a load.", "load_waits"),
    ("cachenode_load_failures", "Loads that failed.", "load_failures"),
    ("cachenode_stand_in_loads", "Loads of keys whose owner could not be reached.", "stand_in_loads"),
    ("cachenode_remote_loads", "Loads done in another region, which has a change of the key.", "remote_loads"),
    (
        "cachenode_remote_load_failures",
        "Loads that it could not do: done here, and not kept.",
        "remote_load_failures",
    ),
    ("cachenode_remote_values", "Values written in other regions that were brought here.", "remote_values"),
    (
        "cachenode_remote_values_missed",
        "Those that were not: too large, gone, out of reach, too many.",
        "remote_values_missed",
    ),
    ("cachenode_renewals", "Loads that were to replace a value before its end.", "renewals"),
    ("cachenode_load_seconds", "Time that loads took which have brought a value.", "load_seconds"),
    ("cachenode_loads_landed", "Loads that have brought a value.", "landed"),
    ("cachenode_stale_reads", "Reads that were given a value past its TTL.", "stale_reads"),
    ("cachenode_soft_timeouts", "Those of them whose load took longer than they wait.", "soft_timeouts"),
    ("cachenode_negative_hits", "Reads that were told at once that the origin has nothing.", "negative_hits"),
    ("cachenode_warmed", "Values that jobs of this node had loaded.", "warmed"),
    ("cachenode_warm_failures", "Keys that jobs of this node could not have loaded.", "warm_failures"),
    ("cachenode_bloom_absences", "Reads that a Bloom filter answered: no value.", "bloom_absences"),
    ("cachenode_bloom_passed", "Reads of keys that the filter has.", "bloom_passed"),
    ("cachenode_bloom_skipped", "Reads of keys about which the filter may say nothing.", "bloom_skipped"),
    ("cachenode_bloom_false_positives", "Loads of keys that the filter has, without a value.", "bloom_false_positives"),
    (
        "cachenode_bloom_rebuilds",
        "Times that a filter was put in use for which the origin was listed.",
        "bloom_rebuilds",
    ),
    ("cachenode_bloom_failures", "Rebuilds that this node led and that failed.", "bloom_failures"),
    ("cachenode_bloom_merges", "Times that a merge of what nodes know was put in use.", "bloom_merges"),
    ("cachenode_bloom_refusals", "Merges that this node led and that could not be believed.", "bloom_refusals"),
    ("cachenode_bloom_saves", "Times that this node has saved what it knows in L2.", "bloom_saves"),
    ("cachenode_adaptive_ttls", "Values that got a life by how much their key is asked for.", "adaptive_ttls"),
    ("cachenode_adaptive_ttl_seconds", "Sum of these lives; over their number it is the mean.", "adaptive_ttl_s"),
    ("cachenode_slides", "Reads that have given an entry a longer life.", "slides"),
    ("cachenode_admitted", "Loaded values that were kept, their key being asked for often enough.", "admitted"),
    ("cachenode_not_admitted", "Loaded values that were handed out and not kept.", "not_admitted"),
    ("cachenode_quota_evictions", "Entries removed because their namespace was beyond its quota.", "quota_evictions"),
    ("cachenode_quota_refusals", "Values refused because their namespace was beyond its quota.", "quota_refusals"),
    ("cachenode_cascades", "Changes of keys that others depended on.", "cascades"),
    ("cachenode_cascaded_entries", "Entries removed because of what they depended on.", "cascaded_entries"),
)
_QUEUE_COUNTERS: _Table = (
    ("cachenode_writebehind_applied", "Queued writes that the origin has.", "queue_applied"),
    ("cachenode_writebehind_coalesced", "Writes that took the place of a queued one.", "queue_coalesced"),
    ("cachenode_writebehind_retries", "Attempts that failed and are made again.", "queue_retries"),
    ("cachenode_writebehind_dead_letters", "Queued writes that were given up.", "queue_dead_letters"),
)
_QUEUE_GAUGES: _Table = (
    ("cachenode_writebehind_waiting", "Keys that wait for the origin, in this node's shards.", "queue_waiting"),
    ("cachenode_writebehind_oldest_seconds", "How long the oldest of them has waited.", "queue_oldest_s"),
)
_NAMESPACE_GAUGES: _Table = (
    ("cache_memory_bytes", "Cost of the entries in memory.", "used_bytes"),
    ("cache_keys_total", "Entries in memory.", "entries"),
    ("cachenode_dependents", "Dependents of this node's keys that it knows.", "dependents"),
    ("cachenode_remote_markers", "Keys and selectors that other regions are asked for.", "remote_markers"),
    ("cachenode_bloom_bytes", "Memory of the filter, beside that for entries.", "bloom_bytes"),
    ("cachenode_bloom_fill", "Part of the filter's bits that were set when it was put in use.", "bloom_fill"),
    (
        "cachenode_bloom_age_seconds",
        "Time since the keys that it rests on were listed; negative if never.",
        "bloom_age_s",
    ),
    ("cachenode_policy_version", "Changes of the settings while the cluster runs.", "policy_version"),
)
_ORIGIN_COUNTERS: _Table = (
    ("cachenode_origin_calls", "Calls of a loader.", "calls"),
    ("cachenode_origin_keys", "Keys that loaders were asked for.", "keys"),
    ("cachenode_origin_failures", "Calls that brought nothing.", "failures"),
    ("cachenode_origin_retries", "Calls made again after a failure.", "retries"),
    ("cachenode_origin_seconds", "Time spent in calls.", "seconds"),
    ("cachenode_origin_write_calls", "Calls of a sink.", "write_calls"),
    ("cachenode_origin_write_retries", "Calls of a sink made again after a failure.", "write_retries"),
    ("cachenode_origin_write_seconds", "Time spent in calls of a sink.", "write_seconds"),
)
_ORIGIN_GAUGES: _Table = (
    ("cachenode_origin_busy", "Calls under way.", "busy"),
    ("cachenode_origin_waiting", "Keys that wait for a call.", "waiting"),
    ("cachenode_origin_breaker_open", "1 while the origin is left alone because it kept failing.", "left_alone"),
    ("cachenode_origin_writes_waiting", "Writes that wait for a call.", "writes_waiting"),
    (
        "cachenode_origin_write_breaker_open",
        "1 while the sink is left alone because it kept failing.",
        "sink_left_alone",
    ),
)
_REGION_COUNTERS: _Table = (
    ("cachenode_region_sent", "Entries of the outbox that this node has brought to the region.", "sent"),
    ("cachenode_region_gaps_told", "Gaps that it was told: everything shared is untrue there then.", "gaps"),
    ("cachenode_region_failures", "Calls that the region has not answered, or refused.", "failures"),
)
_REGION_GAUGES: _Table = (
    ("cachenode_region_connected", "1 if the region has answered the last call.", "connected"),
    ("cachenode_region_lag_entries", "Entries that the region does not have yet.", "lag_entries"),
    ("cachenode_region_lag_seconds", "How long the oldest of them has waited.", "lag_s"),
)
_ORIGIN_REGION_COUNTERS: _Table = (
    ("cachenode_region_applied", "Entries of the region that were acted on here.", "applied"),
    ("cachenode_region_redelivered", "Those that came again, and had no effect.", "known"),
    ("cachenode_region_gaps", "Gaps: everything shared became untrue here.", "gaps"),
    ("cachenode_region_loads", "Keys that were loaded here for the region.", "loads"),
    ("cachenode_region_ignored", "Entries of namespaces that are not shared here.", "ignored"),
)
_NODE_COUNTERS: _Table = (
    ("cachenode_regions_appended", "Entries that this node has put in the outbox.", "regions_appended"),
    ("cachenode_l2_errors", "Calls to L2 that failed.", "l2_errors"),
    ("cachenode_l2_floors", "Times that L2 has forgotten more than could be told it again.", "l2_floors"),
    ("cachenode_forwarded", "Keys sent on to their owner.", "forwarded"),
    ("cachenode_copy_hits", "Reads of other nodes' hot keys that were answered from copies.", "copy_hits"),
    ("cachenode_invalidation_waits", "Writes that waited until nobody served an older copy.", "invalidation_waits"),
    ("cachenode_invalidation_wait_seconds", "Time that these writes waited.", "invalidation_wait_s"),
    ("cachenode_event_invalidations", "Keys and selectors that events declared untrue.", "event_invalidations"),
    ("cachenode_clock_steps", "Times that the time of day has jumped.", "clock_steps"),
    ("cachenode_late_holders", "Leases of near caches refused because the client acknowledged late.", "late_holders"),
    ("cachenode_swept", "Entries that barriers removed from memory.", "swept"),
)
_NODE_GAUGES: _Table = (
    ("cachenode_regions_owed", "Entries that the outbox did not take and is still to get.", "regions_owed"),
    ("cachenode_copies", "Copies of other nodes' hot keys.", "copies"),
    ("cachenode_pressure", "What there is to do, as a part of what there may be.", "pressure"),
    ("cachenode_hottest_reads_per_second", "Reads a second of the key that is read most.", "hottest_reads_per_s"),
    ("cachenode_near_holders", "Sessions that may hold copies in a near cache.", "near_holders"),
    ("cachenode_warm_jobs", "Warming jobs that this node runs.", "warm_jobs"),
    ("cachenode_redis_problems", "Settings of the node's Redis that do not fit its use.", "redis_misfits"),
    ("cachenode_leaving", "1 if the node leaves the cluster on purpose, or has left it and is still up.", "leaves"),
    ("cachenode_sessions", "Open client sessions.", "sessions"),
    ("cachenode_view_epoch", "Epoch of the view in force.", "view_epoch"),
    ("cachenode_members", "Members of the view in force.", "members"),
    ("cachenode_memory_max_bytes", "Budget for entries.", "max_bytes"),
    ("cachenode_uptime_seconds", "Time since the start.", "uptime_s"),
)


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
        yield _of_durations(stats.durations)
        if stats.origins:
            yield _of_writes(stats.origins)
            yield from _labelled("origin", stats.origins, _ORIGIN_COUNTERS, _ORIGIN_GAUGES)
        if stats.origin_regions:
            sending = [region for region in stats.regions if region.sending]
            yield from _labelled("region", stats.regions, _REGION_COUNTERS, ())
            yield from _labelled("region", sending, (), _REGION_GAUGES)
            yield from _labelled("region", stats.origin_regions, _ORIGIN_REGION_COUNTERS, ())


def _of_namespaces(namespaces: tuple[NamespaceCounters, ...]) -> Iterator[Metric]:
    hits = CounterMetricFamily("cache_hits", "Reads that found a value.", labels=["cache_layer", "namespace"])
    rate = GaugeMetricFamily("cache_hit_rate", "Part of all reads that found a value.", labels=["namespace"])
    operations = CounterMetricFamily("cache_operations", "Writes done.", labels=["operation", "namespace"])
    evictions = CounterMetricFamily(
        "cache_evictions", "Entries that left memory by themselves.", labels=["namespace", "reason"]
    )
    for space in namespaces:
        found = space.l1_hits + space.l2_hits
        hits.add_metric(["l1", space.name], space.l1_hits)
        hits.add_metric(["l2", space.name], space.l2_hits)
        rate.add_metric([space.name], found / (found + space.misses) if found + space.misses else 0.0)
        operations.add_metric(["set", space.name], space.sets)
        operations.add_metric(["delete", space.name], space.deletes)
        evictions.add_metric([space.name, "capacity"], space.evictions)
        evictions.add_metric([space.name, "expired"], space.expirations)
    yield from (hits, rate, operations, evictions)
    yield from _labelled("namespace", namespaces, _NAMESPACE_COUNTERS, _NAMESPACE_GAUGES)
    if queued := [space for space in namespaces if space.queued]:
        yield from _labelled("namespace", queued, _QUEUE_COUNTERS, _QUEUE_GAUGES)


def _of_writes(origins: tuple[OriginCounters, ...]) -> Metric:
    writes = CounterMetricFamily(
        "cachenode_origin_writes", "Writes to sinks, as they ended.", labels=["origin", "outcome"]
    )
    for origin in origins:
        writes.add_metric([origin.name, "done"], origin.written)
        writes.add_metric([origin.name, "failed"], origin.write_failures)
        writes.add_metric([origin.name, "uncertain"], origin.uncertain_writes)
    return writes


def _labelled(label: str, counted: Sequence[_Named], counters: _Table, gauges: _Table) -> Iterator[Metric]:
    """Yield the metrics of a table, each with a sample for everything that is counted."""
    for family, table in ((CounterMetricFamily, counters), (GaugeMetricFamily, gauges)):
        for name, text, attribute in table:
            metric = family(name, text, labels=[label])
            for each in counted:
                metric.add_metric([each.name], getattr(each, attribute))
            yield metric


def _of_durations(durations: tuple[DurationCounters, ...]) -> Metric:
    text = "Time that operations take in the node; l1: memory was enough, l2: waited for L2, a peer or a load."
    found = HistogramMetricFamily("cache_operation_duration_seconds", text, labels=["operation", "cache_layer"])
    for each in durations:
        limits = [*map(str, LIMITS_S), "+Inf"]
        buckets = list(zip(limits, each.within, strict=True))
        found.add_metric([each.operation, each.cache_layer], buckets, each.seconds)
    return found


def _of_node(stats: NodeStats) -> Iterator[Metric]:
    errors = CounterMetricFamily("cache_errors", "Keys that failed, by stable reason.", labels=["reason"])
    for reason, count in sorted(stats.errors.items()):
        errors.add_metric([reason], count)
    yield errors
    shed = CounterMetricFamily("cachenode_shed", "Keys refused under overload, by class of work.", labels=["class"])
    for work, count in stats.shed.items():
        shed.add_metric([work], count)
    yield shed
    text = "Calls and sessions refused as a whole: one too many (calls, watchers, sessions), or not let in (identity)."
    refused = CounterMetricFamily("cachenode_refused_calls", text, labels=["why"])
    for why, count in stats.refused.items():
        refused.add_metric([why], count)
    yield refused
    state = GaugeMetricFamily("cachenode_l2_state", "1 for the state that L2 is in.", labels=["state"])
    for name in _L2_STATES:
        state.add_metric([name], float(stats.l2_state == name))
    yield state
    info = GaugeMetricFamily("cachenode_build_info", "Always 1.", labels=["node_id", "version"])
    info.add_metric([stats.node_id, stats.version], 1)
    yield info
    handover = CounterMetricFamily(
        "cachenode_handover", "Entries handed to or got from others when keys moved.", labels=["outcome"]
    )
    handover.add_metric(["sent"], stats.handed_over)
    handover.add_metric(["declined"], stats.handover_declined)
    handover.add_metric(["accepted"], stats.handover_accepted)
    handover.add_metric(["refused"], stats.handover_refused)
    yield handover
    if stats.certificate_expires_at is not None:
        ends = "When the node's certificate ends, in seconds since 1970."
        yield GaugeMetricFamily(
            "cachenode_certificate_expiry_timestamp_seconds", ends, value=stats.certificate_expires_at
        )
    events = CounterMetricFamily(
        "cachenode_events", "Events, by how they came and ended.", labels=["source", "outcome"]
    )
    for each in stats.events:
        events.add_metric([each.source, each.outcome], each.count)
    yield events
    for name, text, attribute in _NODE_COUNTERS:
        yield CounterMetricFamily(name, text, value=getattr(stats, attribute))
    for name, text, attribute in _NODE_GAUGES:
        yield GaugeMetricFamily(name, text, value=getattr(stats, attribute))
