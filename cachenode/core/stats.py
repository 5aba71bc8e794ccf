"""What a node counts, as frozen records that metrics, admin calls and people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachenode.core.redis_settings import RedisProblem

__all__ = [
    "DurationCounters",
    "EventCounters",
    "NamespaceCounters",
    "NodeStats",
    "OriginCounters",
    "OriginRegionCounters",
    "RegionCounters",
]


@dataclass(frozen=True, slots=True)
class NamespaceCounters:
    """One namespace on one node: sizes now, counters since the start."""

    name: str
    entries: int
    used_bytes: int
    l1_hits: int
    l2_hits: int
    misses: int
    sets: int
    deletes: int
    evictions: int
    expirations: int
    loads: int
    load_waits: int
    load_failures: int
    invalidations: int = 0
    stand_in_loads: int = 0
    renewals: int = 0
    negative_hits: int = 0
    warmed: int = 0
    warm_failures: int = 0
    bloom_absences: int = 0
    bloom_passed: int = 0
    bloom_skipped: int = 0
    bloom_false_positives: int = 0
    bloom_bytes: int = 0
    bloom_fill: float = 0.0
    bloom_age_s: float = -1.0
    bloom_rebuilds: int = 0
    bloom_failures: int = 0
    bloom_merges: int = 0
    bloom_refusals: int = 0
    bloom_saves: int = 0
    expired: int = 0
    policy_version: int = 0
    load_seconds: float = 0.0
    landed: int = 0
    stale_reads: int = 0
    soft_timeouts: int = 0
    adaptive_ttls: int = 0
    adaptive_ttl_s: float = 0.0
    slides: int = 0
    quota_evictions: int = 0
    quota_refusals: int = 0
    admitted: int = 0
    not_admitted: int = 0
    cascades: int = 0
    cascaded_entries: int = 0
    dependents: int = 0
    remote_loads: int = 0
    remote_load_failures: int = 0
    remote_markers: int = 0
    remote_values: int = 0
    remote_values_missed: int = 0
    queue_waiting: int = -1
    queue_oldest_s: float = 0.0
    queue_applied: int = 0
    queue_coalesced: int = 0
    queue_retries: int = 0
    queue_dead_letters: int = 0

    @property
    def queued(self) -> bool:
        """True if the namespace writes behind."""
        return self.queue_waiting >= 0


@dataclass(frozen=True, slots=True)
class OriginCounters:
    """One origin as one node asks it: calls and keys waiting now, counters since the start.

    A call may ask for several keys. `failures` are calls that answered none; `state` is the breaker's. Writes have
    counters and a breaker of their own: `written` are done, `write_failures` are not, `uncertain_writes` may be.
    """

    name: str
    calls: int
    keys: int
    failures: int
    retries: int
    seconds: float
    busy: int
    waiting: int
    state: str
    written: int = 0
    write_failures: int = 0
    uncertain_writes: int = 0
    write_calls: int = 0
    write_retries: int = 0
    write_seconds: float = 0.0
    writes_waiting: int = 0
    write_state: str = "closed"

    @property
    def left_alone(self) -> bool:
        """True while its breaker lets no call through, or only one to see."""
        return self.state != "closed"

    @property
    def sink_left_alone(self) -> bool:
        """The same of the breaker for writes."""
        return self.write_state != "closed"


@dataclass(frozen=True, slots=True)
class DurationCounters:
    """How long one kind of operation has taken: keys within each limit (`Durations`), the last for all; their sum.

    `cache_layer` is "l1" for what memory could answer at once, "l2" for what had to wait for L2, a peer or a load.
    """

    operation: str
    cache_layer: str
    within: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class EventCounters:
    """Events that came to a node in one way and to one end."""

    source: str
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class RegionCounters:
    """The link to one other region, as one node knows it: how far behind the region is now, counters since the start.

    Only the node that sends there, `sending`, knows how much waits (`lag_entries`), and for how long the oldest of it
    has (`lag_s`). `state` is a `cachenode.node.region_sender.SenderState`.
    """

    name: str
    state: str = ""
    why: str = ""
    sending: bool = False
    lag_entries: int = 0
    lag_s: float = 0.0
    sent: int = 0
    gaps: int = 0
    failures: int = 0
    outbox: str = ""
    head: int = 0
    acted: int = 0

    @property
    def connected(self) -> bool:
        """True if the region has answered the last time that this node asked."""
        return self.state == "connected"


@dataclass(frozen=True, slots=True)
class OriginRegionCounters:
    """What has come from another region to one node: entries acted on, those known already, and gaps.

    `ignored` are entries of namespaces that this region does not have, or does not share. `loads` are keys that it had
    this one load.
    """

    name: str
    applied: int = 0
    known: int = 0
    gaps: int = 0
    ignored: int = 0
    loads: int = 0


@dataclass(frozen=True, slots=True)
class NodeStats:
    """One node: sizes now, counters since the start."""

    node_id: str
    incarnation: str
    version: str
    uptime_s: float
    max_bytes: int
    used_bytes: int
    sessions: int
    l2_state: str
    l2_errors: int
    forwarded: int
    view_epoch: int
    members: int
    namespaces: tuple[NamespaceCounters, ...]
    errors: Mapping[str, int]
    near_holders: int = 0
    invalidation_waits: int = 0
    invalidation_wait_s: float = 0.0
    swept: int = 0
    warm_jobs: int = 0
    hottest_reads_per_s: float = 0.0
    shed: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    pressure: float = 0.0
    copies: int = 0
    copy_hits: int = 0
    handed_over: int = 0
    handover_declined: int = 0
    handover_accepted: int = 0
    handover_refused: int = 0
    origins: tuple[OriginCounters, ...] = ()
    durations: tuple[DurationCounters, ...] = ()
    certificate_expires_at: float | None = None
    events: tuple[EventCounters, ...] = ()
    event_invalidations: int = 0
    regions: tuple[RegionCounters, ...] = ()
    origin_regions: tuple[OriginRegionCounters, ...] = ()
    regions_appended: int = 0
    regions_owed: int = 0
    region: str = ""
    l2_floors: int = 0
    late_holders: int = 0
    clock_steps: int = 0
    clock_step_s: float = 0.0
    clock_step_age_s: float = 0.0
    wall_s: float = 0.0
    redis_problems: tuple[RedisProblem, ...] = ()
    leaving: str = ""
    """How far the node is that leaves (`cachenode.node.leaving`); empty if it does not."""

    @property
    def redis_misfits(self) -> int:
        """How many settings of its Redis do not fit."""
        return len(self.redis_problems)

    @property
    def leaves(self) -> int:
        """1 if the node leaves, or has left."""
        return int(bool(self.leaving))
