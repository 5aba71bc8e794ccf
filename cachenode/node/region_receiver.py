"""Declares untrue here what another region says to have changed there (`cachenode.core.regions`).

Any node of a cluster takes what comes; owners and coordinators do it, as they do what a client asks for, so that when
it is answered nobody here serves it any more (C3). Then the cursor is moved, and the answer says where it is.

A node that dies in between has acted and not said so: the same comes again, and costs a miss for each of its keys that
was loaded meanwhile. Nothing else follows from doing it twice, as only untruth is told.

Interleavings, each forced by a test in ``tests/node/test_region_receiver.py``:

1. The same comes twice, one after the other or at the same time: the second waits for the first, and finds it known
   (``test_what_comes_twice_is_done_once``).
2. It comes to two nodes at the same time, because a sender that was frozen has been replaced: both act, one moves the
   cursor, the other says where that is (``test_cursor_that_was_moved_meanwhile_stays``).
3. Something is missing in between: nothing is done, and whoever sends learns from where on to tell it
   (``test_hole_is_not_acted_on``).
4. A gap: everything is untrue in every namespace that is shared, before the cursor moves past it
   (``test_gap_takes_everything``).
5. The cursor cannot be kept: the sender is told to come again, and what was done is remembered by this node
   (``test_what_was_done_but_not_noted_is_not_done_again``).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from cachenode.core.entries import Batch, BatchResult, Loaded, Operation
from cachenode.core.regions import Cursor, Intake, RegionEntry, Shipment, intake
from cachenode.core.shedding import Work
from cachenode.core.stats import OriginRegionCounters
from cachenode.errors import OriginError, RegionUnavailable
from cachenode.node.until_done import until_done
from cachenode_api.reasons import Reason
from cachenode_api.records import DEPENDENT, EXTENDED, HEADER, HEADER_BYTES, STALE
from cachenode_api.selectors import EVERYTHING, SelectorKind

if TYPE_CHECKING:
    from cachenode.node.region_values import RegionValues
    from cachenode.node.service import Node
    from cachenode.ports import RegionStore

__all__ = ["RegionReceiver"]

_log = structlog.get_logger(__name__)

_NOT_HERE = frozenset({Reason.UNKNOWN_NAMESPACE})


class RegionReceiver:
    """The part of a node that acts on what other regions say.

    Args:
        node: The node.
        store: Keeps the cursors.
        name: Of this region.
        origins: The other regions.
        values: Brings what they have written.
        timeout_s: How long acting on one shipment may take.
    """

    def __init__(
        self,
        node: Node,
        store: RegionStore,
        name: str,
        origins: Iterable[str],
        *,
        values: RegionValues,
        timeout_s: float = 3.0,
    ) -> None:
        self._node = node
        self._store = store
        self._name = name
        self._origins = frozenset(origins)
        self._values = values
        self._timeout_s = timeout_s
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._done: dict[str, Cursor] = {}
        self._applied: Counter[str] = Counter()
        self._known: Counter[str] = Counter()
        self._gaps: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()

    async def position(self, origin: str, target: str) -> Cursor | None:
        """Return up to where this region has acted on another's outbox.

        Raises:
            RegionUnavailable: This is another region than the one that is meant, or does not know who asks.
            L2Unavailable: The cursor cannot be read.
        """
        self._check(origin, target)
        return await self._store.cursor(origin)

    async def take(self, origin: str, target: str, shipment: Shipment) -> Cursor | None:
        """Act on a shipment; return where that leads, or where this region is if it does not lead anywhere.

        Raises:
            RegionUnavailable: As `position`; or it could not be done in time.
            L2Unavailable: The cursor cannot be read, or moved.
        """
        self._check(origin, target)
        async with self._locks[origin]:
            stored = await self._store.cursor(origin)
            furthest = self._furthest(origin, stored)
            work = intake(furthest, shipment)
            self._known[origin] += work.known
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._act(origin, work)
            except TimeoutError:
                raise RegionUnavailable("it could not be done in time") from None
            if work.cursor is not None:
                self._done[origin] = work.cursor
            reached = work.cursor or furthest
            if reached is None or reached == stored:
                return stored
            return reached if await self._store.advance(origin, stored, reached) else await self._store.cursor(origin)

    async def load(self, origin: str, target: str, namespace: str, key: bytes) -> Loaded | None:
        """Return what this region's origin has for a key, past what is cached (`cachenode.node.region_loads`).

        Raises:
            RegionUnavailable: As `position`; or this region does not load such keys now.
            OriginError: It could not be found out.
        """
        self._check(origin, target)
        found = self._node.namespaces.get(namespace)
        if found is None or not found.policy.regions or found.origin is None:
            raise OriginError("the namespace is not shared there, or has no origin", again=False)
        if self._node.shed(Work.LOAD, [0]):
            raise RegionUnavailable("it is overloaded")
        self._loads[origin] += 1
        return await self._node.read_through.past_cache(found, key)

    async def cached(self, origin: str, target: str, namespace: str, key: bytes, most_bytes: int) -> Loaded | None:
        """Return what is cached here for a key, None if that is nothing that may be kept elsewhere, or larger.

        Not what is past its TTL, nor what depends on other keys: nobody there would know on which.

        Raises:
            RegionUnavailable: As `position`.
        """
        self._check(origin, target)
        found = self._node.namespaces.get(namespace)
        if found is None or not found.policy.regions:
            return None
        answers: list[BatchResult] = []
        rest = self._node.execute(Batch(Operation.GET, namespace, [key]), answers.append, holder=self)
        if rest is not None:
            await rest
        [answer] = answers
        if not answer.records or not (record := answer.records[0]) or len(record) - HEADER_BYTES > most_bytes:
            return None
        _, flags, _, deadline = HEADER.unpack_from(record)
        ttl_s = deadline - answer.now_s - (found.policy.stale_s if flags & EXTENDED else 0.0)
        if ttl_s <= 0 or flags & (STALE | DEPENDENT):
            return None
        return Loaded(record[HEADER_BYTES:], flags & ~EXTENDED, ttl_s)

    def _furthest(self, origin: str, stored: Cursor | None) -> Cursor | None:
        """Return the cursor, or what this node has done beyond it and could not note."""
        done = self._done.get(origin)
        if done is None or stored is None or done.outbox != stored.outbox:
            return stored
        return max(done, stored)

    def _check(self, origin: str, target: str) -> None:
        if target != self._name:
            raise RegionUnavailable(f"this is another region than the one that is meant: {self._name}", refused=True)
        if origin not in self._origins:
            raise RegionUnavailable("the region that asks is not among regions.peers here", refused=True)

    async def _act(self, origin: str, work: Intake) -> None:
        if work.gap:
            await self._do(origin, self._everything())
            self._gaps[origin] += 1
            _log.warning("region_gap_taken", region=origin)
        elif work.entries:
            await self._do(origin, self._batches(origin, work.entries))
            self._bring(origin, work.entries)
            self._applied[origin] += len(work.entries)

    def _bring(self, origin: str, entries: Iterable[RegionEntry]) -> None:
        """Have values brought here that were written there, where that is wanted."""
        for entry in entries:
            namespace = self._node.namespaces.get(entry.namespace) if entry.written else None
            if namespace is not None and namespace.policy.regions and namespace.policy.region_value_bytes:
                self._values.want(origin, namespace, entry.texts)

    def _everything(self) -> list[Batch]:
        kinds = [SelectorKind.NAMESPACE.value]
        shared = [namespace.policy.name for namespace in self._node.namespaces if namespace.policy.regions]
        return [Batch(Operation.BARRIER, name, [EVERYTHING], flags=kinds) for name in shared]

    def _batches(self, origin: str, entries: Sequence[RegionEntry]) -> list[Batch]:
        """Return what entries say, the same kinds of it together: in which order it is done does not matter."""
        texts: dict[tuple[str, bool, bool], dict[tuple[bytes, int], None]] = {}
        for entry in entries:
            namespace = self._node.namespaces.get(entry.namespace)
            if namespace is None or not namespace.policy.regions:
                self._ignored[origin] += 1
                continue
            kinds = entry.kinds or (0,) * len(entry.texts)
            same = texts.setdefault((entry.namespace, bool(entry.kinds), entry.expire), {})
            same |= dict.fromkeys(zip(entry.texts, kinds, strict=True))
        batches = []
        for (name, selects, expire), found in texts.items():
            operation = Operation.BARRIER if selects else Operation.INVALIDATE
            flags = [kind for _, kind in found] if selects else ()
            batches.append(Batch(operation, name, [text for text, _ in found], flags=flags, expire=expire))
        return batches

    async def _do(self, origin: str, batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.region = origin
        outcomes = await asyncio.gather(*(until_done(self._node, batch, self._timeout_s) for batch in batches))
        for _, failure in outcomes:
            if failure is not None and failure.reason not in _NOT_HERE:
                raise RegionUnavailable(f"it cannot be done: {failure.detail}")

    def counters(self) -> list[OriginRegionCounters]:
        """Return what has come from each other region to this node."""
        return [
            OriginRegionCounters(
                name, self._applied[name], self._known[name], self._gaps[name], self._ignored[name], self._loads[name]
            )
            for name in sorted(self._origins)
        ]
