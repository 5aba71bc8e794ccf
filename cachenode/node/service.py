"""Executes batches: what is here at once, what a peer owns or L2 may hold as it becomes known.

`Node.execute` answers at once, without awaiting, every key that needs no waiting, and returns a coroutine for the
rest. So hits are answered in the order in which they were asked, while misses complete in their own time, and a reply
is made and queued in one turn of the
loop: nothing can happen to the key between the look at its version and the place of the answer in the queue.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import structlog

from cachenode.core.durations import Durations
from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import (
    BAD_ORDER,
    LATE,
    NOT_OWNER,
    NOT_READY,
    ORDER_TOO_LATE,
    UNKNOWN_NAMESPACE,
    failed,
    overloaded,
)
from cachenode.core.heavy_hitters import Hitter
from cachenode.core.limits import Limits
from cachenode.core.shedding import Shedder, ShedLimits, Work
from cachenode.core.versions import VersionSource
from cachenode.errors import PeerUnavailable
from cachenode.node.barriers import Barriers
from cachenode.node.blooms import Blooms
from cachenode.node.cascades import Cascades
from cachenode.node.changes import Changes
from cachenode.node.handover import Handover
from cachenode.node.invalidations import Invalidations
from cachenode.node.l2_tier import L2Tier
from cachenode.node.linking import Linking
from cachenode.node.loads import MAX_LEASE_S, Loads
from cachenode.node.mover import Mover
from cachenode.node.namespaces import Namespace, Namespaces
from cachenode.node.placement import Placement
from cachenode.node.read_through import ReadThrough
from cachenode.node.reads import Reads
from cachenode.node.region_loads import RegionLoads
from cachenode.node.regions import Regions
from cachenode.node.slides import SlidingReads
from cachenode.node.standins import StandIns
from cachenode.node.warm_loads import WarmLoads
from cachenode.node.warming import Warming
from cachenode.node.witnesses import Witnesses
from cachenode.node.write_behind import WriteBehind
from cachenode.node.write_through import WriteThrough
from cachenode.node.writes import Writes
from cachenode.ports import Clock, Copies, Peers
from cachenode_api.reasons import Reason
from cachenode_api.view import Member

__all__ = ["Node", "Reply"]

_log = structlog.get_logger(__name__)

_HANDOVERS = frozenset({Operation.OFFER, Operation.HAND_OVER})
_WAIT_LONG = frozenset({Operation.LEASE, Operation.WARM})
_BLOOMS = frozenset({Operation.BLOOM_BEGIN, Operation.BLOOM_TAKE, Operation.BLOOM_SAVE})
_WITNESSED = frozenset({Operation.DISTRUST, Operation.REPLAY, Operation.BEQUEATH})
_ORDERS = frozenset({Operation.APPLY, Operation.LINK}) | _WITNESSED | _HANDOVERS | _BLOOMS
_ASK_AGAIN = frozenset({Reason.NOT_READY, Reason.DEADLINE_EXCEEDED, Reason.OVERLOADED})
_REFUSALS = {Reason.NOT_OWNER: NOT_OWNER, Reason.SUPERSEDED: ORDER_TOO_LATE}
_ASK_AGAIN_S = 0.02

Reply = Callable[[BatchResult], None]
Rest = Coroutine[Any, Any, None]
Heard = Callable[[BatchResult | None], None]


class Node:
    """What a cachenode does, without saying how its peers, its store and its clients are reached.

    Args:
        placement: The view in force.
        namespaces: The entries in memory.
        peers: The links to the other nodes.
        tier: The shared store; None if there is none.
        clock: The clock of all deadlines in memory.
        call_timeout_s: Longest wait for a peer or L2, whatever the caller would allow.
        copies: Copies of other nodes' hot keys; None for none.
        shed: Where the node begins to refuse work; None for never.
        hot_reads_per_s: Reads a second, forwarded by other nodes, that make a key hot; 0: none is.
        handover_bytes: Most bytes of entries handed to new owners when keys move; 0: none.
        limits: Of what one entry, invalidation and session may be or hold; None for those of the contract.
        durations: Whether to measure how long operations take.
        wall: The time of day in seconds since 1970, for what is due at fixed times.
    """

    closed = False
    """True once no writes are under way, and none may begin: what this node knows is all that it will have written."""
    regions: Regions | None = None
    """Tells other regions what changes; set by who builds the node, if there are any."""
    region_loads: RegionLoads | None = None
    """Loads there what is marked; set with `regions`."""

    def __init__(
        self,
        *,
        placement: Placement,
        namespaces: Namespaces,
        peers: Peers,
        tier: L2Tier | None,
        clock: Clock,
        versions: VersionSource,
        call_timeout_s: float = 5.0,
        copies: Copies | None = None,
        hot_reads_per_s: int = 0,
        shed: ShedLimits | None = None,
        handover_bytes: int = 0,
        limits: Limits | None = None,
        durations: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.placement = placement
        self.namespaces = namespaces
        self.tier = tier
        self.clock = clock
        self.versions = versions
        self.mover = Mover(placement, namespaces)
        self.handover = Handover(self, handover_bytes)
        self.forwarded = 0
        self.failures: Counter[Reason] = Counter()
        self.durations = Durations()
        self._timed = Durations.counts if durations else _untimed
        self._peers = peers
        self._call_timeout_s = call_timeout_s
        self.copies = copies
        self.shedding = Shedder(shed)
        self.limits = limits or Limits()
        self.closing = False
        """True once no more writes may begin: the node is about to resign."""
        self.slow_s = math.inf
        """Calls of clients that take longer are said in the log."""
        self.copy_hits = 0
        """Reads answered from copies of other nodes' keys."""
        self._reads = Reads(self, hot_reads_per_s)
        self.invalidations = Invalidations(self)
        self.writes = Writes(self)
        self.slides = SlidingReads(self)
        self.barriers = Barriers(self)
        self.loads = Loads(self)
        self.stand_ins = StandIns(self)
        self.read_through = ReadThrough(self)
        self.changes = Changes(self)
        self.wall = wall
        self.blooms = Blooms(self)
        self.warm_loads = WarmLoads(self)
        self.warming = Warming(self)
        self.write_behind: WriteBehind | None = None
        """Where writes wait for their origin; set by who builds the node, if a namespace writes behind."""
        self.write_through = WriteThrough(self)
        self.linking = Linking(self)
        self.cascades = Cascades(self)
        placement.listeners.append(lambda _, view: versions.enter(view.epoch))
        self.witnesses = Witnesses(self)

    def execute(self, batch: Batch, reply: Reply, *, from_peer: bool = False, holder: Hashable = None) -> Rest | None:
        """Execute a batch.

        Args:
            batch: Its columns must have fitting lengths.
            reply: Takes results; called one or more times, each key exactly once over all calls.
            from_peer: True if a peer forwarded the batch: then it is not forwarded again.
            holder: Who gets the leases that the batch asks for; `Loads.release` ends them.

        Returns:
            A coroutine that does and answers what is left, or None if nothing is. It must be awaited; it does not
            raise, and it ends within the batch's time limit. Cancelling it leaves the rest unanswered.
        """
        if from_peer or not self._timed(batch.operation):
            return self._execute(batch, reply, from_peer, holder)
        now, waited = self.clock.now, False
        began = now()

        def timed(result: BatchResult) -> None:
            reply(result)
            answered = len(batch.keys) if result.indices is None else len(result.indices)
            seconds = now() - began
            self.durations.add(batch.operation, answered, seconds, waited=waited)
            if seconds >= self.slow_s:
                self._say_slow(batch, answered, seconds)

        rest = self._execute(batch, timed, from_peer, holder)
        waited = True
        return rest

    def _say_slow(self, batch: Batch, answered: int, seconds: float) -> None:
        operation = batch.operation.name.lower()
        _log.warning(
            "slow_call", operation=operation, namespace=batch.namespace, keys=answered, ms=round(seconds * 1_000)
        )

    def _execute(self, batch: Batch, reply: Reply, from_peer: bool, holder: Hashable) -> Rest | None:
        namespace = self.namespaces.get(batch.namespace)
        if namespace is None:
            self._refuse(batch, reply, UNKNOWN_NAMESPACE)
            return None
        if batch.operation in _ORDERS:
            return self._obey(batch, namespace, reply, from_peer)
        placement = self.placement
        fenced = placement.fenced(self.clock.now())
        if not placement.ready or ((fenced or self.closing) and batch.operation is not Operation.GET):
            self._refuse(batch, reply, NOT_READY)
            return None
        if fenced:
            return self._reads.fenced(batch, namespace, reply)
        return self._act(batch, namespace, reply, from_peer, holder)

    async def close(self) -> None:
        """Begin no more writes, and return when none of this node's own is under way: it is going to resign."""
        self.closing = True
        await self.writes.under_way.ended()
        await self.cascades.ended(self._call_timeout_s)
        self.closed = True

    def _act(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool, holder: Hashable) -> Rest | None:
        placement = self.placement
        if batch.stand_in:
            if from_peer:
                return self.stand_ins.serve(batch, namespace, reply)
            batch.stand_in = False  # a client may not know who owns the keys
        if placement.unsettled and self._must_settle(batch):
            return self._when(placement.settle, batch, reply, from_peer, holder)
        if batch.operation.reads:
            tier = self.l2_for(namespace)
            if tier is not None and tier.adopting:  # a node that has just come: better wait a moment than miss
                return self._when(tier.adopted, batch, reply, from_peer, holder)
            return self._reads.begin(batch, namespace, reply, from_peer, holder)
        return self._change(batch, namespace, reply, from_peer)

    def _change(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        if batch.operation is Operation.CASCADE:
            if from_peer:
                return self.linking.untie(batch, namespace, reply)
            return self._obey(batch, namespace, reply, from_peer)
        part: Barriers | WarmLoads | Writes = self.writes
        if batch.operation is Operation.BARRIER:
            part = self.barriers
        elif batch.operation is Operation.WARM:
            part = self.warm_loads
        return part.begin(batch, namespace, reply, from_peer)

    def _obey(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        """Do what another node orders, also when this one is fenced: what makes data untrue never does harm."""
        indices = range(len(batch.keys))
        if not from_peer:
            reply(failed(batch, dict.fromkeys(indices, BAD_ORDER)))
            return None
        if batch.operation is Operation.APPLY:
            return self.barriers.begin(batch, namespace, reply, from_peer)
        if batch.operation in _HANDOVERS:
            return self.handover.begin(batch, namespace, reply)
        if batch.operation in _BLOOMS or batch.operation is Operation.LINK:
            part = self.cascades if batch.operation is Operation.LINK else self.blooms
            return part.begin(batch, namespace, reply)
        return self.witnesses.begin(batch, namespace, reply)

    def _must_settle(self, batch: Batch) -> bool:
        """Return True if a batch asks for what another node may still act for."""
        if batch.operation is Operation.GET:
            return False
        if batch.operation is Operation.BARRIER:  # a member that the registry has left out may act, and is not told
            return True
        return any(map(self.placement.gained, batch.keys))

    def _when(
        self,
        possible: Callable[[], Awaitable[None]],
        batch: Batch,
        reply: Reply,
        from_peer: bool,
        holder: Hashable,
    ) -> Rest:
        """Execute a batch when it is possible."""
        left = list(range(len(batch.keys)))

        def answer(result: BatchResult) -> None:
            answered = set(left if result.indices is None else result.indices)
            left[:] = [index for index in left if index not in answered]
            reply(result)

        async def rest() -> None:
            await possible()
            again = self._execute(batch, answer, from_peer, holder)
            if again is not None:
                await again

        return self.run_parts(batch, reply, [(left, rest())])

    def hottest(self, limit: int, name: str = "") -> tuple[list[Hitter[tuple[str, bytes]]], float]:
        """Return the keys of this node that are read most, by namespace and key, and all its reads a second.

        Args:
            limit: How many keys at most.
            name: Of the only namespace that is looked at; empty for all.
        """
        hitters, now = self._reads.hitters, self.clock.now()
        found = hitters.top(len(hitters), now)
        return [each for each in found if name in ("", each.key[0])][:limit], hitters.reads_per_s(now)

    def present(self, namespace: Namespace, key: bytes, now: float) -> bytes | None:
        """Return what memory has for a key, unless it is untrue and only waits for being removed; no hit is counted."""
        record: bytes | None = namespace.store.peek(key, now)
        if record is None or not (self.mover.moving or namespace.sweep.active):
            return record
        if self.mover.moving and not self.mover.kept(key):  # the walk's to drop: its new owner may want it
            return None
        return namespace.sweep.judge(key, record, now) or None if namespace.sweep.active else record

    def may_keep(self, key: bytes) -> bool:
        """Return True if this node owns a key, and no other may still act for it."""
        placement = self.placement
        return placement.owns(key) and not (placement.unsettled and placement.gained(key))

    async def tell_all(
        self, batch: Batch, *, until: Awaitable[None] | None = None, heard: Heard | None = None
    ) -> Failure | None:
        """Have every other member execute a batch; return when each has, or is no member any more.

        Whoever cannot be reached is asked again: as long as it is a member it may serve its clients, and must know. So
        must those who become members meanwhile (``test_newcomer_is_told_of_what_is_under_way``).

        Args:
            batch: What they are to do.
            until: Something that takes its time; who becomes a member before its end is told too.
            heard: Takes what each has answered; None for one that was a member no more before it had.

        Returns:
            Why one refused, if one did: this node's view is no longer the newest, or it has heard of later orders.
        """
        told = {self.placement.me}
        if until is None:
            return await self._tell_members(batch, told, heard)
        _, refused = await asyncio.gather(until, self._tell_members(batch, told, heard))
        return refused or await self._tell_members(batch, told, heard)

    async def _tell_members(self, batch: Batch, told: set[Member], heard: Heard | None) -> Failure | None:
        placement = self.placement
        while others := [member for member in (placement.view.members if placement.view else ()) if member not in told]:
            refusals = await asyncio.gather(*(self._tell(member, batch, heard) for member in others))
            for refused in (NOT_OWNER, ORDER_TOO_LATE):
                if refused in refusals:
                    return refused
            told.update(others)
        return None

    async def _tell(self, member: Member, batch: Batch, heard: Heard | None) -> Failure | None:
        while self.placement.view is not None and member in self.placement.view.members:
            try:
                result = await self._peers.forward(member.id, batch)
            except PeerUnavailable:
                pass
            else:
                reasons = {failure.reason for failure in result.failures.values()}
                if not reasons & _ASK_AGAIN:  # a member that has no such namespace has nothing to drop
                    if heard is not None:
                        heard(result)
                    return _REFUSALS.get(min(reasons, default=Reason.OK))
            await asyncio.sleep(_ASK_AGAIN_S)
        if heard is not None:
            heard(None)
        return None

    def hit(self, namespace: str, key: bytes) -> tuple[bytes, float]:
        """Return the record of one key and the time it counts against, if it is in memory; else an empty record.

        The short way of a single read. If it leads nowhere, `execute` says why.
        """
        found = self.namespaces.get(namespace)
        now = self.clock.now()
        if found is None or found.l1_hits >= found.look_at or not self.placement.ready or self.placement.fenced(now):
            return b"", now
        record = self._reads.hit(found, key, now)
        if record:
            self.durations.hits += 1
        return record, now

    def _refuse(self, batch: Batch, reply: Reply, failure: Failure) -> None:
        self.failures[failure.reason] += len(batch.keys)
        reply(failed(batch, dict.fromkeys(range(len(batch.keys)), failure)))

    def split(self, keys: Sequence[bytes], indices: Iterable[int]) -> tuple[list[int], dict[str, list[int]]]:
        """Return which of the keys are this node's, and which are whose."""
        if self.placement.alone:
            return list(indices), {}
        own: list[int] = []
        away: dict[str, list[int]] = {}
        me, owner_of = self.placement.me.id, self.placement.owner
        for index in indices:
            owner = owner_of(keys[index]) or me
            if owner == me:
                own.append(index)
            else:
                away.setdefault(owner, []).append(index)
        return own, away

    async def forward(self, owner: str, batch: Batch, indices: Sequence[int]) -> BatchResult:
        """Let a peer execute part of a batch.

        Raises:
            PeerUnavailable: As `Peers.forward`.
        """
        self.forwarded += len(indices)
        return await self.ask(owner, part_of(batch, indices))

    async def ask(self, peer: str, batch: Batch) -> BatchResult:
        """Let a peer execute a batch.

        Raises:
            PeerUnavailable: As `Peers.forward`.
        """
        return await self._peers.forward(peer, batch)

    async def send(self, member: str, batch: Batch) -> BatchResult:
        """Let a member, which may be this node, do what nodes order each other.

        Raises:
            PeerUnavailable: As `Peers.forward`.
        """
        if member != self.placement.me.id:
            return await self._peers.forward(member, batch)
        count, gives_records = len(batch.keys), batch.operation.gives_records
        whole = BatchResult(
            records=[b""] * count if gives_records else (),
            versions=() if gives_records else [0] * count,
            tokens=[0] * count if gives_records else (),
        )
        rest = self.execute(batch, partial(_merge, whole), from_peer=True)
        if rest is not None:
            await rest
        return whole

    async def run_parts(self, batch: Batch, reply: Reply, parts: Sequence[tuple[Sequence[int], Rest]]) -> None:
        """Run the parts of a batch side by side; one that is late is answered with the reason.

        Args:
            batch: The batch.
            reply: Takes what is late.
            parts: The positions of each part's keys, from which it may remove what it has answered, and the part.
        """

        async def run(indices: Sequence[int], part: Rest) -> None:
            longest = MAX_LEASE_S if batch.operation in _WAIT_LONG else self._call_timeout_s
            try:
                async with asyncio.timeout(min(batch.timeout_s or self._call_timeout_s, longest)):
                    await part
            except TimeoutError:
                self.failures[Reason.DEADLINE_EXCEEDED] += len(indices)
                if indices:
                    reply(failed(batch, dict.fromkeys(indices, LATE)))

        keys, size = len(batch.keys), sum(map(len, batch.values))
        self.shedding.began(keys, size)
        try:
            if len(parts) == 1:
                await run(*parts[0])
            else:
                await asyncio.gather(*(run(indices, part) for indices, part in parts))
        finally:
            self.shedding.ended(keys, size)

    def shed(self, work: Work, indices: Collection[int]) -> dict[int, Failure]:
        """Return failures for keys of a batch, by position, if such work is refused now; none if it may be done."""
        if not indices or not (after_ms := self.shedding.refuses(work, len(indices))):
            return {}
        return dict.fromkeys(indices, overloaded(after_ms))

    def l2_for(self, namespace: Namespace) -> L2Tier | None:
        """Return the shared store if the namespace uses it."""
        return self.tier if namespace.policy.l2 else None

    def behind(self, namespace: Namespace) -> WriteBehind | None:
        """Return the queue of writes if the namespace writes behind."""
        return self.write_behind if namespace.policy.write == "behind" else None

    def __repr__(self) -> str:
        return f"<Node {self.placement.me.id} epoch={self.placement.epoch} used={self.namespaces.memory.used_bytes}>"


def _untimed(_: Operation) -> bool:
    return False


def _merge(whole: BatchResult, part: BatchResult) -> None:
    """Put a part of a batch's results in its place."""
    columns = ((whole.records, part.records), (whole.versions, part.versions), (whole.tokens, part.tokens or ()))
    for at, index in enumerate(range(len(whole.records or whole.versions)) if part.indices is None else part.indices):
        for into, column in columns:
            if column:
                into[index] = column[at]  # type: ignore[index]  # a list
        if at in part.failures:
            whole.failures[index] = part.failures[at]


def part_of(batch: Batch, indices: Sequence[int]) -> Batch:
    """Return a batch of some keys of another."""

    def pick(column: Sequence[Any]) -> Sequence[Any]:
        return column if len(column) <= 1 < len(batch.keys) else [column[index] for index in indices]

    return Batch(
        operation=batch.operation,
        namespace=batch.namespace,
        keys=[batch.keys[index] for index in indices],
        values=[batch.values[index] for index in indices] if batch.values else (),
        flags=[batch.flags[index] for index in indices] if batch.flags else (),
        ttls_ms=pick(batch.ttls_ms) if batch.ttls_ms else (),
        timeout_s=batch.timeout_s,
        tokens=[batch.tokens[index] for index in indices] if batch.tokens else (),
        details=[batch.details[index] for index in indices] if batch.details else (),
        lease_s=batch.lease_s,
        soft_timeout_s=batch.soft_timeout_s,
        if_versions=pick(batch.if_versions) if batch.if_versions else (),
        deltas=pick(batch.deltas) if batch.deltas else (),
        acknowledged=batch.acknowledged,
        stand_in=batch.stand_in,
        slide=batch.slide,
        slide_ms=batch.slide_ms,
        expire=batch.expire,
        depends_on=pick(batch.depends_on) if batch.depends_on else (),
        region=batch.region,
    )
