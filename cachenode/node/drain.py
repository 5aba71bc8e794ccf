"""Write-behind, the other side: brings queued writes to their origins.

Each namespace's queue has `SHARDS` shards. The node that the ring names for a shard consumes it, under a lease in the
queue: a fetch prolongs it, and what is said about a shard under somebody else's lease is refused there. Within a
shard, and over all shards of a node, keys are independent of each other: each has one entry, and is in one call at a
time. So the order of a key's writes is kept whatever is retried, and what fails holds up nobody else.

What is sent is the newest queued write at that moment. It leaves the queue only after the origin has said that it has
it: a node that dies in between leaves it to the next, which writes it again.

Interleavings, each forced by a test in ``tests/node/test_drain.py``:

1. A newer write is queued while an older one is being sent: the key goes on waiting, under the same entry
   (``test_write_during_a_call_is_sent_next``).
2. The node dies between the origin's commit and its word to the queue: another writes the same again
   (``test_write_is_repeated_after_a_death_before_the_acknowledgement``).
3. A node is frozen in the middle of a call, its lease ends, and another consumes the shard; then it wakes up. Its word
   is refused by the queue; its late write is the origin's to refuse, by the version
   (``test_frozen_consumer_acknowledges_nothing``).
4. The answer to a fetch is lost: what it brought is claimed again (``test_lost_answer_of_a_fetch``).
5. A write was queued, and its value never reached L2, on a server of its own: what L2 has is older than the origin
   (``test_value_that_never_reached_l2``).
6. The shard moves to another node: this one gives it back once nothing of it is under way
   (``test_shard_is_given_back``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog

from cachenode.core.entries import Batch, Operation, QueuedWrite, SinkWrite
from cachenode.core.queued import SHARDS
from cachenode.core.write_behind import Backlog, Dirty, SinkHealth, Turns, Verdict, WriteBehindLimits
from cachenode.errors import L2Unavailable, OriginError
from cachenode_api.keys import seat_of
from cachenode_api.records import TAGGED
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode.node.write_behind import WriteBehind
    from cachenode.ports import Sink

__all__ = ["Drain", "DrainCounters", "Outlet"]

_log = structlog.get_logger(__name__)

LEASE_S = 5.0
_USABLE = 0.8
"""Part of a lease after which its holder begins nothing more under it: clocks differ, and a call takes its time."""
_TICK_S = 0.05
_FETCH_EVERY_S = 0.1
_FETCH_SELDOM_S = 0.5
_WINDOW = 4_000
"""Keys of a namespace that a node knows to wait, at most; the others wait unknown."""
_FETCH_AT_MOST = 500
_MOST_BYTES = 4 << 20
_AGAIN_S = 0.5
_START = b"0-0"
_MAX_REASON = 200


class Outlet(NamedTuple):
    """A sink and how hard it may be used: calls at a time, and seconds for each."""

    sink: Sink
    concurrency: int
    timeout_s: float


class DrainCounters(NamedTuple):
    """A namespace's queue as one node sees it: keys that wait in its shards and since when, and counts."""

    waiting: int
    oldest_s: float
    applied: int
    coalesced: int
    retries: int
    dead: int


class _Shard:
    """What this node knows of a shard."""

    __slots__ = ("claim", "fetch_at", "number", "oldest_s", "pause_s", "usable_until", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.usable_until = 0.0
        self.claim = _START
        self.fetch_at = 0.0
        self.pause_s = 0.0
        self.waiting = 0
        self.oldest_s = 0.0


class _Lane:
    """A namespace's way to its origin."""

    def __init__(self, namespace: Namespace, limits: WriteBehindLimits) -> None:
        self.namespace = namespace
        self.name = namespace.policy.name
        self.backlog = Backlog(limits, namespace.policy.write_delay_s)
        self.shards = [_Shard(number) for number in range(SHARDS)]
        self.busy: Counter[int] = Counter()
        """Keys of each shard that are in a call."""
        self.applied = self.retries = self.dead = 0

    def counters(self, coalesced: int) -> DrainCounters:
        waiting = sum(shard.waiting for shard in self.shards)
        oldest_s = max(shard.oldest_s for shard in self.shards)
        return DrainCounters(waiting, oldest_s, self.applied, coalesced, self.retries, self.dead)


class _Origin:
    """An origin that lanes share."""

    def __init__(self, outlet: Outlet, lanes: list[_Lane]) -> None:
        self.outlet = outlet
        self.lanes = {lane.name: lane for lane in lanes}
        self.health = SinkHealth()
        self.turns = Turns()
        self.calls: set[asyncio.Task[None]] = set()


class Drain:
    """Brings a node's share of the queued writes to their origins.

    Args:
        node: Says which shards are its own.
        behind: Where the writes wait.
        limits: Batches, attempts and pauses.
        outlets: The sinks by the name of their origin. Each namespace that writes behind has one.
    """

    def __init__(
        self, node: Node, behind: WriteBehind, limits: WriteBehindLimits, outlets: Mapping[str, Outlet]
    ) -> None:
        self._node = node
        self._behind = behind
        self._queue = behind.queue
        self._limits = limits
        self._consumer = f"{node.placement.me.id}:{node.placement.me.incarnation}"
        self._lanes = [_Lane(space, limits) for space in node.namespaces if node.behind(space) is not None]
        by_origin: dict[str, list[_Lane]] = {}
        for lane in self._lanes:
            by_origin.setdefault(lane.namespace.policy.origin, []).append(lane)
        self._origins = [_Origin(outlets[name], lanes) for name, lanes in by_origin.items()]
        self._task: asyncio.Task[None] | None = None
        self._left_behind = 0
        """How many keys waited when the shards were given back: whoever made this node leave is to hear of them."""

    def counters(self, namespace: str) -> DrainCounters | None:
        """Return what is counted of a namespace, None if it does not write behind."""
        coalesced = self._behind.coalesced[namespace]
        return next((lane.counters(coalesced) for lane in self._lanes if lane.name == namespace), None)

    def waiting(self) -> int:
        """Return how many keys wait in the shards of this node, or did when it stopped, as far as it has looked."""
        return self._left_behind + sum(shard.waiting for lane in self._lanes for shard in lane.shards)

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Begin no more calls, let those under way end, and give the shards back. What waits, waits in the queue."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(call for origin in self._origins for call in origin.calls), return_exceptions=True)
        self._left_behind = self.waiting()
        held = [(lane, shard) for lane in self._lanes for shard in lane.shards if shard.usable_until]
        await asyncio.gather(*(self._give_back(lane, shard) for lane, shard in held))

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next tick is another chance
                _log.error("drain_failed", error_type=type(error).__name__, exc_info=error)
            await asyncio.sleep(_TICK_S)

    async def tick(self) -> None:
        """Take shards or give them back, learn what waits in them, and begin the calls that may begin."""
        if not self._behind.checked:
            with contextlib.suppress(L2Unavailable):
                await self._behind.check()
        now = self._node.clock.now()
        due = [(lane, shard) for lane in self._lanes for shard in lane.shards if shard.fetch_at <= now]
        await asyncio.gather(*(self._visit(lane, shard, now) for lane, shard in due))
        for origin in self._origins:
            self._begin(origin)

    async def idle(self) -> None:
        """Return when no call is under way."""
        while calls := [call for origin in self._origins for call in origin.calls]:
            await asyncio.wait(calls)

    # Shards.

    async def _visit(self, lane: _Lane, shard: _Shard, now: float) -> None:
        if not self._owns(lane, shard, now):
            if shard.usable_until and not lane.busy[shard.number]:
                await self._give_back(lane, shard)
            return
        room = max(0, min(_FETCH_AT_MOST, _WINDOW - len(lane.backlog)))
        try:
            found = await self._queue.fetch(
                lane.name, shard.number, self._consumer, lease_s=LEASE_S, most=room, claim=shard.claim
            )
        except L2Unavailable:
            shard.claim, shard.fetch_at = _START, now + _AGAIN_S  # what it may have brought is not known here
            return
        if not found.held:
            self._lose(lane, shard)
            shard.fetch_at = now + min(found.free_in_s, 2 * _AGAIN_S)
            return
        busy = bool(found.entries or shard.claim)  # after a claim comes what was never delivered
        shard.usable_until, shard.claim = now + LEASE_S * _USABLE, found.cursor
        shard.waiting, shard.oldest_s = found.waiting, found.oldest_s
        if found.lost:
            _log.error("queued_writes_lost", namespace=lane.name, shard=shard.number, count=found.lost)
        for id_, key, age_s in found.entries:
            lane.backlog.add(shard.number, id_, key, age_s, now)
        shard.pause_s = _FETCH_EVERY_S if busy else min(_FETCH_SELDOM_S, shard.pause_s + _FETCH_EVERY_S)
        shard.fetch_at = now if busy and room else now + shard.pause_s

    def _owns(self, lane: _Lane, shard: _Shard, now: float) -> bool:
        placement = self._node.placement
        seat = seat_of(f"{lane.name}:{shard.number}")
        return placement.ready and not placement.fenced(now) and placement.owns(seat)

    def _lose(self, lane: _Lane, shard: _Shard) -> None:
        """Forget a shard that is another node's."""
        lane.backlog.leave(shard.number)
        shard.usable_until, shard.claim, shard.waiting, shard.oldest_s = 0.0, _START, 0, 0.0

    async def _give_back(self, lane: _Lane, shard: _Shard) -> None:
        self._lose(lane, shard)
        with contextlib.suppress(L2Unavailable):  # then its lease runs out
            await self._queue.release(lane.name, shard.number, self._consumer)

    # Calls.

    def _begin(self, origin: _Origin) -> None:
        """Begin as many calls as the origin may have."""
        now, loop = self._node.clock.now(), asyncio.get_running_loop()
        while len(origin.calls) < origin.outlet.concurrency and origin.health.paused_until <= now:
            ready = {
                name: lane.namespace.policy.write_priority
                for name, lane in origin.lanes.items()
                if lane.backlog.ready(now)
            }
            if not ready:
                return
            lane = origin.lanes[origin.turns.pick(ready)]
            batch = lane.backlog.take(now, origin.outlet.sink.most_writes)
            if not batch:
                continue
            for dirty in batch:
                lane.busy[dirty.shard] += 1
            call = loop.create_task(self._send(origin, lane, batch))
            origin.calls.add(call)
            call.add_done_callback(lambda call: self._ended(origin, call))

    def _ended(self, origin: _Origin, call: asyncio.Task[None]) -> None:
        origin.calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            _log.error("drain_failed", error_type=type(error).__name__, exc_info=error)
        if self._task is not None and not self._task.done():
            self._begin(origin)

    async def _send(self, origin: _Origin, lane: _Lane, batch: list[Dirty]) -> None:
        """Send a batch, and settle what became of it; whatever happens, each of its keys is settled or waits again."""
        left, pause_s = batch, _AGAIN_S
        try:
            writes = await self._queue.newest(lane.name, [dirty.key for dirty in batch], _MOST_BYTES)
            part = batch[: len(writes)]
            gone = [dirty for dirty, write in zip(part, writes, strict=True) if write is None]
            sent = [(dirty, write) for dirty, write in zip(part, writes, strict=True) if write is not None]
            await self._done(lane, gone, [0] * len(gone))  # somebody else has done them, and died before saying so
            verdict = await self._call(origin, lane, [dirty for dirty, _ in sent], [write for _, write in sent])
            left, pause_s = batch[len(writes) :], 0.0
            versions = {dirty.key: write.version for dirty, write in sent}
            await self._settle(lane, verdict, versions)
        except L2Unavailable:
            pass
        finally:
            for dirty in left:
                lane.backlog.back(dirty, self._node.clock.now() + pause_s)
            for dirty in batch:
                lane.busy[dirty.shard] -= 1

    async def _call(
        self, origin: _Origin, lane: _Lane, batch: Sequence[Dirty], writes: Sequence[QueuedWrite]
    ) -> Verdict:
        """Have the sink write, unless this node's time with the shards is over, and judge the outcome."""
        now = self._node.clock.now()
        if not batch:
            return Verdict([], [], 0)
        if any(lane.shards[dirty.shard].usable_until <= now for dirty in batch):
            raise L2Unavailable("a lease may be over")
        timeout_s, whole = origin.outlet.timeout_s, False
        answers: Sequence[OriginError | None]
        try:
            async with asyncio.timeout(timeout_s):
                answers = await origin.outlet.sink.write([_for_sink(write) for write in writes])
        except TimeoutError:
            answers, whole = [OriginError(f"no answer within {timeout_s:g} s")] * len(batch), True
        except OriginError as error:
            answers, whole = [error] * len(batch), True
        draw = random.random()  # noqa: S311 - jitter
        now = self._node.clock.now()
        verdict = lane.backlog.judge(batch, answers, origin.health, now, draw, whole=whole)
        lane.applied += len(verdict.done)
        lane.retries += verdict.retried
        return verdict

    async def _settle(self, lane: _Lane, verdict: Verdict, versions: Mapping[bytes, int]) -> None:
        """Tell the queue what the origin has, and what it will never have."""
        try:
            if not self._queue.carries_values:
                await self._forget_older(lane, {dirty.key: versions[dirty.key] for dirty in verdict.done})
            await self._done(lane, verdict.done, [versions[dirty.key] for dirty in verdict.done])
            await self._bury(lane, verdict.dead, versions)
        except L2Unavailable:  # they are written again, which does no harm
            for dirty in [*verdict.done, *(dirty for dirty, _ in verdict.dead)]:
                if lane.backlog.knows(dirty):
                    lane.backlog.back(dirty, self._node.clock.now() + _AGAIN_S)

    async def _forget_older(self, lane: _Lane, applied: Mapping[bytes, int]) -> None:
        """Invalidate what L2, on a server of its own, has from before the writes that the origin has now.

        Whoever queued a write may have died, or not heard of it, before it brought the value to L2
        (``test_value_that_never_reached_l2``).

        Raises:
            L2Unavailable: That cannot be told.
        """
        tier = self._node.l2_for(lane.namespace)
        if tier is None or not applied:
            return
        entries = await tier.read(lane.name, list(applied))
        older = [
            key
            for (key, version), entry in zip(applied.items(), entries, strict=True)
            if entry and entry.version < version
        ]
        if older:
            rest = self._node.execute(Batch(Operation.INVALIDATE, lane.name, older), lambda _: None)
            if rest is not None:
                await rest

    async def _done(self, lane: _Lane, batch: Sequence[Dirty], versions: Sequence[int]) -> None:
        by_shard: dict[int, list[tuple[Dirty, int]]] = {}
        for dirty, version in zip(batch, versions, strict=True):
            by_shard.setdefault(dirty.shard, []).append((dirty, version))
        for number, applied in by_shard.items():
            entries = [(dirty.id, dirty.key, version) for dirty, version in applied]
            newer = await self._queue.done(lane.name, number, self._consumer, entries)
            self._let_go(lane, number, [dirty for dirty, _ in applied], newer)

    async def _bury(self, lane: _Lane, dead: Sequence[tuple[Dirty, str]], versions: Mapping[bytes, int]) -> None:
        by_shard: dict[int, list[tuple[Dirty, str]]] = {}
        for dirty, why in dead:
            by_shard.setdefault(dirty.shard, []).append((dirty, why))
        for number, each in by_shard.items():
            letters = [
                (dirty.id, dirty.key, versions[dirty.key], dirty.failures, why[:_MAX_REASON]) for dirty, why in each
            ]
            newer = await self._queue.bury(lane.name, number, self._consumer, letters)
            self._let_go(lane, number, [dirty for dirty, _ in each], newer)
            if newer is not None:
                lane.dead += newer.count(False)
                _log.warning("dead_letters", namespace=lane.name, count=newer.count(False))

    def _let_go(self, lane: _Lane, number: int, batch: Sequence[Dirty], newer: Sequence[bool] | None) -> None:
        if newer is None:
            self._lose(lane, lane.shards[number])
            return
        now = self._node.clock.now()
        for dirty, has_newer in zip(batch, newer, strict=True):
            lane.backlog.done(dirty, now, newer=has_newer)


def _for_sink(write: QueuedWrite) -> SinkWrite:
    """Return a queued write as a sink gets it: without tags, which mean nothing to an origin."""
    if write.value is None or not write.flags & TAGGED:
        return SinkWrite(*write[:4])
    _, value = split_tags(write.value)
    return SinkWrite(write.key, value, write.flags & ~TAGGED, write.version)
