from __future__ import annotations

import dataclasses

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cachenode.adapters.metrics import NodeCollector
from cachenode.core.durations import Durations
from cachenode.core.entries import Operation
from cachenode.core.stats import (
    EventCounters,
    NamespaceCounters,
    NodeStats,
    OriginCounters,
    OriginRegionCounters,
    RegionCounters,
)

USERS = NamespaceCounters(
    name="users",
    entries=7,
    used_bytes=700,
    l1_hits=60,
    l2_hits=30,
    misses=10,
    sets=5,
    deletes=4,
    evictions=3,
    expirations=2,
    loads=21,
    load_waits=22,
    load_failures=23,
    invalidations=24,
    stand_in_loads=25,
    renewals=26,
    negative_hits=27,
    adaptive_ttls=2,
    adaptive_ttl_s=7_200.0,
    slides=4,
    quota_evictions=5,
    quota_refusals=6,
    admitted=7,
    not_admitted=8,
)
DATABASE = OriginCounters(
    name="database",
    calls=31,
    keys=32,
    failures=33,
    retries=34,
    seconds=3.5,
    busy=36,
    waiting=37,
    state="half_open",
    written=38,
    write_failures=39,
    uncertain_writes=40,
    write_calls=41,
    write_retries=42,
    write_seconds=4.5,
    writes_waiting=43,
    write_state="open",
)
STATS = NodeStats(
    node_id="node-0",
    incarnation="1",
    version="9.9.9",
    uptime_s=12.5,
    max_bytes=1_000,
    used_bytes=700,
    sessions=8,
    l2_state="half_open",
    l2_errors=11,
    l2_floors=12,
    forwarded=13,
    view_epoch=17,
    members=3,
    namespaces=(USERS,),
    errors={"overloaded": 2, "internal": 1},
    near_holders=14,
    shed={"refresh": 3, "miss": 0},
    pressure=0.75,
    invalidation_waits=15,
    swept=16,
    events=(EventCounters("webhook", "refused", 4),),
    event_invalidations=77,
    origins=(DATABASE,),
    region="east",
    regions=(
        RegionCounters("west", "connected", sending=True, lag_entries=3, lag_s=1.5, sent=7, gaps=1, failures=2),
        RegionCounters("south", "waiting", sent=4),
    ),
    origin_regions=(OriginRegionCounters("west", applied=8, known=2, gaps=1, ignored=5, loads=4),),
    regions_appended=9,
    regions_owed=6,
)


def registry(stats: NodeStats) -> CollectorRegistry:
    found = CollectorRegistry(auto_describe=False)
    found.register(NodeCollector(lambda: stats))
    return found


def value(stats: NodeStats, name: str, **labels: str) -> float | None:
    return registry(stats).get_sample_value(name, labels)


def test_counters_of_a_namespace() -> None:
    """Every number of a namespace is found under its name and labels."""
    users = {"namespace": "users"}
    assert value(STATS, "cache_hits_total", cache_layer="l1", **users) == 60
    assert value(STATS, "cache_hits_total", cache_layer="l2", **users) == 30
    assert value(STATS, "cache_misses_total", **users) == 10
    assert value(STATS, "cache_hit_rate", **users) == 0.9
    assert value(STATS, "cache_operations_total", operation="set", **users) == 5
    loads = ("cachenode_loads_total", "cachenode_load_waits_total", "cachenode_load_failures_total")
    assert [value(STATS, name, **users) for name in loads] == [21, 22, 23]
    assert value(STATS, "cachenode_stand_in_loads_total", **users) == 25
    assert value(STATS, "cachenode_renewals_total", **users) == 26
    assert value(STATS, "cachenode_negative_hits_total", **users) == 27
    assert value(STATS, "cache_operations_total", operation="delete", **users) == 4
    assert value(STATS, "cache_invalidations_total", **users) == 24
    assert value(STATS, "cache_memory_bytes", **users) == 700
    assert value(STATS, "cache_keys_total", **users) == 7
    assert value(STATS, "cache_evictions_total", reason="capacity", **users) == 3
    assert value(STATS, "cache_evictions_total", reason="expired", **users) == 2


def test_numbers_of_the_node() -> None:
    """Every number of the node is found under its name."""
    assert value(STATS, "cache_errors_total", reason="overloaded") == 2
    assert value(STATS, "cache_errors_total", reason="internal") == 1
    assert value(STATS, "cachenode_build_info", node_id="node-0", version="9.9.9") == 1
    assert value(STATS, "cachenode_l2_errors_total") == 11
    assert value(STATS, "cachenode_l2_floors_total") == 12
    assert value(STATS, "cachenode_forwarded_total") == 13
    assert value(STATS, "cachenode_sessions") == 8
    assert value(STATS, "cachenode_near_holders") == 14
    assert value(STATS, "cachenode_invalidation_waits_total") == 15
    assert value(STATS, "cachenode_swept_total") == 16
    assert value(STATS, "cachenode_events_total", source="webhook", outcome="refused") == 4
    assert value(STATS, "cachenode_event_invalidations_total") == 77
    assert value(STATS, "cachenode_view_epoch") == 17
    assert value(STATS, "cachenode_members") == 3
    assert value(STATS, "cachenode_memory_max_bytes") == 1_000
    assert value(STATS, "cachenode_uptime_seconds") == 12.5


def test_state_of_l2_is_one_of_all() -> None:
    """Each state has a series; the present one is 1 and the others 0, so that alerts need no text."""
    for state in ("off", "closed", "open", "half_open"):
        stats = dataclasses.replace(STATS, l2_state=state)
        shown = {
            name: value(stats, "cachenode_l2_state", state=name) for name in ("off", "closed", "open", "half_open")
        }
        assert shown == {name: float(name == state) for name in shown}


def test_durations_are_a_histogram() -> None:
    """Buckets add up, the last holds all, and the sum is of seconds: what histogram_quantile needs."""
    durations = Durations()
    durations.add(Operation.GET, 3, 0.002, waited=True)
    durations.add(Operation.GET, 1, 7.0, waited=True)
    stats = dataclasses.replace(STATS, durations=durations.counters())
    labels = {"operation": "get", "cache_layer": "l2"}
    name = "cache_operation_duration_seconds"
    assert value(stats, f"{name}_bucket", le="0.001", **labels) == 0
    assert value(stats, f"{name}_bucket", le="0.005", **labels) == 3
    assert value(stats, f"{name}_bucket", le="+Inf", **labels) == value(stats, f"{name}_count", **labels) == 4
    assert value(stats, f"{name}_sum", **labels) == 7.006


def test_regions_have_a_lag_where_somebody_knows_it() -> None:
    """Only the node that sends to a region shows how far behind that is; all show what they have done."""
    assert value(STATS, "cachenode_region_lag_seconds", region="west") == 1.5
    assert value(STATS, "cachenode_region_lag_entries", region="west") == 3
    assert value(STATS, "cachenode_region_connected", region="west") == 1
    assert value(STATS, "cachenode_region_lag_seconds", region="south") is None
    assert value(STATS, "cachenode_region_sent_total", region="west") == 7
    assert value(STATS, "cachenode_region_sent_total", region="south") == 4
    assert value(STATS, "cachenode_region_failures_total", region="west") == 2
    assert value(STATS, "cachenode_region_gaps_told_total", region="west") == 1
    names = ("applied", "redelivered", "gaps", "ignored")
    assert [value(STATS, f"cachenode_region_{name}_total", region="west") for name in names] == [8, 2, 1, 5]
    assert value(STATS, "cachenode_regions_appended_total") == 9
    assert value(STATS, "cachenode_regions_owed") == 6


def test_refused_work_is_counted() -> None:
    """By class, and how near the limit the node is."""
    assert value(STATS, "cachenode_shed_total", **{"class": "refresh"}) == 3
    assert value(STATS, "cachenode_shed_total", **{"class": "miss"}) == 0
    assert value(STATS, "cachenode_pressure") == 0.75


def test_adaptive_lives_are_counted() -> None:
    """Their number and their sum: the mean is what people look at."""
    assert value(STATS, "cachenode_adaptive_ttls_total", namespace="users") == 2
    assert value(STATS, "cachenode_adaptive_ttl_seconds_total", namespace="users") == 7_200
    assert value(STATS, "cachenode_slides_total", namespace="users") == 4
    assert value(STATS, "cachenode_quota_evictions_total", namespace="users") == 5
    assert value(STATS, "cachenode_quota_refusals_total", namespace="users") == 6
    assert value(STATS, "cachenode_admitted_total", namespace="users") == 7
    assert value(STATS, "cachenode_not_admitted_total", namespace="users") == 8


def test_namespace_without_reads_has_no_hit_rate_trouble() -> None:
    """Nothing is divided by zero before the first read."""
    idle = dataclasses.replace(USERS, l1_hits=0, l2_hits=0, misses=0)
    assert value(dataclasses.replace(STATS, namespaces=(idle,)), "cache_hit_rate", namespace="users") == 0


def test_registering_asks_for_nothing() -> None:
    """The collector is registered before the node is built, and asks for its counters at the first scrape only."""

    def too_early() -> NodeStats:
        raise AssertionError

    CollectorRegistry(auto_describe=True).register(NodeCollector(too_early))


def test_both_formats_parse() -> None:
    """Prometheus can read what is written, as text and as OpenMetrics, and every metric has a help text."""
    for accept, parse in (("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)):
        encode, _ = choose_encoder(accept)
        families = {family.name: family for family in parse(encode(registry(STATS)).decode())}
        assert {"cache_misses", "cachenode_sessions"} <= {name.removesuffix("_total") for name in families}
        assert all(family.documentation for family in families.values())


def test_names_and_labels_are_a_closed_set() -> None:
    """Metrics and their labels are those documented; no label can grow with keys or clients."""
    labels = {sample.name: sorted(sample.labels) for family in registry(STATS).collect() for sample in family.samples}
    assert labels == {
        "cache_hits_total": ["cache_layer", "namespace"],
        "cache_misses_total": ["namespace"],
        "cachenode_loads_total": ["namespace"],
        "cachenode_load_waits_total": ["namespace"],
        "cachenode_load_failures_total": ["namespace"],
        "cachenode_stand_in_loads_total": ["namespace"],
        "cachenode_remote_load_failures_total": ["namespace"],
        "cachenode_remote_loads_total": ["namespace"],
        "cachenode_remote_markers": ["namespace"],
        "cachenode_remote_values_missed_total": ["namespace"],
        "cachenode_remote_values_total": ["namespace"],
        "cachenode_renewals_total": ["namespace"],
        "cachenode_negative_hits_total": ["namespace"],
        "cachenode_expired_values_total": ["namespace"],
        "cachenode_adaptive_ttls_total": ["namespace"],
        "cachenode_load_seconds_total": ["namespace"],
        "cachenode_loads_landed_total": ["namespace"],
        "cachenode_policy_version": ["namespace"],
        "cachenode_soft_timeouts_total": ["namespace"],
        "cachenode_stale_reads_total": ["namespace"],
        "cachenode_slides_total": ["namespace"],
        "cachenode_warmed_total": ["namespace"],
        "cachenode_warm_failures_total": ["namespace"],
        "cachenode_warm_jobs": [],
        "cachenode_bloom_absences_total": ["namespace"],
        "cachenode_bloom_passed_total": ["namespace"],
        "cachenode_bloom_skipped_total": ["namespace"],
        "cachenode_bloom_false_positives_total": ["namespace"],
        "cachenode_bloom_rebuilds_total": ["namespace"],
        "cachenode_bloom_failures_total": ["namespace"],
        "cachenode_bloom_merges_total": ["namespace"],
        "cachenode_bloom_refusals_total": ["namespace"],
        "cachenode_bloom_saves_total": ["namespace"],
        "cachenode_bloom_bytes": ["namespace"],
        "cachenode_bloom_fill": ["namespace"],
        "cachenode_bloom_age_seconds": ["namespace"],
        "cachenode_admitted_total": ["namespace"],
        "cachenode_not_admitted_total": ["namespace"],
        "cachenode_quota_evictions_total": ["namespace"],
        "cachenode_quota_refusals_total": ["namespace"],
        "cachenode_adaptive_ttl_seconds_total": ["namespace"],
        "cachenode_origin_calls_total": ["origin"],
        "cachenode_origin_keys_total": ["origin"],
        "cachenode_origin_failures_total": ["origin"],
        "cachenode_origin_retries_total": ["origin"],
        "cachenode_origin_seconds_total": ["origin"],
        "cachenode_origin_busy": ["origin"],
        "cachenode_origin_waiting": ["origin"],
        "cachenode_origin_breaker_open": ["origin"],
        "cachenode_origin_writes_total": ["origin", "outcome"],
        "cachenode_origin_write_calls_total": ["origin"],
        "cachenode_origin_write_retries_total": ["origin"],
        "cachenode_origin_write_seconds_total": ["origin"],
        "cachenode_origin_writes_waiting": ["origin"],
        "cachenode_origin_write_breaker_open": ["origin"],
        "cache_invalidations_total": ["namespace"],
        "cachenode_cascades_total": ["namespace"],
        "cachenode_cascaded_entries_total": ["namespace"],
        "cachenode_dependents": ["namespace"],
        "cachenode_near_holders": [],
        "cachenode_invalidation_waits_total": [],
        "cachenode_invalidation_wait_seconds_total": [],
        "cachenode_event_invalidations_total": [],
        "cachenode_events_total": ["outcome", "source"],
        "cachenode_swept_total": [],
        "cachenode_hottest_reads_per_second": [],
        "cachenode_pressure": [],
        "cachenode_shed_total": ["class"],
        "cachenode_copies": [],
        "cachenode_copy_hits_total": [],
        "cachenode_handover_total": ["outcome"],
        "cache_hit_rate": ["namespace"],
        "cache_operations_total": ["namespace", "operation"],
        "cache_memory_bytes": ["namespace"],
        "cache_keys_total": ["namespace"],
        "cache_evictions_total": ["namespace", "reason"],
        "cache_errors_total": ["reason"],
        "cachenode_l2_state": ["state"],
        "cachenode_build_info": ["node_id", "version"],
        "cachenode_l2_errors_total": [],
        "cachenode_l2_floors_total": [],
        "cachenode_redis_problems": [],
        "cachenode_forwarded_total": [],
        "cachenode_region_applied_total": ["region"],
        "cachenode_region_connected": ["region"],
        "cachenode_region_failures_total": ["region"],
        "cachenode_region_gaps_told_total": ["region"],
        "cachenode_region_gaps_total": ["region"],
        "cachenode_region_ignored_total": ["region"],
        "cachenode_region_lag_entries": ["region"],
        "cachenode_region_lag_seconds": ["region"],
        "cachenode_region_loads_total": ["region"],
        "cachenode_region_redelivered_total": ["region"],
        "cachenode_region_sent_total": ["region"],
        "cachenode_regions_appended_total": [],
        "cachenode_regions_owed": [],
        "cachenode_sessions": [],
        "cachenode_view_epoch": [],
        "cachenode_members": [],
        "cachenode_leaving": [],
        "cachenode_clock_steps_total": [],
        "cachenode_late_holders_total": [],
        "cachenode_memory_max_bytes": [],
        "cachenode_uptime_seconds": [],
    }


def test_origins_are_told_apart() -> None:
    """What a node asks of each origin; without origins there is nothing to tell."""
    of = {"origin": "database"}
    counters = [
        value(STATS, f"cachenode_origin_{name}_total", **of) for name in ("calls", "keys", "failures", "retries")
    ]
    assert counters == [31, 32, 33, 34]
    assert value(STATS, "cachenode_origin_seconds_total", **of) == 3.5
    assert value(STATS, "cachenode_origin_busy", **of) == 36
    assert value(STATS, "cachenode_origin_waiting", **of) == 37
    assert value(STATS, "cachenode_origin_breaker_open", **of) == 1
    assert value(dataclasses.replace(STATS, origins=()), "cachenode_origin_busy", **of) is None
    outcomes = ("done", "failed", "uncertain")
    assert [value(STATS, "cachenode_origin_writes_total", **of, outcome=each) for each in outcomes] == [38, 39, 40]
    assert value(STATS, "cachenode_origin_write_calls_total", **of) == 41
    assert value(STATS, "cachenode_origin_write_retries_total", **of) == 42
    assert value(STATS, "cachenode_origin_write_seconds_total", **of) == 4.5
    assert value(STATS, "cachenode_origin_writes_waiting", **of) == 43
    assert value(STATS, "cachenode_origin_write_breaker_open", **of) == 1
