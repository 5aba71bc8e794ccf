"""GET and LEASE: from memory, else from the owner, else from L2; what is absent is loaded (`Loads`).

A LEASE lets its caller load. A GET of a namespace with an origin has this node load (`ReadThrough`), any other finds
nothing.

A key whose owner cannot be reached is read from L2 past the owner and not stored: this node has no right to keep it. If
it is absent there too, or L2 cannot say, a LEASE goes to who stands in for the owner (`StandIns`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, L2Entry, Layer, Operation
from cachenode.core.failures import MAYBE_DIRTY, NO_SLIDING, NOT_OWNER, UNANSWERABLE, UNREACHABLE, bad_key, failed
from cachenode.core.heavy_hitters import HeavyHitters
from cachenode.core.hot_keys import HotKeys
from cachenode.core.origin_limits import Priority
from cachenode.core.shedding import Work
from cachenode.errors import L2Unavailable, PeerUnavailable
from cachenode.node.filler import fill, new_record
from cachenode.node.soft_timeouts import await_loads, to_await
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.reasons import Reason
from cachenode_api.records import EXTENDED, HEADER, HEADER_BYTES, STALE

if TYPE_CHECKING:
    from cachenode.core.renewals import Renewals
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest
    from cachenode.ports import Copies

__all__ = ["Reads"]

_SAMPLE_EVERY_S = 0.005
"""Time between samples, about: each costs some ten microseconds, so all of them a few thousandths of a second."""
_LEAST_GAP = 64
_MOST_GAP = 65_536
_MOST_SAMPLES = 8
_PASS_THROUGH = frozenset({Reason.NOT_OWNER, Reason.NOT_READY})


class Reads:
    """The reading half of a node."""

    def __init__(self, node: Node, hot_reads_per_s: int) -> None:
        self._node = node
        self._hot_keys = HotKeys(hot_reads_per_s)
        self.hitters: HeavyHitters[tuple[str, bytes]] = HeavyHitters()
        self._draw = random.randrange
        self._sampled_at = 0.0
        self._gap = _LEAST_GAP
        """Reads between samples, on the average: the more there are, the fewer of them are looked at."""

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool, holder: Hashable) -> Rest | None:
        """Answer what is in memory; return the rest (see `Node.execute`)."""
        node, keys = self._node, batch.keys
        now = node.clock.now()
        records = namespace.store.get_many(keys, now)
        if node.mover.moving or namespace.sweep.active:
            self._forget_untrue(namespace, keys, records, now)
        tokens: Sequence[int] = ()
        awaited: Sequence[int] = ()
        hits = namespace.l1_hits + len(records)  # if all are
        if hits > namespace.look_at or batch.slide:
            if batch.slide and namespace.renewals is not None:
                node.failures[NO_SLIDING.reason] += len(keys)
                reply(failed(batch, dict.fromkeys(range(len(keys)), NO_SLIDING)))
                return None
            if batch.slide or namespace.policy.sliding:
                reply = node.slides.renewing(batch, namespace, reply)
            tokens = self._look(batch, namespace, records, holder, now)
            awaited = to_await(batch, namespace, records, tokens)
        if all(records) and not awaited:
            namespace.l1_hits = hits
            near = batch.near is not None and namespace.changing.keys().isdisjoint(keys)
            hot = from_peer and self._hot(batch, now)
            reply(BatchResult(records=records, now_s=now, near=near, hot=hot, tokens=tokens))
            return None
        missing = [index for index, record in enumerate(records) if not record]
        namespace.l1_hits += len(records) - len(missing)
        namespace.missed(len(missing))
        return self._begin_missing(batch, namespace, reply, from_peer, holder, records, tokens, missing, awaited)

    def _look(
        self, batch: Batch, namespace: Namespace, records: list[bytes], holder: Hashable, now: float
    ) -> Sequence[int]:
        """Do for reads what the namespace's policies ask for; return the tokens of who is to load values anew."""
        if (read := namespace.l1_hits + len(records)) > namespace.sample_at:
            self._sample(namespace, batch.keys, read, now)
        if namespace.demand is not None:
            namespace.demand.note(batch.keys, now)
        renewals = namespace.renewals
        return self._renew(renewals, batch, namespace, records, holder, now) if renewals is not None else ()

    def _sample(self, namespace: Namespace, keys: Sequence[bytes], read: int, now: float) -> None:
        """Count keys of a batch, at random, for the list of those that are read most: of a large batch several."""
        quick = now - self._sampled_at < _SAMPLE_EVERY_S
        self._sampled_at, gap = now, max(_LEAST_GAP, min(self._gap * 2 if quick else self._gap // 2, _MOST_GAP))
        self._gap = gap
        samples = min(_MOST_SAMPLES, 1 + len(keys) // gap)
        reads = namespace.next_sample(read, self._draw(2 * gap))
        for _ in range(samples):
            key = keys[self._draw(len(keys))] if len(keys) > 1 else keys[0]
            if self._node.placement.owns(key):
                self.hitters.add((namespace.policy.name, key), reads // samples, now)

    def _renew(
        self,
        renewals: Renewals,
        batch: Batch,
        namespace: Namespace,
        records: list[bytes],
        holder: Hashable,
        now: float,
    ) -> Sequence[int]:
        """Let callers load values anew that are due; return their tokens, beside the values.

        What is past its TTL is marked. What may be copied is given its due time for an end: only then does a near cache
        ask again while there still is a value to be served meanwhile.
        """
        tokens: list[int] = []
        leasing, near = batch.operation is Operation.LEASE, batch.near is not None
        reading_through = namespace.origin is not None and not leasing
        holder = self._node.read_through if reading_through else holder
        for index, record in enumerate(records):
            if not record:
                continue
            key = batch.keys[index]
            slot, flags, version, deadline = HEADER.unpack_from(record)
            due_at, soft_end = (now, now) if flags & STALE else renewals.ends(key, version)
            if flags & EXTENDED and math.isinf(soft_end):  # it was loaded by another owner, or comes from L2
                due_at = soft_end = deadline - namespace.policy.stale_s
            due = due_at <= now and (leasing or reading_through)
            if due and (token := self._node.loads.renew(batch, namespace, key, holder, now)):
                if reading_through:
                    self._node.read_through.begin(namespace, key, token, Priority.REFRESH)
                else:
                    tokens = tokens or [0] * len(records)
                    tokens[index] = token
            stale = soft_end <= now
            if stale or (near and due_at < deadline):
                flags, deadline = flags | STALE if stale else flags, min(deadline, due_at) if near else deadline
                records[index] = HEADER.pack(slot, flags, version, deadline) + record[HEADER_BYTES:]
        return tokens

    def _hot(self, batch: Batch, now: float) -> bool:
        """Count reads that a peer has forwarded. Return True if all of the keys are hot."""
        name, count = batch.namespace, self._hot_keys.count
        return all([count((name, key), now) for key in batch.keys])  # noqa: C419  (each is to be counted)

    def _take_copies(
        self, copies: Copies, namespace: Namespace, batch: Batch, away: dict[str, list[int]], records: list[bytes]
    ) -> dict[str, list[int]]:
        """Answer hot keys of other nodes from copies; return what is left. Unary reads only.

        A session has an order of its own: a write under way is seen at the owner before the copy here is dropped, and
        who has read the new value there must not find the older one here. A unary call has no before.
        """
        name, left = namespace.policy.name, {}
        for owner, indices in away.items():
            for index in indices:
                records[index] = copies.find(name, batch.keys[index])
            if not_here := [index for index in indices if not records[index]]:
                left[owner] = not_here
            found = len(indices) - len(not_here)
            self._node.copy_hits += found
            namespace.l1_hits += found
        return left

    def hit(self, namespace: Namespace, key: bytes, now: float) -> bytes:
        """Return the record of one key if it is in memory, else nothing; a hit counts as it does in `begin`."""
        record = namespace.store.get(key, now)
        if record is None or (self._node.mover.moving and not self._node.mover.kept(key)):
            return b""
        if namespace.sweep.active and not (record := namespace.sweep.judge(key, record, now)):
            return b""
        namespace.l1_hits += 1
        return record

    def _begin_missing(
        self,
        batch: Batch,
        namespace: Namespace,
        reply: Reply,
        from_peer: bool,
        holder: Hashable,
        records: list[bytes],
        tokens: Sequence[int],
        missing: list[int],
        awaited: Sequence[int],
    ) -> Rest | None:
        node, keys = self._node, batch.keys
        failures = {at: bad_key(len(keys[at])) for at in missing if not 0 < len(keys[at]) <= MAX_KEY_BYTES}
        own, away = node.split(keys, (index for index in missing if index not in failures))
        if from_peer and away:
            failures |= {index: NOT_OWNER for indices in away.values() for index in indices}
            away = {}
        now, leasing = node.clock.now(), batch.operation is Operation.LEASE
        own = self._to_look_for(batch, namespace, own, now)
        own, away = self._spared(failures, own, away)
        slides = batch.slide or namespace.policy.sliding  # which its owner must see
        if away and holder is None and not leasing and node.copies is not None and not slides:
            away = self._take_copies(node.copies, namespace, batch, away, records)
        pending = set(own).union(awaited, *away.values())
        for failure in failures.values():
            node.failures[failure.reason] += 1
        if not pending:
            reply(BatchResult(records=records, failures=failures, now_s=now, tokens=tokens))
            return None
        known = [index for index in range(len(keys)) if index not in pending]
        if known:
            reply(
                BatchResult(
                    indices=known,
                    records=[records[index] for index in known],
                    failures={at: failures[index] for at, index in enumerate(known) if index in failures},
                    now_s=now,
                    near=batch.near is not None and namespace.changing.keys().isdisjoint(keys),
                    tokens=[tokens[index] for index in known] if tokens else (),
                )
            )
        parts: list[tuple[Sequence[int], Rest]] = []
        if awaited:
            parts.append(await_loads(node, batch, namespace, awaited, reply, holder))
        if own and leasing:
            parts.append((own, node.loads.lease(batch, namespace, own, reply, holder)))
        elif own:
            parts += self._read_own(batch, namespace, own, reply, holder)
        for owner, indices in away.items():  # keys of a LEASE one by one: each may wait for a load of its own
            shares = [[index] for index in indices] if leasing else [indices]
            parts += [(share, self._ask(owner, batch, namespace, share, reply, holder)) for share in shares]
        return node.run_parts(batch, reply, parts)

    def _spared(
        self, failures: dict[int, Failure], own: list[int], away: dict[str, list[int]]
    ) -> tuple[list[int], dict[str, list[int]]]:
        """Return the keys that this node looks for; under the heaviest load none, and they fail."""
        if self._node.shedding.level < Work.MISS:
            return own, away
        failures |= self._node.shed(Work.MISS, [*own, *itertools.chain(*away.values())])
        return [], {}

    def _to_look_for(self, batch: Batch, namespace: Namespace, own: list[int], now: float) -> list[int]:
        """Return this node's keys that L2 or the origin may have; the others are answered as they are, absent."""
        left = own
        if namespace.negatives:
            left = [index for index in own if not namespace.absent(batch.keys[index], now)]
            namespace.negative_hits += len(own) - len(left)
        bloom = namespace.bloom
        if bloom is not None:
            kept, covers = self._node.placement.kept, namespace.covered
            left = [index for index in left if not bloom.absent(batch.keys[index], kept, covers)]
        if batch.operation is not Operation.LEASE and namespace.origin is None:
            tier = self._node.l2_for(namespace)
            left = left if tier is not None and tier.available else []
        namespace.misses += len(own) - len(left)
        return left

    def _read_own(
        self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply, holder: Hashable
    ) -> list[tuple[Sequence[int], Rest]]:
        """Return the parts that read this node's keys from L2: those that another may still act for are not kept."""
        placement = self._node.placement
        gained = [index for index in own if placement.gained(batch.keys[index])] if placement.unsettled else []
        kept = [index for index in own if index not in set(gained)] if gained else own
        parts: list[tuple[Sequence[int], Rest]] = []
        if kept and namespace.origin is not None:
            parts.append((kept, self._node.loads.lease(batch, namespace, kept, reply, holder)))
        elif kept:
            parts.append((kept, self._fill(batch, namespace, kept, reply)))
        if gained:
            parts.append((gained, self._pass_through(namespace, batch, gained, reply, or_miss=True)))
        return parts

    def _forget_untrue(self, namespace: Namespace, keys: Sequence[bytes], records: list[bytes], now: float) -> None:
        """Forget hits that moved away meanwhile, or that a barrier covers; mark those that were expired.

        What moved away is the walk's to drop: it may be wanted by its new owner (``test_moved_key_that_is_read_here``).
        """
        mover, sweep = self._node.mover, namespace.sweep
        for index, record in enumerate(records):
            if not record:
                continue
            if mover.moving and not mover.kept(keys[index]):
                records[index] = b""
            elif sweep.active:
                records[index] = sweep.judge(keys[index], record, now)

    def fenced(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Answer what can be said while this node's lease is over: that there is nothing, or what the origin has.

        Not even L2 may be read: this node may be no member any more, and then nobody tells it what is untrue there
        (``test_fenced_node_finds_nothing``). But nothing would mean that the origin has nothing, where there is one. It
        may be asked: what is loaded after the question is no older than what was acknowledged before it
        (``test_fenced_node_asks_the_origin``; the simulation found this).
        """
        indices = range(len(batch.keys))
        namespace.misses += len(indices)
        if namespace.origin is None:
            reply(BatchResult(records=[b""] * len(indices), now_s=self._node.clock.now()))
            return None
        return self._node.run_parts(batch, reply, [(indices, self._load_unkept(namespace, batch, reply))])

    async def _load_unkept(self, namespace: Namespace, batch: Batch, reply: Reply) -> None:
        entries: list[L2Entry | None] = [None] * len(batch.keys)
        failures = await self._load_absent(namespace, batch, range(len(batch.keys)), entries)
        now = self._node.clock.now()
        reply(BatchResult(records=[new_record(entry, now) for entry in entries], failures=failures, now_s=now))

    async def _fill(self, batch: Batch, namespace: Namespace, indices: Sequence[int], reply: Reply) -> None:
        """Read this node's own keys from L2 and keep what may be kept."""

        def done(first: int, records: list[bytes], layers: list[Layer], sure: bool) -> None:
            for record, layer in zip(records, layers, strict=True):
                if not record:
                    namespace.misses += 1
                elif layer is Layer.L1:
                    namespace.l1_hits += 1
                else:
                    namespace.l2_hits += 1
            answered = indices[first : first + len(records)]
            near = sure and batch.near is not None
            reply(BatchResult(answered, records, layers=layers, now_s=self._node.clock.now(), near=near))

        await fill(self._node, namespace, [batch.keys[index] for index in indices], done)

    async def _ask(
        self,
        owner: str,
        batch: Batch,
        namespace: Namespace,
        indices: Sequence[int],
        reply: Reply,
        holder: Hashable,
    ) -> None:
        """Ask a key's owner; if it cannot answer, look in L2 in its place."""
        try:
            if batch.operation is Operation.LEASE:
                result = await self._node.loads.ask(owner, batch, indices[0], holder)
            else:
                result = await self._node.forward(owner, batch, indices)
        except PeerUnavailable:
            if batch.operation is Operation.LEASE:
                await self._ask_stand_in(namespace, batch, indices[0], reply, holder)
            elif namespace.origin is not None:
                await self._read_through(namespace, batch, indices, reply)
            else:
                await self._pass_through(namespace, batch, indices, reply)
            return
        if result.hot and self._node.copies is not None:
            self._node.copies.want(owner, namespace.policy.name, [batch.keys[index] for index in indices])
        refused = [at for at, failure in result.failures.items() if failure.reason in _PASS_THROUGH]
        if not refused:
            result.indices = indices
            reply(result)
            return
        await self._pass_through(namespace, batch, [indices[at] for at in refused], reply)
        kept = [at for at in range(len(indices)) if at not in set(refused)]
        if kept:
            reply(
                BatchResult(
                    indices=[indices[at] for at in kept],
                    records=[result.records[at] for at in kept],
                    failures={new: result.failures[at] for new, at in enumerate(kept) if at in result.failures},
                    layers=[result.layers[at] for at in kept] if result.layers else None,
                    now_s=result.now_s,
                )
            )

    async def _pass_through(
        self, namespace: Namespace, batch: Batch, indices: Sequence[int], reply: Reply, *, or_miss: bool = False
    ) -> None:
        node = self._node
        if or_miss and namespace.gains.open:  # what is answered must not be followed by what is older
            for index in indices:
                namespace.gains.touch(namespace.policy.name, batch.keys[index])
        entries = await self._past_owner(namespace, batch, indices)
        now = node.clock.now()
        if entries is None and or_miss:
            entries = [None] * len(indices)
        failures: dict[int, Failure] = {}
        if entries is not None and namespace.origin is not None and batch.operation is Operation.GET:
            failures = await self._load_absent(namespace, batch, indices, entries)
            now = node.clock.now()
        if entries is None:
            node.failures[Reason.OWNER_UNREACHABLE] += len(indices)
            failures = dict.fromkeys(range(len(indices)), UNANSWERABLE)
            reply(BatchResult(indices=indices, records=[b""] * len(indices), failures=failures, now_s=now))
            return
        if batch.operation is Operation.LEASE:  # the owner is there, and will soon know that it is
            failures = {at: UNREACHABLE for at, entry in enumerate(entries) if entry is None}
            node.failures[Reason.OWNER_UNREACHABLE] += len(failures)
        self._answer(namespace, indices, entries, failures, reply)

    async def _ask_stand_in(
        self, namespace: Namespace, batch: Batch, index: int, reply: Reply, holder: Hashable
    ) -> None:
        """Answer a key of a LEASE whose owner cannot be reached."""
        entries = await self._past_owner(namespace, batch, [index])
        if entries is not None and entries[0] is not None:
            self._answer(namespace, [index], entries, {}, reply)
            return
        namespace.misses += 1
        behind = self._node.behind(namespace)
        if behind is not None and (dirty := await behind.dirty(namespace, [batch.keys[index]])) != set():
            await self._answer_dirty(namespace, batch, index, reply, known=dirty is not None)
            return
        await self._node.stand_ins.ask(batch, namespace, index, reply, holder)

    async def _answer_dirty(self, namespace: Namespace, batch: Batch, index: int, reply: Reply, *, known: bool) -> None:
        """Answer a key whose queued write the origin does not have yet, so that nobody loads it from there."""
        entries: list[L2Entry | None] = [None]
        failures = {0: MAYBE_DIRTY}
        if known:
            entries, failures = await self._node.read_through.unkept(namespace, [batch.keys[index]])
        self._answer(namespace, [index], entries, failures, reply)

    async def _read_through(self, namespace: Namespace, batch: Batch, indices: Sequence[int], reply: Reply) -> None:
        """Answer keys of a GET whose owner cannot be reached, and that have an origin."""
        entries = await self._past_owner(namespace, batch, indices) or [None] * len(indices)
        found = [at for at, entry in enumerate(entries) if entry is not None]
        if found:
            self._answer(namespace, [indices[at] for at in found], [entries[at] for at in found], {}, reply)
        left = [index for at, index in enumerate(indices) if entries[at] is None]
        namespace.misses += len(left)
        await self._node.read_through.past_owner(batch, namespace, left, reply)

    async def _past_owner(
        self, namespace: Namespace, batch: Batch, indices: Sequence[int]
    ) -> list[L2Entry | None] | None:
        """Return what L2 has for keys, None if it cannot say."""
        tier = self._node.l2_for(namespace)
        if tier is None or not tier.available:
            return None
        try:
            return await tier.read(namespace.policy.name, [batch.keys[index] for index in indices])
        except L2Unavailable:
            return None

    async def _load_absent(
        self, namespace: Namespace, batch: Batch, indices: Sequence[int], entries: list[L2Entry | None]
    ) -> dict[int, Failure]:
        """Load what L2 does not have, without keeping it: another node may still act for these keys.

        Returns:
            What cannot be loaded, and why. It is not as good as absent: there may be a value.
        """
        absent = [at for at, entry in enumerate(entries) if entry is None]
        loaded, failures = await self._node.read_through.unkept(namespace, [batch.keys[indices[at]] for at in absent])
        for at, entry in zip(absent, loaded, strict=True):
            entries[at] = entry
        for failure in failures.values():
            self._node.failures[failure.reason] += 1
        return {absent[at]: failure for at, failure in failures.items()}

    def _answer(
        self,
        namespace: Namespace,
        indices: Sequence[int],
        entries: Sequence[L2Entry | None],
        failures: dict[int, Failure],
        reply: Reply,
    ) -> None:
        now = self._node.clock.now()
        found = sum(entry is not None for entry in entries)
        namespace.l2_hits += found
        namespace.misses += len(entries) - found
        reply(
            BatchResult(
                indices=indices,
                records=[new_record(entry, now) for entry in entries],
                failures=failures,
                layers=[Layer.L2] * len(entries),
                now_s=now,
            )
        )
