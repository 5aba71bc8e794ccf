"""The settings of a namespace: its policy, as the configuration says it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from cachenode.config.fields import Bytes, Count, Due, OptionalName, Part, Section, Share, Span, Steps, Ttl
from cachenode.core.adaptive_ttl import DEFAULT_STEPS
from cachenode.core.policy import MOST_OF_A_TTL, NamespacePolicy
from cachenode.core.quotas import QuotaAction

__all__ = ["NamespaceConfig"]


class NamespaceConfig(Section):
    """One namespace; [namespaces.default] holds what others without a table of their own get."""

    ttl_s: Ttl = Field(3_600.0, description="Life of entries whose write names none; never: they do not expire")
    max_value_bytes: Annotated[Bytes, Field(ge=1)] | None = Field(
        None, description="Largest value; unset: limits.max_value_bytes"
    )
    l2: bool = Field(True, description="Whether entries are kept in L2 too")
    holdoff_s: Span = Field(
        0.0,
        le=3_600,
        description="How long after a removal loaded values are not kept: as long as replicas of the origin may lag",
    )
    ttl_jitter: Part = Field(
        0.0, le=MOST_OF_A_TTL, description="Part of a TTL by which a life may be shorter, at random"
    )
    stale_s: Span = Field(
        0.0,
        le=30 * 86_400,
        description="How long after its TTL a loaded value is still served while it is loaded anew",
    )
    refresh_ahead: Part = Field(
        0.0,
        le=MOST_OF_A_TTL,
        description="Part of a TTL before its end from which on a request has the value loaded anew",
    )
    xfetch_beta: Part = Field(
        0.0,
        le=100,
        description="How much earlier values that take long to load are loaded anew; 1 to 1.5, 0: not at all",
    )
    origin: str = Field("", description='Name of the origin that nodes load absent values from; "": none')
    write: Literal["around", "through", "behind"] = Field(
        "around",
        description="Whether writes leave the origin alone, go through the cache to its sink, or get there later",
    )
    write_delay_s: Span = Field(
        0.0, le=86_400, description="How long a write behind waits for others, and for the key's next one"
    )
    write_priority: Count = Field(
        5, ge=1, le=10, description="Which namespace's writes behind go to an origin first: 1 before 10"
    )
    negative_ttl_s: Span = Field(
        0.0,
        le=86_400,
        description="How long it is believed that the origin has nothing for a key; 0: not at all",
    )
    max_bytes: Annotated[Bytes, Field(ge=64 * 1024)] | None = Field(
        None, description="Most memory that its entries take on each node; unset: what its share allows"
    )
    max_keys: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="Most entries in the memory of each node; unset: any number"
    )
    quota: QuotaAction = Field(
        "evict", description="Beyond max_bytes or max_keys: evict others of its entries, or refuse new ones"
    )
    admit_after: Count = Field(
        0, ge=0, le=10_000, description="Loaded values are kept once a key was asked for so often; 0 or 1: at once"
    )
    sliding: bool = Field(False, description="Whether each read gives an entry its whole life, ttl_s, anew")
    max_life_s: Ttl = Field(
        math.inf, description="However often it is read, no read lets an entry live longer; never: no limit"
    )
    adaptive_ttl: bool = Field(False, description="Whether lives follow how much a key is asked for, in place of ttl_s")
    adaptive_steps: Steps = Field(
        DEFAULT_STEPS,
        description="Lives and whom they are for: >accesses, <time since the last but one; the first that fits",
    )
    adaptive_min_s: Span = Field(60.0, gt=0, le=365 * 86_400, description="Shortest adaptive life")
    adaptive_max_s: Span = Field(86_400.0, gt=0, le=365 * 86_400, description="Longest adaptive life")
    adaptive_hit_rate: Part = Field(
        0.5, le=1, description="While fewer of the reads are hits, adaptive lives are one step longer; 0: never"
    )
    demand_window_s: Span = Field(
        3_600.0, ge=1, le=30 * 86_400, description="Accesses of a key count for one to two times as long"
    )
    bloom: bool = Field(
        False, description="Whether a Bloom filter answers for keys that the origin, which must list its keys, lacks"
    )
    bloom_keys: Count = Field(1_000_000, ge=1_000, le=1_000_000_000, description="Keys for which it is sized at first")
    bloom_error: Part = Field(0.01, ge=0.000_001, le=0.5, description="Part of the absent keys that it lets pass")
    bloom_rebuild: Due = Field(
        "1d", description="When it is rebuilt besides changes of the cluster: an interval, or a cron expression (UTC)"
    )
    warm_top: Count = Field(
        0, ge=0, le=1_000_000, description="Keys that a node read most, noted in L2 and warmed when it starts again"
    )
    regions: bool = Field(
        False, description="Whether what is written or declared untrue here becomes untrue in the other regions too"
    )
    region_holdoff_s: Span = Field(
        0.0,
        le=3_600,
        description="How long after another region's word loaded values are not kept: as long as its changes may take",
    )
    remote_marker_s: Span = Field(
        0.0,
        le=3_600,
        description="How long after a change made in another region what it concerns is loaded there; 0: not at all",
    )
    primary_region: OptionalName = Field(
        "", description='Region whose database is written, wherever a change is made; "": each region writes its own'
    )
    region_value_bytes: Bytes = Field(
        0, description="Values up to this size that are written in another region are brought here; 0: none"
    )
    share: Share = Field(1.0, description="Share of memory when it is short, relative to the other namespaces")

    def policy(self, name: str, max_value_bytes: int, region: str = "") -> NamespacePolicy:
        """Return the policy of the namespace with this name.

        Args:
            name: Of the namespace.
            max_value_bytes: Largest value where the section says nothing of it.
            region: The one that the node belongs to. The primary region itself has every change at once: no marks.
        """
        settings = self.model_dump(exclude={"max_value_bytes"})
        if region and self.primary_region == region:
            settings |= {"primary_region": "", "remote_marker_s": 0.0}
        return NamespacePolicy(name=name, max_value_bytes=self.max_value_bytes or max_value_bytes, **settings)
