"""Write-through: what is written in a namespace goes to its origin first, and only then to L2 and memory.

The owner does the writes of a key one after the other, as they came: each waits for its *turn*. In its turn a write
takes its version, which the sink gets too, and then

1. L2's entry is removed (the *intent*). If this node dies with the write at the sink, nobody finds the older value in
   L2: the next owner loads what the origin has.
2. The sink gets the write. Until it answers readers find what memory has: the write is not acknowledged.
3. L2 and memory get it, as any write, and it is acknowledged as any write is (C3).

If the sink refuses, memory is as it was, and L2 gets its entry back. If it may or may not have written, the key is
invalidated, wherever it is owned by then, and the caller is told that the outcome is not known.

Loads of the key that begin or end meanwhile read what the origin had before, or has after; nobody knows which. They are
handed to those who wait, and not stored (C2).

A write does not belong to who waits for it: a caller that goes away before its turn takes it along, later it goes on.
Nor does a view change stop it: this node does not say that it has released its keys while a write of one that moved
away is at the sink. What can still arrive after that is a call of an owner that died or was cut off. It lasts no longer
than the origin's `timeout_s`: for so long after a member has gone what is loaded is not kept. INVALIDATE and barriers
do not take turns and do not go to the sink.

Interleavings, each forced by a test in ``tests/node/test_write_through.py``:

1. Two writes of a key overlap: the second reaches the sink when the first is done
   (``test_writes_of_a_key_take_turns``).
2. A load reads the origin before the sink commits, and comes back during the write or after it
   (``test_load_across_a_write_is_not_stored``).
3. A removal, or a barrier, comes while the sink writes: the value is in the origin, and not in the cache
   (``test_invalidation_during_a_write_is_not_undone``).
4. The owner dies between the sink's commit and L2: no older value comes back (``test_owner_that_dies_half_way``).
5. The key moves while the sink writes: the new owner does not act before the write is done
   (``test_new_owner_waits_for_the_sink``).
6. This node loses its lease while the sink writes: others may have written since, so the outcome is not known and their
   copy goes (``test_write_that_outlives_the_lease``).
7. A touch comes while the sink writes: it would bring the older value under a newer version, so it takes its turn
   (``test_touch_takes_its_turn``).
8. The caller goes: before its turn nothing happens; later the write ends without it (``test_caller_that_goes_away``).
9. A counter, or a condition, finds nothing in the cache: that does not mean that the origin has nothing
   (``test_counter_goes_on_from_the_origin``).
10. The last owner has died with its write on the way to the origin: what is loaded before that must have arrived is not
   kept (``test_loads_are_not_kept_after_an_owner_has_died``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, L2Write, Operation, SinkWrite
from cachenode.core.failures import NOT_OWNER, NOT_READY, failed, sink_failed, sink_uncertain
from cachenode.errors import OriginError
from cachenode.node.filler import fill
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, TAGGED
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply
    from cachenode_api.view import View

__all__ = ["WriteThrough"]

_PLACE = tuple[str, bytes]
_CLEANUPS = 20
_CLEANUP_PAUSE_S = 0.25
_OUT_OF_ORDER = frozenset({Reason.NOT_OWNER, Reason.NOT_READY, Reason.SUPERSEDED})
_STARTED = "the write was under way when the node lost the key"


class WriteThrough:
    """The part of a node that writes to origins before it writes to the cache."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: dict[_PLACE, asyncio.Task[BatchResult]] = {}
        """Of each key with writes: the one that came last."""
        self._at_sink: dict[_PLACE, asyncio.Future[None]] = {}
        """Resolved when the cache has what the sink was given."""
        node.placement.releasing.append(self._moved_away)
        node.placement.listeners.append(self._view_changed)

    async def apply(self, batch: Batch, namespace: Namespace, left: list[int], reply: Reply) -> None:
        """Do a batch's writes to keys of this node, each in its turn; answer each, and remove it from `left`."""

        async def one(index: int) -> None:
            result = await self._when_its_turn(batch, namespace, index)
            left.remove(index)
            for failure in result.failures.values():
                self._node.failures[failure.reason] += 1
            result.indices, result.now_s = [index], self._node.clock.now()
            reply(result)

        await asyncio.gather(*(one(index) for index in list(left)))

    async def ended(self, namespace: Namespace, keys: Iterable[bytes]) -> None:
        """Return when the writes of some keys that are under way now have ended."""
        name = namespace.policy.name
        under_way = [task for key in keys if (task := self._last.get((name, key))) is not None]
        if under_way:
            await asyncio.wait(under_way)

    # Turns.

    async def _when_its_turn(self, batch: Batch, namespace: Namespace, index: int) -> BatchResult:
        from cachenode.node.service import part_of

        place = namespace.policy.name, batch.keys[index]
        gone = asyncio.Event()
        work = self._in_turn(part_of(batch, [index]), namespace, self._last.get(place), gone)
        task = asyncio.get_running_loop().create_task(self._node.writes.under_way.counted(work))
        self._last[place] = task
        task.add_done_callback(lambda _: self._forget(place, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            raise

    def _forget(self, place: _PLACE, task: asyncio.Task[BatchResult]) -> None:
        if self._last.get(place) is task:
            del self._last[place]

    async def _in_turn(
        self, one: Batch, namespace: Namespace, before: asyncio.Task[BatchResult] | None, gone: asyncio.Event
    ) -> BatchResult:
        if before is not None:
            await asyncio.wait([before])
        if gone.is_set():
            return failed(one, {0: NOT_READY})
        node = self._node
        if not node.placement.ready or node.placement.fenced(node.clock.now()):
            return failed(one, {0: NOT_READY})
        if not node.may_keep(one.keys[0]):
            return failed(one, {0: NOT_OWNER})
        return await self._do(one, namespace)

    async def _do(self, one: Batch, namespace: Namespace) -> BatchResult:
        writes, versions = self._node.writes, self._node.versions
        if one.operation is Operation.TOUCH:
            return await writes.plain(one, namespace, [0])
        if one.if_versions or one.operation is Operation.INCR:
            return await self._node.changes.change(one, namespace, 0)
        if one.operation is Operation.SET:
            (write,) = writes.new(one, namespace, [0])
            return await writes.put(one, namespace, 0, write)
        removal = SinkWrite(one.keys[0], None, 0, versions.next())
        return await self._write(one, namespace, removal, lambda: writes.plain(one, namespace, [0]))

    # One write.

    async def put(self, one: Batch, namespace: Namespace, write: L2Write) -> BatchResult:
        """Write a value to the sink, and then to L2 and memory. The key's turn is the caller's."""
        value, flags = write.value, write.flags
        if flags & TAGGED:
            _, value = split_tags(value)
            flags &= ~TAGGED
        given = SinkWrite(write.key, bytes(value), flags, write.version)
        return await self._write(
            one, namespace, given, lambda: self._node.writes.put_in_cache(one, namespace, [0], [write])
        )

    async def _write(
        self, one: Batch, namespace: Namespace, write: SinkWrite, to_cache: Callable[[], Awaitable[BatchResult]]
    ) -> BatchResult:
        """Write to the sink, and then to the cache.

        Returns:
            The result with the version of the write; without one, a failure.
        """
        since = self._node.placement.epoch
        with self._holding(namespace, write):
            await self._announce(namespace, write)
            failure = await self._to_sink(namespace, write)
            if failure is None:
                result = await self._to_cache(one, namespace, write, since, to_cache)
                if not any(each.reason in _OUT_OF_ORDER for each in result.failures.values()):
                    return result
                failure = sink_uncertain(_STARTED)
            elif failure.reason is not Reason.UNCERTAIN:
                await self._restore(one, namespace, write)
        if failure.reason is Reason.UNCERTAIN:
            await self._drop(namespace, write.key)
        return BatchResult(versions=[0], failures={0: failure})

    @contextmanager
    def _holding(self, namespace: Namespace, write: SinkWrite) -> Iterator[None]:
        """Keep loads of the key from being stored, and its successor from acting."""
        key, place = write.key, (namespace.policy.name, write.key)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_sink[place] = done
        namespace.flights.detach(key)
        namespace.at_sink.add(key)
        namespace.begin_write(key, write.version)
        try:
            yield
        finally:
            namespace.flights.detach(key)  # begun meanwhile: it may have read what was there before
            namespace.at_sink.discard(key)
            namespace.written(key, write.version)
            del self._at_sink[place]
            if not done.done():
                done.set_result(None)

    async def _announce(self, namespace: Namespace, write: SinkWrite) -> None:
        """Take the key out of L2: from now on nobody finds there what the sink may have replaced.

        What only L2 has is brought to memory before, so that it is still there if the sink refuses.
        """
        node, key = self._node, write.key
        tier = node.l2_for(namespace)
        if tier is None:
            return
        if node.present(namespace, key, node.clock.now()) is None:
            await fill(node, namespace, [key])
        await tier.drop(namespace.policy.name, [(key, write.version - 1)])

    async def _restore(self, one: Batch, namespace: Namespace, write: SinkWrite) -> None:
        """Bring back to L2 what the key had before: the sink has refused."""
        node, key, now = self._node, write.key, self._node.clock.now()
        record = node.present(namespace, key, now)
        if record is None or node.l2_for(namespace) is None or not node.may_keep(key):
            return
        _, flags, _, deadline = HEADER.unpack_from(record)
        before = L2Write(
            key, record[HEADER_BYTES:], flags, node.versions.next(), deadline - now, namespace.barriers.position
        )
        await node.writes.put_in_cache(one, namespace, [0], [before])

    async def _to_sink(self, namespace: Namespace, write: SinkWrite) -> Failure | None:
        node, sink = self._node, namespace.sink
        assert sink is not None, "there is something to write to"

        def allowed() -> bool:
            return node.placement.owns(write.key) and not node.placement.fenced(node.clock.now())

        try:
            await sink.write(write, allowed=allowed)
        except OriginError as error:
            if error.maybe_done:
                return sink_uncertain(str(error))
            return sink_failed(str(error), again=error.again)
        return None

    async def _to_cache(
        self,
        one: Batch,
        namespace: Namespace,
        write: SinkWrite,
        since: int,
        to_cache: Callable[[], Awaitable[BatchResult]],
    ) -> BatchResult:
        """Bring to the cache what the sink has taken, in a turn that began under the view of an epoch."""
        placement = self._node.placement
        if placement.fenced(self._node.clock.now()) or not placement.followed(since):
            return failed(one, {0: NOT_READY})
        if placement.kept(write.key, since):
            return await to_cache()
        # It has moved, and its new owner waits for this node's word: nobody has written it since.
        await self._node.writes.plain(_removal(namespace, write.key), namespace, [0])
        if placement.fenced(self._node.clock.now()) or not placement.followed(since):
            return failed(one, {0: NOT_READY})
        return BatchResult(versions=[write.version])

    async def _drop(self, namespace: Namespace, key: bytes) -> None:
        """Remove the key from the cache, whoever owns it by now: nobody knows what the origin has."""
        node = self._node
        namespace.void(key)
        namespace.store.remove(key)
        assert namespace.sink is not None, "there is something to write to"
        namespace.holdoff.note(key, node.clock.now(), namespace.sink.limits.timeout_s)
        for _ in range(_CLEANUPS):
            removal = _removal(namespace, key)
            told: list[BatchResult] = []
            if node.may_keep(key) and not node.placement.fenced(node.clock.now()):
                told.append(await node.writes.plain(removal, namespace, [0]))  # a node that leaves executes nothing
            elif rest := node.execute(removal, told.append):
                await rest
            if not told[0].failures:
                return
            await asyncio.sleep(_CLEANUP_PAUSE_S)

    # Views.

    def _moved_away(self, _view: View) -> Awaitable[None] | None:
        """Return what ends when no write of a key that has moved away is at the sink."""
        owns = self._node.placement.owns
        moved = [done for (_, key), done in self._at_sink.items() if not owns(key)]
        return _all(moved) if moved else None

    def _view_changed(self, former: View | None, view: View) -> None:
        """Hold loads off if a member has gone, or may have: its last call may be on its way to the origin."""
        gone = former is None or not self._node.placement.follows or not set(former.members) <= set(view.members)
        if not gone:
            return
        now = self._node.clock.now()
        for namespace in self._node.namespaces:
            if namespace.sink is not None:
                namespace.holdoff.note_all(now, namespace.sink.limits.timeout_s)


async def _all(futures: list[asyncio.Future[None]]) -> None:
    await asyncio.wait(futures)


def _removal(namespace: Namespace, key: bytes) -> Batch:
    return Batch(Operation.INVALIDATE, namespace.policy.name, [key])
