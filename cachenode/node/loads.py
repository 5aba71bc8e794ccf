"""Loads: who may load an absent key, who waits, and what becomes of the loaded value.

LEASE is answered with the value, or with a token to one caller per key, who loads; the others wait here. A GET of a
namespace with an origin waits too: this node leads, and loads for all (`ReadThrough`). FULFILL brings the value for
those who wait, ABANDON the failure. A flight that ends without either (its holder is gone, its lease is over, the
view changed) sends them round again: one of them leads next, or finds what was stored meanwhile.

What a detached flight brings is given to those who waited and is not stored (see `cachenode.core.flights`). What an
attached one brings is stored like any write: ordered by the owner now, in L2 first.

All this is the owner's part, and that of the node over which an owner, or a stand-in for one (`StandIns`), was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Hashable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cachenode.core.entries import Batch, BatchResult, Failure, Layer, Operation
from cachenode.core.failures import MAYBE_DIRTY, NOT_OWNER, NOT_READY, load_failed, load_paused
from cachenode.core.flights import Flight
from cachenode.core.origin_limits import Priority
from cachenode.core.shedding import Work
from cachenode.errors import PeerUnavailable
from cachenode.node.filler import fill
from cachenode.node.lives import ttls
from cachenode_api.records import HEADER, NOT_KEPT_MS, STALE, TAGGED
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply
    from cachenode_api.view import View

__all__ = ["DEFAULT_LEASE_S", "MAX_LEASE_S", "Loads", "Outcome", "Waiter", "ending", "loaded_record"]

DEFAULT_LEASE_S = 5.0
MAX_LEASE_S = 60.0
_BY_NODES = frozenset({Operation.GET, Operation.WARM})
"""What nodes load for themselves, rather than let callers load."""

Outcome = bytes | Failure | None
"""What those who wait for a load are told: a record, why there is none, or to look again."""
Waiter = asyncio.Future[Outcome]


class _Lent(NamedTuple):
    """A lease that was got from another node through this one."""

    holder: Hashable
    lender: str
    end: Batch
    deadline: float


class Loads:
    """The part of a node that lets callers load."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lent: dict[tuple[str, bytes, int], _Lent] = {}
        """By namespace, key and token: two lenders may lend the same token for different keys."""
        self._tasks: set[asyncio.Task[None]] = set()
        node.placement.listeners.append(self._view_changed)

    # LEASE.

    async def lease(self, batch: Batch, namespace: Namespace, left: list[int], reply: Reply, holder: Hashable) -> None:
        """Answer keys that are not in memory: with L2's value, with the right to load, or when another has loaded.

        Args:
            batch: A LEASE.
            namespace: Its namespace.
            left: Positions of the keys, all owned by this node; each is removed once it is answered.
            reply: Takes the answers.
            holder: Who gets the leases; they end with `release`.
        """
        waiting: dict[Waiter, int] = {}
        look: Sequence[int] = list(left)
        if batch.depends_on:
            await self._node.linking.prepare(batch)
        try:
            while look or waiting:
                if look:
                    await self._look(batch, namespace, look, left, waiting, reply, holder)
                    look = ()
                if waiting:
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    outcomes = {waiting.pop(waiter): waiter.result() for waiter in done}
                    look = [index for index, outcome in outcomes.items() if outcome is None]
                    self._tell({index: found for index, found in outcomes.items() if found is not None}, left, reply)
        finally:
            for waiter in waiting:
                waiter.cancel()

    async def _look(
        self,
        batch: Batch,
        namespace: Namespace,
        indices: Sequence[int],
        left: list[int],
        waiting: dict[Waiter, int],
        reply: Reply,
        holder: Hashable,
    ) -> None:
        """Look for values once more, in L2 too; let callers lead or wait for what is absent."""
        node = self._node
        found: dict[int, Outcome] = {}
        layers: dict[int, Layer] = {}
        tier = node.l2_for(namespace)
        if tier is not None and tier.available:

            def done(first: int, records: list[bytes], origins: list[Layer], _sure: bool) -> None:
                for index, record, layer in zip(indices[first:], records, origins, strict=False):
                    if record:
                        found[index], layers[index] = record, layer

            await fill(node, namespace, [batch.keys[index] for index in indices], done)
        dirty = await self._dirty(batch, namespace, [batch.keys[index] for index in indices if index not in found])
        now, reading = node.clock.now(), batch.operation.reads
        tokens: dict[int, int] = {}
        for index in indices:
            if index in layers:
                namespace.l2_hits += reading and layers[index] is Layer.L2
                namespace.l1_hits += layers[index] is Layer.L1
                continue
            key = batch.keys[index]
            outcome = self._settled(batch, namespace, key, now, known=dirty is not None)
            if outcome is not None:
                found[index] = outcome
            elif flight := self._to_wait_for(batch, namespace, key, now, dirty or ()):
                waiter: Waiter = asyncio.get_running_loop().create_future()
                flight.waiting.append(waiter)
                waiting[waiter] = index
            else:
                tokens[index] = self._lead(batch, namespace, key, holder, now).token
        namespace.misses += (len(indices) - len(found)) * reading
        self._tell(found, left, reply, layers, self._renew_found(batch, namespace, found, holder, now))
        if tokens:
            _forget(left, tokens)
            records = [b""] * len(tokens)
            reply(BatchResult(indices=list(tokens), records=records, tokens=list(tokens.values()), now_s=now))

    def _shed(self, batch: Batch, namespace: Namespace, key: bytes) -> Failure | None:
        """Return why a key is not loaded now; None if it may be, or somebody does so already."""
        node = self._node
        if not node.shedding.level or namespace.flights.find(key) is not None:
            return None
        work = Work.REFRESH if batch.operation is Operation.WARM else Work.LOAD
        return node.shed(work, [0]).get(0)

    def _renew_found(
        self, batch: Batch, namespace: Namespace, found: dict[int, Outcome], holder: Hashable, now: float
    ) -> dict[int, int]:
        """Let expired values that L2 had be loaded anew (`Reads` does that for those in memory); return the tokens."""
        tokens: dict[int, int] = {}
        for index, outcome in found.items() if namespace.renewals is not None else ():
            if not isinstance(outcome, bytes) or not outcome or not HEADER.unpack_from(outcome)[1] & STALE:
                continue
            key = batch.keys[index]
            if batch.operation not in _BY_NODES:
                tokens[index] = self.renew(batch, namespace, key, holder, now)
            elif token := self.renew(batch, namespace, key, self._node.read_through, now):
                self._node.read_through.begin(namespace, key, token, Priority.REFRESH)
        return tokens

    async def _dirty(self, batch: Batch, namespace: Namespace, keys: Sequence[bytes]) -> set[bytes] | None:
        """Return which keys callers must not load, since writes of them wait for the origin; None if unknown."""
        behind = self._node.behind(namespace)
        if behind is None or batch.operation is not Operation.LEASE or not keys:  # this node looks when it loads
            return set()
        return await behind.dirty(namespace, keys)

    def _to_wait_for(
        self, batch: Batch, namespace: Namespace, key: bytes, now: float, dirty: Collection[bytes]
    ) -> Flight[Waiter] | None:
        """Return the flight that brings a key's value; None if the caller is to lead one.

        What waits for its origin nobody but this node loads, out of the queue; nor what is to be loaded elsewhere.
        """
        flight = namespace.flights.find(key)
        warming = batch.operation is Operation.WARM
        if flight is not None:
            namespace.load_waits += not warming
            if namespace.origin is not None and not warming:
                namespace.origin.hurry(key)
        elif batch.operation in _BY_NODES or key in dirty or self._marked(namespace, key, now):
            flight = self._lead(batch, namespace, key, self._node.read_through, now)
            priority = Priority.WARMING if warming else Priority.DEMAND
            self._node.read_through.begin(namespace, key, flight.token, priority)
        return flight

    def _marked(self, namespace: Namespace, key: bytes, now: float) -> bool:
        """Return True if this node is to load a key that a caller would: another region has a change of it."""
        return namespace.markers is not None and namespace.markers.of(key, (), now) is not None

    def _settled(self, batch: Batch, namespace: Namespace, key: bytes, now: float, *, known: bool) -> Outcome:
        """Return what is known of a key that L2 does not have: None if it must be loaded, and it is `known` by whom."""
        record = self._node.present(namespace, key, now)
        if record is not None:  # stored while L2 was asked
            namespace.l1_hits += 1
            return record
        if not self._node.placement.owns(key):  # any more
            return NOT_OWNER
        if self._node.placement.fenced(now):
            return NOT_READY
        if namespace.negatives and namespace.absent(key, now):
            namespace.negative_hits += 1
            return b""
        pause = namespace.load_backoff.left_s(key, now)
        if pause:
            return load_paused(pause)
        return self._shed(batch, namespace, key) if known else MAYBE_DIRTY

    def _tell(
        self,
        outcomes: dict[int, Outcome],
        left: list[int],
        reply: Reply,
        layers: dict[int, Layer] | None = None,
        tokens: dict[int, int] | None = None,
    ) -> None:
        if not outcomes:
            return
        _forget(left, outcomes)
        failures = {at: found for at, found in enumerate(outcomes.values()) if isinstance(found, Failure)}
        for failure in failures.values():
            self._node.failures[failure.reason] += 1
        reply(
            BatchResult(
                indices=list(outcomes),
                records=[found if isinstance(found, bytes) else b"" for found in outcomes.values()],
                failures=failures,
                layers=[layers.get(index, Layer.L1) for index in outcomes] if layers else None,
                tokens=[tokens.get(index, 0) for index in outcomes] if tokens else (),
                now_s=self._node.clock.now(),
            )
        )

    def renew(self, batch: Batch, namespace: Namespace, key: bytes, holder: Hashable, now: float) -> int:
        """Let a caller load a value anew that is still there. Return the token, 0 if nobody should load it now."""
        if self._node.shedding.refuses(Work.REFRESH):
            return 0
        if namespace.flights.find(key) or namespace.load_backoff.left_s(key, now):
            return 0
        if not self._node.may_keep(key) or key in namespace.writing or key in namespace.changing:
            return 0
        if batch.operation is Operation.LEASE and self._node.behind(namespace) is not None:
            return 0  # the caller's loader may bring what the origin had before a write that waits for it
        namespace.renewed += 1
        return self._lead(batch, namespace, key, holder, now).token

    def _lead(self, batch: Batch, namespace: Namespace, key: bytes, holder: Hashable, now: float) -> Flight[Waiter]:
        token = self._node.versions.next()
        lease_s = MAX_LEASE_S if batch.operation in _BY_NODES else batch.lease_s or DEFAULT_LEASE_S
        lease_s = min(lease_s, MAX_LEASE_S)
        namespace.loads += 1
        return namespace.flights.lead(key, token, holder, now + lease_s, namespace.barriers.position, now)

    # FULFILL and ABANDON.

    async def land(self, batch: Batch, namespace: Namespace, own: Sequence[int], reply: Reply) -> None:
        """Store what was loaded where that may be, and hand it to those who wait. Answers 0 for what was not stored."""
        writes, flights = self._node.writes, namespace.flights
        versions = dict.fromkeys(own, 0)
        failures: dict[int, Failure] = {}
        landing = {index: flight for index in own if (flight := self._landing(batch, namespace, index))}
        try:
            lives = dict(zip(landing, ttls(self._node, batch, namespace, landing), strict=True))
            store = [index for index, flight in landing.items() if self._storable(batch, namespace, index, flight)]
            began = min((landing[index].position for index in store), default=0)
            ended, stale_s = self._node.clock.now(), namespace.policy.stale_s
            stored = BatchResult()
            if store:
                stored = await writes.store(batch, namespace, store, began, [lives[index] for index in store], stale_s)
            for at, index in enumerate(store):
                if at in stored.failures:
                    failures[index] = stored.failures[at]
                else:
                    versions[index] = stored.versions[at]
            now = self._node.clock.now()
            namespace.observed.landed += len(landing)
            namespace.observed.stored += len(store) - len(stored.failures)
            for index, flight in landing.items():
                namespace.load_backoff.succeeded(flight.key)
                load_s = ended - flight.began
                namespace.observed.load_seconds += load_s
                if namespace.renewals is not None and versions[index]:
                    present = partial(_present, namespace, now)
                    namespace.renewals.note(
                        flight.key, versions[index], now, lives[index], load_s, present, stale_s=stale_s
                    )
                if namespace.dependents is not None:
                    self._node.cascades.loaded(namespace, flight.key)
                _resolve(flight, loaded_record(batch, index, versions[index], now + lives[index]))
        finally:
            for flight in landing.values():
                flights.end(flight)
                _resolve(flight, None)
        at_fault = {at: failures[index] for at, index in enumerate(own) if index in failures}
        reply(BatchResult(indices=own, versions=list(versions.values()), failures=at_fault))

    def _storable(self, batch: Batch, namespace: Namespace, index: int, flight: Flight[Waiter]) -> bool:
        """Return True unless the key was written or removed since the load began, or a barrier covers the value.

        Or a write is on its way to the queue, which would take the loaded value for a newer one (`WriteBehind`). Or it
        was removed so shortly before that the origin may not know it everywhere.
        """
        if not flight.attached or flight.key in namespace.at_sink:
            return False
        if flight.key in namespace.changing and self._node.behind(namespace) is not None:
            return False
        value, flags = batch.values[index], batch.flags[index] if batch.flags else 0
        tags = split_tags(value)[0] if flags & TAGGED else ()
        newest = flight.remote or batch.region  # it comes from where the change was made
        held_off = not newest and namespace.holdoff.covers(flight.key, tags, flight.began)
        if held_off or namespace.covered(flight.key, tags, flight.position):
            return False
        return self._wanted(namespace, flight.key, len(value))

    def _wanted(self, namespace: Namespace, key: bytes, value_bytes: int) -> bool:
        """Return True if the namespace's policies let a loaded value be kept."""
        now, quota = self._node.clock.now(), namespace.quota
        if namespace.policy.admit_after > 1 and not (_present(namespace, now, key) or namespace.admits(key, now)):
            return False
        return quota is None or not quota.refuses or not quota.room(now).refusal(key, value_bytes)

    def _landing(self, batch: Batch, namespace: Namespace, index: int) -> Flight[Waiter] | None:
        flight = namespace.flights.of(batch.keys[index], batch.tokens[index])
        if flight is None or flight.landing:
            return None
        flight.landing = True
        if _not_kept(batch, index) and namespace.flights.find(flight.key) is flight:
            namespace.flights.detach(flight.key)  # who asks from now on has it loaded again
        return flight

    def refuse(self, batch: Batch, namespace: Namespace, failures: dict[int, Failure]) -> None:
        """Tell those who wait that what was loaded for them cannot be taken."""
        for index, failure in failures.items():
            key, token = batch.keys[index], batch.tokens[index]
            flight = namespace.flights.of(key, token)
            if flight is not None and not flight.landing:
                namespace.flights.end(flight)
                _resolve(flight, failure)
            elif not self._node.stand_ins.refuse((namespace.policy.name, key), token, failure):
                lent = self._lent.pop((namespace.policy.name, key, token), None)
                if lent is not None:
                    self._spawn(self._give_back(token, lent, failure.detail))

    async def abandon(self, batch: Batch, namespace: Namespace, own: Sequence[int], reply: Reply) -> None:
        """End flights without a value: there is none, it could not be loaded, or another may lead."""
        now = self._node.clock.now()
        gone: list[bytes] = []
        for index in own:
            flight = namespace.flights.of(batch.keys[index], batch.tokens[index])
            if flight is None or flight.landing:
                continue
            outcome = ending(batch, namespace, index, now)
            if outcome == b"" and namespace.bloom is not None:
                namespace.bloom.found_absent(flight.key)
            if outcome == b"" and flight.attached:
                if _present(namespace, now, flight.key):
                    gone.append(flight.key)
                elif not namespace.holdoff.covers(flight.key, (), flight.began):
                    namespace.negatives.note(flight.key, now, flight.position)
                    self._node.namespaces.memory.make_room()
            namespace.flights.end(flight)
            _resolve(flight, outcome)
        if gone:  # there was a value to be renewed, and the origin has none any more
            removing = Batch(Operation.INVALIDATE, batch.namespace, gone, acknowledged=False)
            rest = self._node.execute(removing, lambda _: None)
            if rest is not None:
                await rest
        reply(BatchResult(indices=own, versions=[0] * len(own)))

    def conclude(self, namespace: Namespace, flight: Flight[Waiter], outcome: Outcome) -> None:
        """End a flight, and tell those who wait for it."""
        namespace.flights.end(flight)
        _resolve(flight, outcome)

    def send_round(self, flight: Flight[Waiter]) -> None:
        """Send those round who wait for a flight, except the reader for whom this node itself has begun it."""
        asked_first = 1 if flight.holder is self._node.read_through else 0
        waiting, flight.waiting = flight.waiting[asked_first:], flight.waiting[:asked_first]
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # Ends without a value.

    async def ask(self, lender: str, batch: Batch, index: int, holder: Hashable) -> BatchResult:
        """Get a key's lease, or its value, from its owner or who stands in, for a holder whose end only this node sees.

        Raises:
            PeerUnavailable: As `Node.forward`.
        """
        asking = asyncio.get_running_loop().create_task(self._node.forward(lender, batch, [index]))
        end = Batch(Operation.ABANDON, batch.namespace, [batch.keys[index]])
        lent = _Lent(holder, lender, end, self._node.clock.now() + (batch.lease_s or DEFAULT_LEASE_S))
        try:
            result = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._spawn(self._give_back_when(asking, lent))
            raise
        for token in result.tokens:
            if token and holder is not None:
                self._lent[batch.namespace, batch.keys[index], token] = lent
        return result

    async def _give_back_when(self, asking: asyncio.Task[BatchResult], lent: _Lent) -> None:
        with contextlib.suppress(PeerUnavailable):
            for token in (await asking).tokens:
                if token:
                    await self._give_back(token, lent)

    async def _give_back(self, token: int, lent: _Lent, why: str = "") -> None:
        lent.end.tokens, lent.end.details = [token], [why]
        with contextlib.suppress(PeerUnavailable):  # then the lease runs out
            await self._node.forward(lent.lender, lent.end, [0])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def release(self, holder: Hashable) -> None:
        """End the leases of a holder that is gone: others lead at once."""
        for place in [place for place, lent in self._lent.items() if lent.holder is holder]:
            self._spawn(self._give_back(place[-1], self._lent.pop(place)))
        self._node.stand_ins.release(holder)
        for namespace in self._node.namespaces:
            if len(namespace.flights):
                _send_round(namespace.flights.release(holder))

    def held(self, holder: Hashable) -> int:
        """Return how many leases a holder has, here and from other owners. Looks at every load under way."""
        flights = sum(namespace.flights.held(holder) for namespace in self._node.namespaces if len(namespace.flights))
        return flights + sum(lent.holder is holder for lent in self._lent.values())

    def expire(self, now: float) -> None:
        """End the leases that are over."""
        for place in [place for place, lent in self._lent.items() if lent.deadline <= now]:
            del self._lent[place]
        self._node.stand_ins.expire(now)
        for namespace in self._node.namespaces:
            _send_round(namespace.flights.expire(now))

    def resign(self) -> None:
        """Send those who wait elsewhere: this node lets nobody load any more."""
        self._node.stand_ins.resign()
        for namespace in self._node.namespaces:
            _send_round(namespace.flights.end_all())

    def _view_changed(self, _former: View | None, _view: View) -> None:
        now = self._node.clock.now()
        for namespace in self._node.namespaces:
            held_s = max(namespace.policy.region_holdoff_s, namespace.policy.remote_marker_s)
            namespace.holdoff.note_all(now, held_s)
            if namespace.markers is not None:
                namespace.markers.forget(now)
            namespace.negatives.void_all()
            _send_round(namespace.flights.end_all())


def _present(namespace: Namespace, now: float, key: bytes) -> bool:
    return namespace.store.peek(key, now) is not None


def _not_kept(batch: Batch, index: int) -> bool:
    """Return True if a loaded value is for those who wait alone."""
    column = batch.ttls_ms
    return bool(column) and column[0 if len(column) == 1 else index] == NOT_KEPT_MS


def _send_round(flights: Iterable[Flight[Waiter]]) -> None:
    for flight in flights:
        _resolve(flight, None)


def _resolve(flight: Flight[Waiter], outcome: Outcome) -> None:
    for waiter in flight.waiting:
        if not waiter.done():
            waiter.set_result(outcome)


def _forget(left: list[int], answered: Iterable[int]) -> None:
    gone = set(answered)
    left[:] = [index for index in left if index not in gone]


def ending(batch: Batch, namespace: Namespace, index: int, now: float) -> Outcome:
    """Return what an ABANDON says to those who wait for a key; take note of a load that has failed."""
    text = batch.details[index] if batch.details else ""
    if not text:
        return b"" if batch.flags and batch.flags[index] else None
    namespace.load_failures += 1
    namespace.load_backoff.failed(batch.keys[index], now)
    return load_failed(f"the load failed: {text}")


def loaded_record(batch: Batch, index: int, version: int, deadline: float) -> bytes:
    """Return the record of a value that a FULFILL brings."""
    flags = batch.flags[index] if batch.flags else 0
    return HEADER.pack(0, flags, version, deadline) + batch.values[index]
