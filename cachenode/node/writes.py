"""SET, DELETE, INVALIDATE and TOUCH: ordered by the owner, in L2 first, then in memory.

L2 first, because what a reader has once seen in memory must not be undone by the owner's death; a write that L2
cannot take now is noted for it (`L2Tier`) and done in memory alone.

Interleavings, each forced by a test in ``tests/node/test_writes.py``, 7 in ``test_barriers.py`` beside it, 11 in
``test_invalidations.py`` and 12 in ``test_expiry.py``:

1. Two sets of a key overlap and the later one reaches L2 first. L2 refuses the earlier; memory has, or will have, the
   later one. The earlier has been done and overwritten: it succeeds (``test_overtaken_set_succeeds``).
2. L2 refuses a set though no later set of this node is known: a newer owner wrote. This node must not acknowledge; it
   drops its copy (``test_set_refused_by_a_newer_owner_fails``).
3. A fill reads the old value, the set ends, the fill wants to store: its token is void (``test_set_voids_the_fill``).
4. A set is taken by L2, a delete is done, and then the set's answer comes: the delete's tombstone says that the set is
   the older one (``test_delete_during_set_is_not_undone``).
5. A touch meets a set under way: the set brings its own TTL, so the touch is ordered before it and does nothing
   (``test_touch_during_set_does_not_undo_it``).
6. A touch meets a removal under way: there is nothing any more, although memory still has it. It would bring the old
   value back under a newer version (``test_touch_during_delete_brings_nothing_back``; the simulation found this).
7. A barrier covers what L2 is taking just now: a value that was loaded or touched before must not appear in memory
   after it. L2 and memory take the write as the older one (``test_barrier_during_set_is_not_undone``).
8. A set waits for an L2 that does not answer; a later set is done without it, and a removal that was ordered before
   both takes its value along. When the first ends there is nothing in memory to be compared with
   (``test_set_that_ends_late_does_not_come_back``; the simulation found this).
9. The node leaves while a write is under way: it has been seen here, so it must not be refused and sent again after
   somebody else's. So before it resigns the node begins no more writes and ends those under way
   (``test_node_that_leaves_ends_its_writes_first``).
10. A write waits for an L2 that does not answer, while this node is cut off: others own the key and write it, and then
   it is this node's again. The write belongs to before that (``test_write_that_outlives_a_missed_view_is_not_done``;
   the simulation found this).
11. Somebody holds a copy of what is overwritten: the write is announced to them at once, and answered when they have
   dropped it and memory has the new value (``test_write_waits_for_holders``, see `Invalidations`).
12. A value is expired while a write of its key is under way: what is being written may have been loaded before. It
   is removed (``test_expiring_what_is_being_written_removes_it`` in ``test_expiry.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, L2Write, Operation, QueuedWrite
from cachenode.core.failures import (
    NOT_OWNER,
    NOT_READY,
    SUPERSEDED,
    UNCERTAIN,
    UNREACHABLE,
    failed,
)
from cachenode.core.shedding import Work
from cachenode.errors import PeerUnavailable
from cachenode.node.cascades import CHANGES
from cachenode.node.filler import fill, store_entry
from cachenode.node.lives import ttls
from cachenode.node.under_way import UnderWay
from cachenode.node.write_checks import beyond_quota, check
from cachenode_api.reasons import Reason
from cachenode_api.records import EXTENDED, HEADER, HEADER_BYTES, STALE

if TYPE_CHECKING:
    from cachenode.node.l2_tier import L2Tier
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["Writes"]

_NOTHING = (0, 0, 0, 0.0)
_Write = Callable[[Batch, "Namespace", list[int], "Reply"], "Rest | None"]
_MAY_WAIT = frozenset({Operation.SET, Operation.INCR, Operation.TOUCH})
"""What is refused under overload; what makes data untrue, or ends a load, is not."""
_ORIGINAL = frozenset({Operation.SET, Operation.INCR})
"""What brings values that the origin does not have: not so what was loaded from there, or only gets another life."""
_NOT_DONE = frozenset({Reason.BACKLOG_FULL, Reason.QUEUE_UNAVAILABLE})


class Writes:
    """The writing half of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.under_way = UnderWay()

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        """Do what needs no waiting; return the rest (see `Node.execute`)."""
        node = self._node
        failures = check(batch, namespace, node.limits)
        own, away = node.split(batch.keys, (i for i in range(len(batch.keys)) if i not in failures))
        if batch.tokens and (lent := node.stand_ins.divert(batch, own, away)):
            node.stand_ins.land(batch, namespace, lent, reply)
        if from_peer and away:
            failures |= {index: NOT_OWNER for indices in away.values() for index in indices}
            away = {}
        if node.shedding.level >= Work.WRITE and batch.operation in _MAY_WAIT:
            failures |= node.shed(Work.WRITE, own)
            own = []
        if own and namespace.quota is not None and namespace.quota.refuses:
            failures |= beyond_quota(batch, namespace.quota, own, node.clock.now())
            own = [index for index in own if index not in failures]
        if failures:
            if batch.operation is Operation.FULFILL:
                node.loads.refuse(batch, namespace, failures)
            for failure in failures.values():
                node.failures[failure.reason] += 1
            reply(failed(batch, failures))
        alone = namespace.dependents is None and namespace.links is None and not batch.depends_on
        write: _Write = self.now if alone else self._changed
        if namespace.policy.regions and batch.operation in CHANGES:
            write = self._in_regions(batch, namespace, own, write)
        parts = [(own, rest)] if own and (rest := write(batch, namespace, own, reply)) else []
        if not parts and not away:
            return None
        parts += [(indices, self.ask(owner, batch, indices, reply)) for owner, indices in away.items()]
        return node.run_parts(batch, reply, parts)

    def _in_regions(self, batch: Batch, namespace: Namespace, own: Sequence[int], write: _Write) -> _Write:
        """Mark keys of this node that are changed, if loads follow that; return what changes them."""
        if namespace.markers is not None:
            namespace.mark((batch.keys[index] for index in own), batch.region, self._node.clock.now())
        return write if batch.region else self._told

    def _told(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> Rest | None:
        """Change keys of this node, and have other regions told of it before it is answered."""
        regions = self._node.regions
        assert regions is not None, "the configuration's checks see to it"
        return regions.tell(batch, list(own), lambda held: self._changed(batch, namespace, list(own), held), reply)

    # This node's own keys: with what depends on them, with what they depend on, and then the write itself.

    def _changed(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> Rest | None:
        if namespace.dependents is not None and batch.operation in CHANGES:
            return self._node.cascades.change(batch, namespace, own, reply, epoch=self._node.placement.epoch)
        return self.linked(batch, namespace, own, reply)

    def linked(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> Rest | None:
        """Write keys of this node, linked to what they depend on; return the rest."""
        if (batch.depends_on or namespace.links is not None) and self._node.linking.concerns(batch, namespace):
            return self._node.linking.write(batch, namespace, own, reply)
        return self.now(batch, namespace, own, reply)

    def now(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> Rest | None:
        """Write keys of this node; return the rest."""
        rest = self._own(batch, namespace, own, reply)
        return self.under_way.counted(rest) if rest is not None else None

    def _own(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> Rest | None:
        """Do what needs no waiting for this node's own keys; return the rest."""
        loads = self._node.loads
        if namespace.bloom is not None:  # also what is declared untrue: the origin has changed
            for index in own if batch.operation is not Operation.ABANDON else ():
                namespace.bloom.add(batch.keys[index])
        if batch.operation in (Operation.FULFILL, Operation.ABANDON):
            end = loads.land if batch.operation is Operation.FULFILL else loads.abandon
            return end(batch, namespace, own, reply)
        for index in own if namespace.flights else ():
            namespace.flights.detach(batch.keys[index])
        if namespace.sink is not None and batch.operation is not Operation.INVALIDATE:
            return self._node.write_through.apply(batch, namespace, own, reply)
        if batch.if_versions or batch.operation is Operation.INCR:
            return self._node.changes.apply(batch, namespace, own, reply)
        if self._node.l2_for(namespace) is not None:
            # Told now, a task's start early. What is copied until then is told by the write itself: it waits for both.
            self._node.invalidations.warn(namespace, [batch.keys[index] for index in own])
            return self._through_l2(batch, namespace, own, reply, self._node.placement.epoch)
        keys = [batch.keys[index] for index in own]
        waiter = self._node.invalidations.announce(namespace, keys, batch.near)
        result = self._in_memory(batch, namespace, own)
        self._node.invalidations.record(namespace, keys)
        if waiter is None or not batch.acknowledged:
            reply(result)
            return None
        return self._when_acknowledged(waiter, keys, result, reply, self._node.placement.epoch)

    async def _when_acknowledged(
        self, waiter: asyncio.Future[None], keys: Sequence[bytes], result: BatchResult, reply: Reply, epoch: int
    ) -> None:
        await waiter
        self._still_owned(keys, result.failures, epoch)
        reply(result)

    def _still_owned(self, keys: Sequence[bytes], failures: dict[int, Failure], epoch: int) -> None:
        """Fail what this node has lost the right to acknowledge since it was done, under the view of an epoch.

        Readers have seen it. A key that has moved since is nobody else's to write before this node gives its word for
        that view. Until then it is acknowledged: were it refused, its caller would send it to the new owner, and it
        would be done twice (``test_write_whose_key_moves_while_it_waits_is_done``).
        """
        placement = self._node.placement
        if placement.fenced(self._node.clock.now()):
            failures |= dict.fromkeys(range(len(keys)), NOT_READY)
        elif placement.released_epoch > epoch or not placement.followed(epoch):
            failures |= self._moved(keys, epoch)

    def _moved(self, keys: Sequence[bytes], epoch: int) -> dict[int, Failure]:
        """Return failures for the keys that were another's for a while since an epoch, or may have been."""
        kept = self._node.placement.kept
        return {at: NOT_OWNER for at, key in enumerate(keys) if not kept(key, epoch)}

    def new(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> list[L2Write]:
        """Return the values of a SET with new versions."""
        lives = ttls(self._node, batch, namespace, indices)
        return self._versioned(batch, namespace, indices, namespace.barriers.position, lives)

    def _versioned(
        self, batch: Batch, namespace: Namespace, indices: Sequence[int], position: int, lives: Sequence[float]
    ) -> list[L2Write]:
        """Return the values of a SET, each with its version: here the owner orders them."""
        next_version, flags = self._node.versions.next, batch.flags or [0] * len(batch.keys)
        return [
            L2Write(batch.keys[index], batch.values[index], flags[index], next_version(), ttl_s, position)
            for index, ttl_s in zip(indices, lives, strict=True)
        ]

    async def store(
        self,
        batch: Batch,
        namespace: Namespace,
        indices: Sequence[int],
        position: int,
        lives: Sequence[float],
        stale_s: float,
    ) -> BatchResult:
        """Store values of a batch that were loaded since a position of the barriers; return their results.

        Args:
            batch: A FULFILL.
            namespace: Its namespace.
            indices: Which of its values.
            position: Of the barriers.
            lives: Seconds until the TTL of each is over.
            stale_s: For how long they are served after that. Then each says so itself: whoever gets it from L2, or from
                a former owner, has to know (``test_stale_value_from_l2_is_marked``).
        """
        writes = self._versioned(batch, namespace, indices, position, [ttl_s + stale_s for ttl_s in lives])
        if stale_s:
            writes = [write._replace(flags=write.flags | EXTENDED) for write in writes]
        return await self.put_in_cache(batch, namespace, indices, writes)

    async def put(self, batch: Batch, namespace: Namespace, index: int, write: L2Write) -> BatchResult:
        """Do a write that has its version, at the origin first if it goes there; return its result."""
        if namespace.sink is not None:
            return await self._node.write_through.put(batch, namespace, write)
        return await self.put_in_cache(batch, namespace, [index], [write])

    async def put_in_cache(
        self, batch: Batch, namespace: Namespace, indices: Sequence[int], writes: Sequence[L2Write]
    ) -> BatchResult:
        """Store values that have their versions, and return their results."""
        if self._node.l2_for(namespace) is not None:
            return await self._set(batch, namespace, indices, writes)
        keys = [write.key for write in writes]
        waiter, epoch = self._node.invalidations.announce(namespace, keys, batch.near), self._node.placement.epoch
        result = self._store(namespace, indices, writes, [True] * len(writes))
        self._node.invalidations.record(namespace, keys)
        if waiter is not None and batch.acknowledged:
            await waiter
            self._still_owned(keys, result.failures, epoch)
        return result

    async def plain(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        """Touch or remove keys of this node in the cache alone, and return their results."""
        if self._node.l2_for(namespace) is not None:
            change = self._touch if batch.operation is Operation.TOUCH else self._delete
            return await change(batch, namespace, indices)
        keys = [batch.keys[index] for index in indices]
        waiter, epoch = self._node.invalidations.announce(namespace, keys, batch.near), self._node.placement.epoch
        result = self._in_memory(batch, namespace, indices)
        self._node.invalidations.record(namespace, keys)
        if waiter is not None and batch.acknowledged:
            await waiter
            self._still_owned(keys, result.failures, epoch)
        return result

    # Without L2: done within the turn.

    def _in_memory(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        if batch.operation is Operation.SET:
            writes = self.new(batch, namespace, indices)
            return self._store(namespace, indices, writes, [True] * len(writes))
        if batch.operation is Operation.TOUCH:
            found = self._touched(batch, namespace, indices)
            writes = [write for write in found if write is not None]
            stored = self._store(namespace, range(len(writes)), writes, [True] * len(writes))
            return _with_gaps(indices, found, stored)
        if self._expires(batch, namespace):
            return self._expire_in_memory(batch, namespace, indices)
        versions = []
        for index in indices:
            version = self._node.versions.next()
            versions.append(version if self._forget(batch, namespace, batch.keys[index]) else 0)
        return BatchResult(indices=indices, versions=versions)

    def _expires(self, batch: Batch, namespace: Namespace) -> bool:
        """Return True if an invalidation of keys leaves values to be served.

        Not where writes are queued for an origin: the queue knows what it carries by its version in L2.
        """
        return batch.expire and namespace.policy.stale_s > 0 and self._node.behind(namespace) is None

    def _expire_in_memory(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        found = self._expired(namespace, [batch.keys[index] for index in indices], namespace.held_s(batch))
        for index, write in zip(indices, found, strict=True):
            if write is None:
                self._forget(batch, namespace, batch.keys[index])
        writes = [write for write in found if write is not None]
        return _with_gaps(indices, found, self._store(namespace, range(len(writes)), writes, [True] * len(writes)))

    def _expired(self, namespace: Namespace, keys: Sequence[bytes], held_s: float) -> list[L2Write | None]:
        """Return for each key its value as it may still be served, None where there is none or it is being written."""
        now, position = self._node.clock.now(), namespace.barriers.position
        found: list[L2Write | None] = []
        for key in keys:
            under_way = key in namespace.writing or key in namespace.at_sink
            record = None if under_way else self._node.present(namespace, key, now)
            _, flags, there, deadline = HEADER.unpack_from(record) if record is not None else _NOTHING
            if record is None or namespace.tombstones.covers(key, there, now):
                found.append(None)
                continue
            left_s, version = min(deadline - now, namespace.policy.stale_s), self._node.versions.next()
            found.append(L2Write(key, record[HEADER_BYTES:], flags | STALE, version, left_s, position))
            namespace.invalidations += 1
            namespace.expired += 1
            namespace.holdoff.note(key, now, held_s)
        return found

    def _forget(self, batch: Batch, namespace: Namespace, key: bytes) -> bool:
        now = self._node.clock.now()
        record = self._node.present(namespace, key, now)
        namespace.void(key)
        namespace.holdoff.note(key, now, namespace.held_s(batch))
        if key in namespace.at_sink:  # what the sink is being given was ordered before, and must not come after
            namespace.tombstones.note(key, self._node.versions.next(), now)
        namespace.store.remove(key)
        if batch.operation is Operation.INVALIDATE:
            namespace.invalidations += 1
        else:
            namespace.deletes += record is not None
        return record is not None

    def _store(
        self, namespace: Namespace, indices: Sequence[int], writes: Sequence[L2Write], taken: Sequence[bool]
    ) -> BatchResult:
        """Put in memory what L2 has taken; settle what it refused."""
        now = self._node.clock.now()
        failures: dict[int, Failure] = {}
        removed = namespace.tombstones.covers
        for at, (write, accepted) in enumerate(zip(writes, taken, strict=True)):
            namespace.void(write.key)
            if namespace.bloom is not None:  # once more: a rebuild may have begun meanwhile
                namespace.bloom.add(write.key)
            if self._barred(namespace, write, now):
                continue
            stored = accepted and not removed(write.key, write.version, now)
            if (
                stored
                and not namespace.outdone(write.key, write.version)
                and store_entry(namespace, write.key, write, now)
            ):
                continue
            if self._overtaken(namespace, write, now):
                namespace.forget_older(write.key, write.version, now)
            else:
                namespace.store.remove(write.key)
                failures[at] = SUPERSEDED
        namespace.sets += len(writes) - len(failures)
        self._node.failures[Reason.SUPERSEDED] += len(failures)
        self._node.namespaces.memory.make_room(namespace.policy.name)
        return BatchResult(indices=indices, versions=[write.version for write in writes], failures=failures)

    def _barred(self, namespace: Namespace, write: L2Write, now: float) -> bool:
        """Return True if a barrier covers a write that began before it: then it has been done, and undone by that."""
        if not namespace.barred(write.key, write.value, write.flags, write.position):
            return False
        namespace.forget_older(write.key, write.version, now)  # it may bear other tags
        return True

    def _overtaken(self, namespace: Namespace, write: L2Write, now: float) -> bool:
        """Return True if a later write or removal by this node explains why this one was refused.

        Or it is there: a reader found it in L2 before L2's answer came (``test_set_that_a_reader_has_stored_is_done``).
        """
        if namespace.writing.get(write.key, 0) > write.version or namespace.outdone(write.key, write.version):
            return True
        if namespace.tombstones.covers(write.key, write.version, now):
            return True
        current = namespace.store.peek(write.key, now)
        if current is None:
            return False
        version: int = HEADER.unpack_from(current)[2]
        return version >= write.version

    def _touched(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> list[L2Write | None]:
        """Return for each key in memory its value with the new TTL, None where there is nothing to touch."""
        now = self._node.clock.now()
        writes: list[L2Write | None] = []
        for index, ttl_s in zip(indices, ttls(self._node, batch, namespace, indices), strict=True):
            key = batch.keys[index]
            record = self._node.present(namespace, key, now)
            _, flags, there, _ = HEADER.unpack_from(record) if record is not None else _NOTHING
            if record is None or flags & STALE or namespace.tombstones.covers(key, there, now):
                writes.append(None)
                continue
            version = self._node.versions.next()
            writes.append(
                L2Write(key, record[HEADER_BYTES:], flags & ~EXTENDED, version, ttl_s, namespace.barriers.position)
            )
        return writes

    # With L2.

    async def _through_l2(
        self, batch: Batch, namespace: Namespace, indices: list[int], reply: Reply, epoch: int
    ) -> None:
        if self._node.placement.epoch != epoch and not self.keep_own(batch, indices, reply):
            return
        if batch.operation is Operation.SET:
            writes = self.new(batch, namespace, indices)
            reply(await self._set(batch, namespace, indices, writes))
        elif batch.operation is Operation.TOUCH:
            reply(await self._touch(batch, namespace, indices))
        elif self._expires(batch, namespace):
            reply(await self._expire(batch, namespace, indices))
        else:
            reply(await self._delete(batch, namespace, indices))

    def keep_own(self, batch: Batch, left: list[int], reply: Reply) -> list[int]:
        """Refuse what has moved away since the batch came; return the rest.

        It would get a version of the new epoch, and L2 would refuse what the key's new owner writes
        (``test_write_that_begins_after_its_key_has_moved_is_not_done``).
        """
        owns = self._node.placement.owns
        moved = [index for index in left if not owns(batch.keys[index])]
        left[:] = [index for index in left if index not in set(moved)]
        if moved:
            reply(failed(batch, dict.fromkeys(moved, NOT_OWNER)))
        return left

    async def _set(
        self, batch: Batch, namespace: Namespace, indices: Sequence[int], writes: Sequence[L2Write]
    ) -> BatchResult:
        node = self._node
        tier = node.l2_for(namespace)
        assert tier is not None
        keys, began = [write.key for write in writes], node.placement.epoch
        for write in writes:
            namespace.begin_write(write.key, write.version)
        with node.invalidations.change(namespace, keys):
            waiter = node.invalidations.announce(namespace, keys, batch.near)
            try:
                taken, refused = await self._put_in_l2(tier, batch, namespace, writes)
                failures = refused | self._moved(keys, began)
                if failures:
                    result = self._store_kept(namespace, indices, writes, taken, failures)
                else:
                    result = self._store(namespace, indices, writes, taken)
                done = node.placement.epoch
            finally:
                for write in writes:
                    namespace.written(write.key, write.version)
        if waiter is not None and batch.acknowledged:
            await waiter
        self._still_owned(keys, result.failures, done)
        return result

    async def _put_in_l2(
        self, tier: L2Tier, batch: Batch, namespace: Namespace, writes: Sequence[L2Write]
    ) -> tuple[list[bool], dict[int, Failure]]:
        """Return which writes L2 has taken, and why others were not done: those that are queued may be refused."""
        behind = self._node.behind(namespace)
        if behind is None or batch.operation not in _ORIGINAL:
            return await tier.write(namespace.policy.name, writes), {}
        taken, _, failures = await behind.write(namespace, tier, [QueuedWrite(*write) for write in writes])
        return taken, failures

    def _store_kept(
        self,
        namespace: Namespace,
        indices: Sequence[int],
        writes: Sequence[L2Write],
        taken: Sequence[bool],
        failed: dict[int, Failure],
    ) -> BatchResult:
        """As `_store`, without what is not acknowledged: keys that moved away during the write, what was not queued."""
        kept = [at for at in range(len(writes)) if at not in failed]
        stored = self._store(namespace, kept, [writes[at] for at in kept], [taken[at] for at in kept])
        failures = failed | {at: stored.failures[new] for new, at in enumerate(kept) if new in stored.failures}
        now = self._node.clock.now()
        for at, failure in failed.items():  # L2 may have the write: what is here from before must not be handed over
            if failure.reason not in _NOT_DONE:
                namespace.forget_older(writes[at].key, writes[at].version, now)
        return BatchResult(indices=indices, versions=[write.version for write in writes], failures=failures)

    async def _delete(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        node = self._node
        tier = node.l2_for(namespace)
        assert tier is not None
        drops = [(batch.keys[index], node.versions.next()) for index in indices]
        keys, began = [key for key, _ in drops], node.placement.epoch
        for key, version in drops:  # from now on, so that nobody builds on what is going
            namespace.tombstones.note(key, version, node.clock.now())
        with node.invalidations.change(namespace, keys):
            waiter = node.invalidations.announce(namespace, keys, batch.near)
            in_l2, failures = await self._drop_in_l2(tier, batch, namespace, drops)
            now = node.clock.now()
            versions = []
            for at, ((key, version), found) in enumerate(zip(drops, in_l2, strict=True)):
                if at in failures and failures[at].reason in _NOT_DONE:
                    namespace.tombstones.forget(key, version)
                    versions.append(0)
                    continue
                here = self._forget(batch, namespace, key)
                namespace.tombstones.note(key, version, now)
                namespace.deletes += found and not here and batch.operation is Operation.DELETE
                versions.append(version if found or here else 0)
        result = BatchResult(indices=indices, versions=versions, failures=failures | self._moved(keys, began))
        done = node.placement.epoch
        if waiter is not None and batch.acknowledged:
            await waiter
        self._still_owned(keys, result.failures, done)
        return result

    async def _drop_in_l2(
        self, tier: L2Tier, batch: Batch, namespace: Namespace, drops: Sequence[tuple[bytes, int]]
    ) -> tuple[list[bool], dict[int, Failure]]:
        """Return where L2 had a value, and why removals were not done: those that are queued may be refused."""
        behind = self._node.behind(namespace)
        if behind is None or batch.operation is not Operation.DELETE:
            return await tier.drop(namespace.policy.name, drops), {}
        removals = [QueuedWrite(key, None, 0, version) for key, version in drops]
        taken, found, failures = await behind.write(namespace, tier, removals)
        now = self._node.clock.now()
        for at, (key, version) in enumerate(drops):
            if not taken[at] and at not in failures and not _later(namespace, key, version, now):
                failures[at] = SUPERSEDED
        return found, failures

    async def _touch(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        now = self._node.clock.now()
        keys, present = [batch.keys[index] for index in indices], self._node.present
        missing = [key for key in keys if present(namespace, key, now) is None]
        if missing:
            await fill(self._node, namespace, missing)
        found = self._touched(batch, namespace, indices)
        under_way = [namespace.writing.get(batch.keys[index]) for index in indices]
        writes = [write for write, other in zip(found, under_way, strict=True) if write is not None and other is None]
        stored = await self._set(batch, namespace, range(len(writes)), writes) if writes else BatchResult()
        result = _with_gaps(indices, [w if o is None else None for w, o in zip(found, under_way, strict=True)], stored)
        versions = [other or own for own, other in zip(result.versions, under_way, strict=True)]
        return BatchResult(indices=indices, versions=versions, failures=result.failures)

    async def _expire(self, batch: Batch, namespace: Namespace, indices: Sequence[int]) -> BatchResult:
        """Expire keys: each value that is there is written anew, marked stale and with a shorter life.

        So it is ordered, kept and told as a write is. What cannot be expired so is removed.
        """
        now, present = self._node.clock.now(), self._node.present
        missing = [key for index in indices if present(namespace, key := batch.keys[index], now) is None]
        if missing:
            await fill(self._node, namespace, missing)
        found = self._expired(namespace, [batch.keys[index] for index in indices], namespace.held_s(batch))
        writes = [write for write in found if write is not None]
        stored = await self._set(batch, namespace, range(len(writes)), writes) if writes else BatchResult()
        result = _with_gaps(indices, found, stored)
        left = [at for at, write in enumerate(found) if write is None]
        if left:
            removed = await self._delete(batch, namespace, [indices[at] for at in left])
            versions = dict(zip(left, removed.versions, strict=True))
            result.versions = [versions.get(at, version) for at, version in enumerate(result.versions)]
            result.failures |= {left[at]: failure for at, failure in removed.failures.items()}
        return result

    # At a peer.

    async def ask(self, owner: str, batch: Batch, indices: Sequence[int], reply: Reply) -> None:
        """Let a peer do what is its."""
        try:
            result = await self._node.forward(owner, batch, indices)
        except PeerUnavailable as lost:
            failure = UNCERTAIN if lost.sent else UNREACHABLE
            self._node.failures[failure.reason] += len(indices)
            reply(failed(batch, dict.fromkeys(indices, failure)))
            return
        result.indices = indices
        reply(result)


def _later(namespace: Namespace, key: bytes, version: int, now: float) -> bool:
    """Return True if a later write or removal of a key, by this node, is under way or done."""
    if namespace.outdone(key, version) or namespace.writing.get(key, 0) > version:
        return True
    current = namespace.store.peek(key, now)
    stored = 0 if current is None else HEADER.unpack_from(current)[2]
    return max(stored, namespace.tombstones.version_of(key, now)) > version


def _with_gaps(indices: Sequence[int], found: Sequence[L2Write | None], stored: BatchResult) -> BatchResult:
    """Return the results of the writes that were there, with version 0 for the others."""
    versions, failures, at = [], {}, 0
    for position, write in enumerate(found):
        if write is None:
            versions.append(0)
            continue
        versions.append(stored.versions[at])
        if at in stored.failures:
            failures[position] = stored.failures[at]
        at += 1
    return BatchResult(indices=indices, versions=versions, failures=failures)
