"""Namespaces at run time: the policy, the entries in memory, the fill tokens and the counters of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cachenode.core.barriers import BarrierLog
from cachenode.core.bloom import Bloom
from cachenode.core.demand import Demand, Wanted
from cachenode.core.dependencies import Dependents, Links
from cachenode.core.entries import Batch, L2Entry
from cachenode.core.expiries import Expiries
from cachenode.core.fills import FillTokens
from cachenode.core.flights import Flights
from cachenode.core.gains import Gains
from cachenode.core.holders import Exposure
from cachenode.core.holdoff import Holdoff
from cachenode.core.load_backoff import LoadBackoff
from cachenode.core.markers import Markers
from cachenode.core.memory import Memory
from cachenode.core.negatives import Absences, Negatives
from cachenode.core.observed import Observed
from cachenode.core.policy import NamespacePolicy
from cachenode.core.quotas import Quota
from cachenode.core.renewals import Renewals
from cachenode.core.sliding import Slides
from cachenode.core.store import Store
from cachenode.core.sweep import Sweep
from cachenode.core.tombstones import Tombstones
from cachenode.node.origins import Origin
from cachenode_api.advise import Measured
from cachenode_api.errors import InvalidNamespace, InvalidTags
from cachenode_api.keys import DEFAULT_NAMESPACE, check_namespace
from cachenode_api.records import EXTENDED, HEADER, STALE, TAGGED
from cachenode_api.selectors import Selector
from cachenode_api.tags import split_tags

__all__ = ["Namespace", "Namespaces"]

MAX_IMPLICIT = 1_000
_FIRST_SAMPLE = 32
_LARGEST_PART = 4
"""A value may take at most this part of the memory budget."""


def _draw() -> float:
    return random.expovariate(1.0)


class Namespace:
    """One namespace on this node. Counters are plain integers: they are raised on the hot path, by one loop only."""

    __slots__ = (
        "_writes",
        "at_sink",
        "barriers",
        "bloom",
        "cascaded",
        "cascades",
        "changing",
        "deletes",
        "demand",
        "dependents",
        "expired",
        "expiries",
        "exposure",
        "fills",
        "flights",
        "gains",
        "holdoff",
        "invalidations",
        "l1_hits",
        "l2_hits",
        "links",
        "load_backoff",
        "load_failures",
        "load_waits",
        "loads",
        "look_at",
        "looks",
        "markers",
        "misses",
        "negative_hits",
        "negatives",
        "observed",
        "origin",
        "policy",
        "policy_version",
        "quota",
        "remote_load_failures",
        "remote_loads",
        "remote_values",
        "remote_values_missed",
        "renewals",
        "renewed",
        "sample_at",
        "sampled_at",
        "sets",
        "settled",
        "sink",
        "slides",
        "stand_in_loads",
        "store",
        "sweep",
        "tombstones",
        "writing",
    )

    def __init__(
        self,
        policy: NamespacePolicy,
        store: Store,
        gains: Gains | None = None,
        origin: Origin | None = None,
        absences: Absences | None = None,
    ) -> None:
        self.policy = policy
        self.quota = Quota.of(policy, store)
        self.origin = origin if origin is not None and origin.readable else None
        self.sink = origin if origin is not None and origin.writable and policy.write == "through" else None
        """Where writes go before they are done here (`cachenode.node.write_through`)."""
        self.at_sink: set[bytes] = set()
        """Keys that are being written there."""
        self.store = store
        self.gains = gains if gains is not None else Gains()
        self.fills = FillTokens()
        self.flights: Flights[Any] = Flights()
        self.load_backoff = LoadBackoff()
        self.holdoff = Holdoff(policy.holdoff_s)
        self.markers = Markers(policy.remote_marker_s, policy.primary_region) if policy.remote_marker_s else None
        """Where what was changed elsewhere is loaded from; None where that makes no difference."""
        self.negatives = Negatives(policy.negative_ttl_s, absences)
        self.bloom = Bloom(policy.bloom_keys, policy.bloom_error) if policy.bloom and self.origin is not None else None
        self.renewals = Renewals(policy, _draw) if Renewals.wanted(policy) else None
        self.demand = Demand(policy) if Demand.wanted(policy) else None
        self.slides = Slides(policy.max_life_s)
        self.policy_version = 0
        """Of the newest change of its policy while the cluster runs."""
        self.sample_at, self.sampled_at = _FIRST_SAMPLE, 0
        """The read that is sampled next (`Reads`), by hits in memory with misses counted off, and the last one."""
        self.look_at = self._first_looked_at()
        """A batch that brings more hits than this is looked at (`Reads`); -1, and `looks`: each is, for policies."""
        self.tombstones = Tombstones()
        self.barriers = BarrierLog()
        self.expiries = Expiries(self.barriers)
        self.sweep = Sweep(store)
        self.exposure: Exposure[Any] = Exposure()
        self.links: Links | None = None
        """What entries of this node depend on; None until the first does."""
        self.dependents: Dependents | None = None
        """What depends on keys of this node; None until something does."""
        self.changing: dict[bytes, int] = {}
        """How many writes and removals of each key are under way that have been announced: see `Invalidations`."""
        self.writing: dict[bytes, int] = {}
        """The newest version of each key that is being written, or was while an older write still is under way."""
        self._writes: dict[bytes, tuple[int, int]] = {}
        """How many writes of each of these keys are under way, and the newest version that was done meanwhile."""
        self.settled: dict[bytes, asyncio.Future[None]] = {}
        """Resolved when no write of the key is under way any more; made by who waits for that."""
        self.l1_hits = self.l2_hits = self.misses = self.sets = self.deletes = 0
        self.loads = self.load_waits = self.load_failures = self.renewed = 0
        self.negative_hits = self.invalidations = self.cascades = self.cascaded = 0
        self.expired = self.remote_values = self.remote_values_missed = 0
        """Values whose keys were expired; `Sweep.expired` counts those that selectors covered."""
        self.stand_in_loads = self.remote_loads = self.remote_load_failures = 0
        self.observed = Observed()

    def _first_looked_at(self) -> int:
        renewed = self.renewals is not None and (len(self.renewals) or Renewals.wanted(self.policy))
        self.looks = bool(renewed or Demand.wanted(self.policy) or self.policy.sliding)
        return -1 if self.looks else self.sample_at

    def adopt(self, policy: NamespacePolicy, version: int, now: float) -> None:
        """Follow another policy for what is stored from now on. Done within a turn, so no call sees half of it.

        Args:
            policy: Of the same name, L2 and origin.
            version: Of the change.
            now: The time.
        """
        self.policy, self.policy_version = policy, version
        self.holdoff.change(policy.holdoff_s, now)
        self.negatives.change(policy.negative_ttl_s)
        if self.renewals is not None:
            self.renewals.change(policy)
        elif Renewals.wanted(policy):
            self.renewals = Renewals(policy, _draw)
        if self.demand is not None:
            self.demand.change(policy)
        elif Demand.wanted(policy):
            self.demand = Demand(policy)
        self.slides.max_life_s = policy.max_life_s
        self._limit(policy)
        self.look_at = self._first_looked_at()

    def _limit(self, policy: NamespacePolicy) -> None:
        """Follow another policy's quota; what was counted under the former one stays."""
        former, self.quota = self.quota, Quota.of(policy, self.store)
        if former is not None and self.quota is not None:
            self.quota.evictions, self.quota.refusals = former.evictions, former.refusals

    def held_s(self, batch: Batch) -> float:
        """Return how long loads are to be held off at least after what a batch makes untrue."""
        return self.policy.region_holdoff_s if batch.region else 0.0

    def mark(self, keys: Iterable[bytes], region: str, now: float) -> None:
        """Remember in which region keys are changed, empty for this one, if loads are to follow that.

        What is loaded here all the same is not kept: this region's origin may lack the change.
        """
        assert self.markers is not None, "the namespace has marks"
        for key in keys:
            if self.markers.note(key, region, now):
                self.holdoff.note(key, now, self.markers.life_s)

    def mark_selector(self, selector: Selector, region: str, now: float) -> None:
        """Do the same for all that a selector covers."""
        assert self.markers is not None, "the namespace has marks"
        if self.markers.note_selector(selector, region, now):
            self.holdoff.note_barrier(selector, now, self.markers.life_s)

    def counted(self) -> tuple[float, ...]:
        """Return the counters whose rise over the last minutes `measured` tells."""
        hits = self.l1_hits + self.l2_hits
        changes = self.sets - self.observed.stored + self.deletes
        return hits + self.misses, hits, changes, self.invalidations, *self.observed.counted()

    def measured(self, now: float) -> Measured:
        """Return what was counted over the last minutes: what advice on the namespace rests on."""
        seconds, risen = self.observed.window.since(now, self.counted())
        reads, hits, writes, invalidations, stale_reads, loads, load_seconds = risen
        return Measured(
            seconds=seconds,
            reads=reads,
            hits=hits,
            writes=writes,
            invalidations=invalidations,
            keys=len(self.store),
            bytes=self.store.used_bytes,
            stale_reads=stale_reads,
            loads=loads,
            load_seconds=load_seconds,
            reads_through=self.origin is not None,
        )

    @contextmanager
    def change(self, keys: Sequence[bytes]) -> Iterator[None]:
        """Let nobody copy what is read of these keys meanwhile."""
        changing = self.changing
        for key in keys:
            changing[key] = changing.get(key, 0) + 1
        try:
            yield
        finally:
            for key in keys:
                left = changing[key] - 1
                if left:
                    changing[key] = left
                else:
                    del changing[key]

    def begin_write(self, key: bytes, version: int) -> None:
        """A write of the key begins."""
        under_way, done = self._writes.get(key, (0, 0))
        self._writes[key] = under_way + 1, done
        self.writing[key] = max(version, self.writing.get(key, 0))

    def outdone(self, key: bytes, version: int) -> bool:
        """Return True if a later write was done while one of this version was under way."""
        return key in self._writes and self._writes[key][1] > version

    def seen(self, key: bytes, version: int) -> None:
        """A reader gets a write that is under way: none that is older, and under way too, may appear after it."""
        if key in self._writes:
            under_way, done = self._writes[key]
            self._writes[key] = under_way, max(done, version)

    def forget_older(self, key: bytes, version: int, now: float) -> None:
        """Remove from memory what is older than a write that is done, or that a reader gets, but is not put there yet.

        The later one that keeps it from memory may take its time (``test_overtaken_set_leaves_nothing_older``; the
        simulation found this).
        """
        current = self.store.peek(key, now)
        if current is not None and HEADER.unpack_from(current)[2] < version:
            self.store.remove(key)

    def written(self, key: bytes, version: int) -> None:
        """A write of the key is no longer under way."""
        left, done = self._writes[key]
        if left > 1:
            self._writes[key] = left - 1, max(done, version)
        else:
            del self._writes[key], self.writing[key]
            if self.settled and (settled := self.settled.pop(key, None)) and not settled.done():
                settled.set_result(None)

    def barred(self, key: bytes, value: bytes, flags: int, position: int) -> bool:
        """Return True if a barrier covers a value whose write or load began at this position."""
        if position >= self.barriers.position:
            return False
        try:
            tags = split_tags(value)[0] if flags & TAGGED else ()
        except InvalidTags:
            return True
        return self.covered(key, tags, position)

    def covered(self, key: bytes, tags: Sequence[bytes], position: int) -> bool:
        """Return True if a barrier or an expiry covers what began at this position."""
        return self.barriers.covers(key, tags, position) or self.expiries.until(key, tags, position) is not None

    def judge(self, key: bytes, entry: L2Entry, now: float) -> L2Entry | None:
        """Return what may be served of an entry of L2: marked if it is stale or was expired, None if it is untrue."""
        if entry.flags & EXTENDED and entry.ttl_s <= self.policy.stale_s:
            entry = entry._replace(flags=entry.flags | STALE)
        if entry.position >= self.barriers.position:
            return entry
        try:
            tags = split_tags(entry.value)[0] if entry.flags & TAGGED else ()
        except InvalidTags:
            return None
        if self.barriers.covers(key, tags, entry.position):
            return None
        until = self.expiries.until(key, tags, entry.position)
        if until is None:
            return entry
        return entry._replace(flags=entry.flags | STALE, ttl_s=min(entry.ttl_s, until - now)) if until > now else None

    def void(self, key: bytes) -> None:
        """What is being read or loaded for the key must not be stored: the key is written or removed."""
        self.fills.void(key)
        if self.negatives:
            self.negatives.void(key)
        if self.gains.open:
            self.gains.touch(self.policy.name, key)
        if self.flights:
            self.flights.detach(key)

    def missed(self, count: int) -> None:
        """Let so many reads that were not answered from memory count like hits for the next sample."""
        self.sample_at -= count
        self.sampled_at -= count
        if not self.looks:
            self.look_at = self.sample_at

    def next_sample(self, now_at: int, gap: int) -> int:
        """Sample again a number of reads after now. Return how many there were since the last time."""
        reads = now_at - self.sampled_at
        self.sampled_at, self.sample_at = now_at, now_at + gap
        if not self.looks:
            self.look_at = self.sample_at
        return reads

    def adapted(self, keys: Iterable[bytes], now: float) -> list[float]:
        """Return the lives of values that bring none, where these are adaptive."""
        assert self.demand is not None, "lives are adaptive"
        return self.demand.lives(keys, *self._reads(), now)

    def admits(self, key: bytes, now: float) -> bool:
        """Return True if a loaded value of a key is to be kept."""
        return self.demand is None or self.demand.admits(key, now)

    def wanted(self, key: bytes, now: float) -> Wanted | None:
        """Return how much a key is wanted; None where that is not counted."""
        return self.demand.of(key, *self._reads(), now) if self.demand is not None else None

    def _reads(self) -> tuple[int, int]:
        hits = self.l1_hits + self.l2_hits
        return hits, hits + self.misses

    def absent(self, key: bytes, now: float) -> bool:
        """Return True if the origin is known to have no value for a key, and nothing has happened since."""
        position = self.negatives.since(key, now)
        return position is not None and not self.covered(key, (), position)


class Namespaces:
    """All namespaces of a node under one memory budget.

    A name that the configuration does not know gets the default namespace's policy, up to `MAX_IMPLICIT` names,
    unless `strict`.

    Args:
        policies: The configured namespaces; "default" must be among them.
        memory: The budget that their stores share.
        new_store: Makes an empty store.
        origins: Where values are loaded from, by name.
        strict: Refuse names that are not configured.
    """

    def __init__(
        self,
        policies: Iterable[NamespacePolicy],
        memory: Memory,
        *,
        new_store: Callable[[], Store],
        origins: Mapping[str, Origin] | None = None,
        strict: bool = False,
    ) -> None:
        self.memory = memory
        self.gains = Gains()
        """Shared by all namespaces: those that are made later too belong to the window of the present view."""
        self.origins = origins or {}
        self._new_store = new_store
        self._by_name: dict[str, Namespace] = {}
        self._expected: dict[str, tuple[NamespacePolicy, int]] = {}
        """Changed policies of namespaces that nobody has used yet."""
        for policy in policies:
            self._add(policy)
        self._configured = frozenset(self._by_name)
        self._implicit_left = 0 if strict else MAX_IMPLICIT

    def get(self, name: str) -> Namespace | None:
        """Return the namespace, or None if there is none and none may be made. An empty name means "default"."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        if not name:
            return self._by_name[DEFAULT_NAMESPACE]
        if self._implicit_left <= 0:
            return None
        try:
            check_namespace(name)
        except InvalidNamespace:
            return None
        self._implicit_left -= 1
        expected = self._expected.pop(name, None)
        if expected is None:
            return self._add(replace(self._by_name[DEFAULT_NAMESPACE].policy, name=name, bloom=False))
        policy, version = expected
        made = self._add(policy)
        made.policy_version = version
        return made

    def adopt(self, policy: NamespacePolicy, version: int, now: float) -> None:
        """Let a namespace follow another policy: now, or once it is made."""
        policy = self._fitting(policy)
        if policy.name not in self._configured:
            policy = replace(policy, bloom=False)
        namespace = self._by_name.get(policy.name)
        if namespace is None:
            self._expected[policy.name] = policy, version
            return
        namespace.adopt(policy, version, now)
        self.memory.set_share(policy.name, policy.share)
        self.memory.set_quota(policy.name, namespace.quota)

    def followers(self) -> list[str]:
        """Return the namespaces, used already or not, whose policy is that of "default" but for their own changes."""
        return [name for name in (*self._by_name, *self._expected) if name not in self._configured]

    def allows(self, name: str) -> bool:
        """Return True if there is a namespace of this name, or may be one."""
        if name in self._by_name:
            return True
        try:
            return self._implicit_left > 0 and bool(check_namespace(name))
        except InvalidNamespace:
            return False

    def configured(self, name: str) -> bool:
        """Return True if the configuration has a table for a namespace."""
        return name in self._configured

    def _fitting(self, policy: NamespacePolicy) -> NamespacePolicy:
        most = self.memory.max_bytes // _LARGEST_PART
        return replace(policy, max_value_bytes=min(policy.max_value_bytes, most))

    def known(self, name: str) -> Namespace | None:
        """Return the namespace if it is in use; none is made. An empty name means "default"."""
        return self._by_name.get(name or DEFAULT_NAMESPACE)

    def _add(self, policy: NamespacePolicy) -> Namespace:
        policy = self._fitting(policy)
        namespace = Namespace(
            policy, self._new_store(), self.gains, self.origins.get(policy.origin), self.memory.absences
        )
        self._by_name[policy.name] = namespace
        self.memory.add(policy.name, namespace.store, share=policy.share, quota=namespace.quota)
        return namespace

    def __iter__(self) -> Iterator[Namespace]:
        return iter(list(self._by_name.values()))
