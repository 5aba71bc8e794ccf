"""Rebuilds of Bloom filters: one node lists for all (`cachenode.core.bloom` says why the result can be believed).

The node that owns a namespace's name leads its rebuilds; when asked to, any other may as well. It

1. has every member begin a fresh filter, which each does once nobody else acts for its keys;
2. lists the keys of the origin, and then those of L2;
3. hands the result to every member.

A member that has restarted or come meanwhile has begun nothing, so it takes nothing and hides nothing; the change of
view makes another one due. If the leader dies what was begun goes on as a second filter that writes are added to,
until the next leader begins anew.

After a change of view, and when nodes begin, the leader first tries a *merge*: it

1. has every member begin a fresh filter, as above;
2. has every member save what it has written until then, once it has given its word for the view
   (`Placement.released_epoch`): what it orders under earlier views can be acknowledged no more;
3. reads that, and what those have saved who have left, and hands the whole out.

`cachenode.core.saved_filters` says when the whole may be believed. If it may not the origin is listed, as without.

Interleavings, each forced by a test in ``tests/node/test_saved_blooms.py``:

1. A key is written after its owner has saved and before it gets the whole: its fresh filter was begun before, so it has
   the key (``test_write_between_saving_and_taking``).
2. A member has not released the former view yet: what it is writing belongs to what it has to save, so it does not
   (``test_member_that_has_not_released_is_waited_for``).
3. A node writes before it has its first filter: it remembers the keys, and saves them
   (``test_newcomer_saves_what_it_wrote_before_its_first_filter``).
4. A node is killed: what it wrote last nobody knows (``test_killed_node_makes_the_origin_be_listed``). Its next life
   has the same id and is not taken for it (``test_killed_node_that_comes_back``).
5. A barrier comes after the keys were listed: it counts against the whole as well, whoever holds it
   (``test_barrier_outlives_a_merge``, ``test_tag_that_was_invalidated_before_a_restart``).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from cachenode.core.bloom import PART_BYTES, Base, Bloom, KeyFilter, Source
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import NOT_READY, ORDER_TOO_LATE, failed
from cachenode.core.rebuilds import Rebuilds
from cachenode.core.saved_filters import Index, Refused
from cachenode.core.schedule import parse_schedule
from cachenode.errors import L2Unavailable, OriginError
from cachenode.node.saved_blooms import SavedBlooms
from cachenode_api.keys import seat_of
from cachenode_api.selectors import SelectorKind

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["Blooms", "Rebuild"]

_log = structlog.get_logger(__name__)

_SHAPE = struct.Struct("<Qd")
"""What a BLOOM_BEGIN brings: the keys there must be room for, and the error."""
_PART = struct.Struct("<IIBQQQdQd")
"""What goes before a part: its number, how many there are, where the whole comes from, and then its `Base`."""
_EPOCH = struct.Struct("<Q")
"""What a BLOOM_SAVE brings: the epoch of the view up to which nothing must be missing."""
_SLICE = 500
"""Keys that are listed before others have their turn: half a millisecond."""
_ORDER_S = 2.0


@dataclass(slots=True)
class Rebuild:
    """One rebuild or merge that this node leads.

    Attributes:
        namespace: Whose.
        lists: Whether the origin's keys are listed.
        stage: "beginning", "origin", "l2", "saving", "reading", "handing out", "done", "refused" or "failed".
        number: Which; later ones have higher numbers.
        keys: Listed until now.
        error: Why it failed.
    """

    namespace: str
    lists: bool = True
    number: int = 0
    task: asyncio.Task[None] | None = None
    stage: str = "beginning"
    keys: int = 0
    error: str = ""


class Blooms:
    """The part of a node that builds filters, and takes those that others build.

    Args:
        node: The node; its wall clock is that of schedules.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.saved = SavedBlooms(node)
        self._plans: dict[str, Rebuilds] = {}
        self._running: dict[str, Rebuild] = {}

    # What the leader orders.

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Begin a fresh filter, save what is known, or take a part of the whole (see `Node.execute`)."""
        bloom = namespace.bloom
        if bloom is None:  # configured otherwise than the leader: it consults none
            reply(BatchResult([0], versions=[0]))
            return None
        if batch.operation is Operation.BLOOM_BEGIN:
            return self._node.run_parts(batch, reply, [([0], self._begin(batch, namespace, bloom, reply))])
        if batch.operation is Operation.BLOOM_SAVE:
            return self._node.run_parts(batch, reply, [([0], self._save(batch, namespace, reply))])
        part, parts, number, *what = _PART.unpack_from(batch.values[0])
        source = Source(number)
        base = _base_of(namespace, batch.tokens[0], what, merged=source is not Source.BUILT)
        taken = bloom.take(batch.tokens[0], part, parts, batch.values[0][_PART.size :], base, source)
        reply(BatchResult([0], versions=[int(taken)]))
        return None

    async def _begin(self, batch: Batch, namespace: Namespace, bloom: Bloom, reply: Reply) -> None:
        placement = self._node.placement
        await placement.settle()
        room, error = _SHAPE.unpack(batch.values[0])
        if bloom.begin(batch.tokens[0], room, error, placement.epoch, namespace.barriers.position):
            reply(BatchResult([0], versions=[batch.tokens[0]]))
        else:
            reply(failed(batch, {0: ORDER_TOO_LATE}))

    async def _save(self, batch: Batch, namespace: Namespace, reply: Reply) -> None:
        (epoch,) = _EPOCH.unpack(batch.values[0])
        released = self._node.placement.released_epoch
        if released < epoch:  # it may still acknowledge what it began under the former view
            reply(failed(batch, {0: NOT_READY}))
            return
        saved = await self.saved.save(namespace, released - 1)
        reply(BatchResult([0], versions=[int(saved)]))

    # The leader.

    def tick(self, now: float) -> None:
        """Begin what is due. To be called several times a second."""
        node, placement = self._node, self._node.placement
        if not placement.ready or placement.unsettled or placement.fenced(now) or node.closing:
            return
        for namespace in node.namespaces:
            if namespace.bloom is None or namespace.policy.name in self._running:
                continue
            if placement.owns(seat_of(namespace.policy.name)):
                epoch, built, merges = placement.epoch, namespace.bloom.epoch, node.l2_for(namespace) is not None
                due = self._plan(namespace).due(now, node.wall(), epoch=epoch, built=built, merges=merges)
                if due == "list":
                    self.rebuild(namespace)
                elif due == "merge" and placement.released_epoch == epoch:
                    self._start(namespace, self._merge)

    def _plan(self, namespace: Namespace) -> Rebuilds:
        plan = self._plans.get(namespace.policy.name)
        if plan is None:
            plan = self._plans[namespace.policy.name] = Rebuilds(parse_schedule(namespace.policy.bloom_rebuild))
        return plan

    def rebuild(self, namespace: Namespace) -> Rebuild:
        """Begin a rebuild of a namespace that has a filter; one that this node is leading already is returned."""
        running = self._running.get(namespace.policy.name)
        if running is not None and running.lists:
            return running
        if running is not None and running.task is not None:  # who asks for a list does not want a merge
            running.task.cancel()
        return self._start(namespace, self._list, lists=True)

    def _start(
        self,
        namespace: Namespace,
        how: Callable[[Rebuild, Namespace, Bloom], Awaitable[None]],
        *,
        lists: bool = False,
    ) -> Rebuild:
        rebuild = self._running[namespace.policy.name] = Rebuild(namespace.policy.name, lists)
        rebuild.task = asyncio.get_running_loop().create_task(self._run(rebuild, namespace, how))
        return rebuild

    async def _run(
        self,
        rebuild: Rebuild,
        namespace: Namespace,
        how: Callable[[Rebuild, Namespace, Bloom], Awaitable[None]],
    ) -> None:
        bloom = namespace.bloom
        assert bloom is not None, "only namespaces with a filter are rebuilt"
        rebuild.number = self._node.versions.next()
        try:
            await how(rebuild, namespace, bloom)
        finally:
            bloom.give_up(rebuild.number)
            if self._running.get(rebuild.namespace) is rebuild:
                del self._running[rebuild.namespace]

    async def _list(self, rebuild: Rebuild, namespace: Namespace, bloom: Bloom) -> None:
        node, plan = self._node, self._plan(namespace)
        plan.begin(node.clock.now(), node.wall())
        try:
            await self._list_all(rebuild, namespace, bloom)
            rebuild.stage = "done"
            _log.info("bloom_rebuilt", namespace=rebuild.namespace, keys=rebuild.keys)
        except (OriginError, L2Unavailable) as error:
            rebuild.stage, rebuild.error = "failed", str(error)
            bloom.failures += 1
            _log.warning("bloom_rebuild_failed", namespace=rebuild.namespace, why=str(error))
        finally:
            plan.end(node.clock.now(), succeeded=rebuild.stage == "done")

    async def _list_all(self, rebuild: Rebuild, namespace: Namespace, bloom: Bloom) -> None:
        node, room, error = self._node, bloom.room, bloom.error
        await node.placement.settle()
        epoch = node.placement.epoch
        await self._everywhere(Operation.BLOOM_BEGIN, namespace, rebuild.number, _SHAPE.pack(room, error))
        listed = KeyFilter(room, error)
        rebuild.stage = "origin"
        await self._list_origin(rebuild, namespace, listed)
        rebuild.stage = "l2"
        await self._list_l2(rebuild, namespace, listed)
        base = Base(rebuild.number, epoch, 0, False, room, error, rebuild.keys, node.wall())
        await self._hand_out(rebuild, namespace, listed, base, Source.BUILT)

    async def _merge(self, rebuild: Rebuild, namespace: Namespace, bloom: Bloom) -> None:
        """Put together what is known and saved; if that cannot be believed the next thing due is a list."""
        plan, epoch = self._plan(namespace), self._node.placement.epoch
        try:
            index = await self.saved.index(namespace)
            if index is None:
                plan.refused(epoch)
                return
            base = await self._merge_all(rebuild, namespace, index)
            plan.merged(base.listed_at)
            rebuild.stage = "done"
            _log.info("bloom_merged", namespace=rebuild.namespace, epoch=epoch)
        except (Refused, OriginError) as error:
            rebuild.stage = "refused"
            bloom.refusals += 1
            plan.refused(epoch)
            _log.info("bloom_merge_refused", namespace=rebuild.namespace, why=str(error))

    async def _merge_all(self, rebuild: Rebuild, namespace: Namespace, index: Index) -> Base:
        placement, view = self._node.placement, self._node.placement.view
        assert view is not None, "a node without a view leads nothing"
        shape = _SHAPE.pack(index.room, index.error)
        await self._everywhere(Operation.BLOOM_BEGIN, namespace, rebuild.number, shape)
        rebuild.stage = "saving"
        await self._everywhere(Operation.BLOOM_SAVE, namespace, rebuild.number, _EPOCH.pack(view.epoch))
        rebuild.stage = "reading"
        whole, base, source = await self.saved.merge(namespace, index, view)
        if placement.epoch != view.epoch:
            raise Refused("the view has changed meanwhile")
        base = replace(base, number=rebuild.number, epoch=view.epoch)
        await self._hand_out(rebuild, namespace, whole, base, source)
        return base

    async def _hand_out(
        self, rebuild: Rebuild, namespace: Namespace, whole: KeyFilter, base: Base, source: Source
    ) -> None:
        rebuild.stage = "handing out"
        saved = whole.save()
        what = (base.epoch, base.position, base.room, base.error, base.listed, base.listed_at)
        parts = [saved[at : at + PART_BYTES] for at in range(0, len(saved), PART_BYTES)]
        for part, data in enumerate(parts):
            head = _PART.pack(part, len(parts), source.value, *what)
            await self._everywhere(Operation.BLOOM_TAKE, namespace, rebuild.number, head + data)

    async def _everywhere(self, operation: Operation, namespace: Namespace, number: int, value: bytes) -> None:
        """Have every member obey, this node too.

        Raises:
            OriginError: One of them has begun a later rebuild, or this node cannot begin one now.
        """
        order = Batch(operation, namespace.policy.name, [b"bloom"], [value], tokens=[number], timeout_s=_ORDER_S)
        answers: list[BatchResult] = []
        rest = self.begin(order, namespace, answers.append)
        if rest is not None:
            await rest
        refused = [failure.detail for answer in answers for failure in answer.failures.values()]
        if refused or await self._node.tell_all(order) is not None:
            raise OriginError(refused[0] if refused else "another node has begun a rebuild")

    async def _list_origin(self, rebuild: Rebuild, namespace: Namespace, listed: KeyFilter) -> None:
        assert namespace.origin is not None, "a filter belongs to an origin"
        async with aclosing(namespace.origin.keys()) as keys:  # type: ignore[type-var]
            async for key in keys:
                listed.add(key)
                rebuild.keys += 1
                if rebuild.keys % _SLICE == 0:
                    await asyncio.sleep(0)

    async def _list_l2(self, rebuild: Rebuild, namespace: Namespace, listed: KeyFilter) -> None:
        """List what was written here and is not at the origin, or not yet."""
        tier, cursor = self._node.l2_for(namespace), 0
        while tier is not None:
            keys, cursor = await tier.keys(rebuild.namespace, cursor)
            for key in keys:
                listed.add(key)
            rebuild.keys += len(keys)
            if not cursor:
                return

    async def close(self) -> None:
        """Lead no rebuild any more."""
        tasks = [each.task for each in self._running.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _base_of(namespace: Namespace, number: int, what: Sequence[Any], *, merged: bool) -> Base:
    """Return what a whole is good for on this node: a barrier by tag may have come since its keys were listed."""
    epoch, position, room, error, listed, listed_at = what
    barriers = namespace.barriers.barriers() + namespace.expiries.barriers()
    tagged = merged and any(at > position and selector.kind is SelectorKind.TAG for at, selector in barriers)
    return Base(number, epoch, position, tagged, room, error, listed, listed_at)
