"""The policy of a namespace: what every entry in it has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cachenode.core.adaptive_ttl import DEFAULT_STEPS, AdaptiveTtl, parse_step
from cachenode.core.quotas import QuotaAction
from cachenode_api.keys import check_namespace

__all__ = ["MOST_OF_A_TTL", "NamespacePolicy"]

MOST_OF_A_TTL = 0.9


@dataclass(frozen=True, slots=True)
class NamespacePolicy:
    """How one namespace treats its entries. The configuration makes it; nothing changes it afterwards.

    Attributes:
        name: The namespace.
        ttl_s: Life of an entry whose write names none; infinite means that it does not expire.
        max_value_bytes: Largest value that a write may bring.
        l2: Whether entries are also kept in the shared store.
        share: Weight when memory is short: a namespace with share 2 may keep twice as much as one with share 1.
        ttl_jitter: Part of a TTL by which a life may be shorter, so that what is stored together does not end together.
        stale_s: How long after its TTL a loaded value is still served while it is loaded anew.
        refresh_ahead: Part of a TTL before its end from which on a request has the value loaded anew.
        xfetch_beta: How much earlier values are loaded anew that take long to load; 0: not at all.
        negative_ttl_s: How long an absence that a loader has found is believed; 0: not at all.
        origin: Where the nodes load absent values from, by its name in the configuration; empty: nowhere.
        demand_window_s: The accesses that count of a key are those of the last one to two of these.
        adaptive_ttl: Whether a value that brings no TTL gets one by how much its key is wanted, in place of `ttl_s`.
        adaptive_steps: The TTLs and whom they are for (`cachenode.core.adaptive_ttl`), the first that fits counts.
        adaptive_min_s: The shortest of these TTLs.
        adaptive_max_s: The longest.
        adaptive_hit_rate: While fewer of the reads find a value, values get the next longer TTL.
        max_bytes: What its entries may cost on a node; None: no quota.
        max_keys: How many of them a node may hold; None: no quota.
        quota: What happens beyond that: "evict" lets others of its entries go, "refuse" fails writes of new ones.
        admit_after: How often a key must have been asked for lately for a loaded value to be kept.
        sliding: Whether each read gives an entry its whole life anew.
        max_life_s: No read lets an entry live longer than this.
        bloom: Whether a Bloom filter answers reads of keys that have no value anywhere (`cachenode.core.bloom`).
        bloom_keys: Keys for which it is sized at first.
        bloom_error: Part of the absent keys that it lets pass.
        bloom_rebuild: When it is rebuilt besides (`cachenode.core.schedule`).
        write: Where writes go: "around" the origin, "through" the cache to it, or to it "behind" the acknowledgement.
        write_delay_s: How long a write behind waits for others, and for the key's next one.
        write_priority: Which namespace's writes behind go first, 1 before 10.
        regions: Whether what changes here is declared untrue in other regions (`cachenode.core.regions`).
        region_holdoff_s: `holdoff_s` after what another region has told: its changes may take so long to reach the
            origin that is loaded from here.
        remote_marker_s: How long after a change that was made elsewhere what it concerns is loaded where that was
            (`cachenode.core.markers`); 0: not at all.
        primary_region: Whose database is written, whichever region makes the change; empty if each writes its own.
        region_value_bytes: Values up to this size that were written in another region are brought here; 0: none.
        warm_top: So many of the keys that a node read most are noted for its next life; 0: none.
        holdoff_s: How long after a removal loaded values are handed out and not stored (`cachenode.core.holdoff`).

    Raises:
        InvalidNamespace: The name is not a namespace's.
        ValueError: A number is out of its range.
    """

    name: str
    ttl_s: float
    max_value_bytes: int
    l2: bool
    share: float
    holdoff_s: float = 0.0
    ttl_jitter: float = 0.0
    stale_s: float = 0.0
    refresh_ahead: float = 0.0
    xfetch_beta: float = 0.0
    negative_ttl_s: float = 0.0
    origin: str = ""
    write: str = "around"
    max_bytes: int | None = None
    max_keys: int | None = None
    quota: QuotaAction = "evict"
    admit_after: int = 0
    sliding: bool = False
    max_life_s: float = math.inf
    write_delay_s: float = 0.0
    write_priority: int = 5
    demand_window_s: float = 3_600.0
    adaptive_ttl: bool = False
    adaptive_steps: tuple[str, ...] = DEFAULT_STEPS
    adaptive_min_s: float = 60.0
    adaptive_max_s: float = 86_400.0
    adaptive_hit_rate: float = 0.5
    warm_top: int = 0
    bloom: bool = False
    bloom_keys: int = 1_000_000
    bloom_error: float = 0.01
    bloom_rebuild: str = "1d"
    regions: bool = False
    region_holdoff_s: float = 0.0
    remote_marker_s: float = 0.0
    primary_region: str = ""
    region_value_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.name or check_namespace(self.name) != self.name:
            raise ValueError("namespace: a policy needs a name")
        self._check_numbers()
        if self.sliding and (self.stale_s or self.refresh_ahead or self.xfetch_beta):
            raise ValueError("sliding: a value that is read would never be loaded anew")
        steps = [parse_step(text) for text in self.adaptive_steps]
        AdaptiveTtl(steps, self.adaptive_min_s, self.adaptive_max_s, self.adaptive_hit_rate)  # says what is wrong

    def _check_numbers(self) -> None:
        for field in ("ttl_s", "max_value_bytes", "share", "demand_window_s", "max_life_s"):
            # Negated, so that NaN is refused too: a NaN deadline would compare false to everything and never expire.
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: must be above 0")
        for field in ("max_bytes", "max_keys"):
            if getattr(self, field) is not None and not getattr(self, field) > 0:
                raise ValueError(f"{field}: must be above 0")
        for field in ("holdoff_s", "region_holdoff_s", "remote_marker_s", "stale_s", "xfetch_beta", "negative_ttl_s"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field}: must not be below 0")
        for field in ("ttl_jitter", "refresh_ahead"):
            if not 0 <= getattr(self, field) <= MOST_OF_A_TTL:
                raise ValueError(f"{field}: must be between 0 and {MOST_OF_A_TTL}")
