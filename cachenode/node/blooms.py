"""Rebuilds of Bloom filters: one node lists for all (`cachenode.core.bloom` says why the result can be believed).

The node that owns a namespace's name leads its rebuilds; when asked to, any other may as well. It

1. has every member begin a fresh filter, which each does once nobody else acts for its keys;
2. lists the keys of the origin, and then those of L2;
3. hands the result to every member.

A member that has restarted or come meanwhile has begun nothing, so it takes nothing and hides nothing; the change of
view makes another rebuild due. If the leader dies what was begun goes on as a second filter that writes are added to,
until the next leader begins anew. Nothing of this is saved: what was written after a filter was saved would be missing
from it, so whoever starts has to have it listed anyway.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from cachenode.core.bloom import PART_BYTES, Bloom, KeyFilter, Rebuilds
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import ORDER_TOO_LATE, failed
from cachenode.core.schedule import parse_schedule
from cachenode.errors import L2Unavailable, OriginError
from cachenode_api.keys import seat_of

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["Blooms", "Rebuild"]

_log = structlog.get_logger(__name__)

_SHAPE = struct.Struct("<Qd")
"""What a BLOOM_BEGIN brings: the keys there must be room for, and the error."""
_PART = struct.Struct("<IIQ")
"""What goes before a part of what was listed: its number, how many there are, and how many keys were listed."""
_SLICE = 500
"""Keys that are listed before others have their turn: half a millisecond."""
_ORDER_S = 2.0


@dataclass(slots=True)
class Rebuild:
    """One rebuild that this node leads.

    Attributes:
        namespace: Whose.
        stage: "beginning", "origin", "l2", "handing out", "done" or "failed".
        keys: Listed until now.
        error: Why it failed.
    """

    namespace: str
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
        self._plans: dict[str, Rebuilds] = {}
        self._running: dict[str, Rebuild] = {}

    # What the leader orders.

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Begin a fresh filter, or take a part of what was listed (see `Node.execute`)."""
        bloom = namespace.bloom
        if bloom is None:  # configured otherwise than the leader: it consults none
            reply(BatchResult([0], versions=[0]))
            return None
        if batch.operation is Operation.BLOOM_BEGIN:
            return self._node.run_parts(batch, reply, [([0], self._begin(batch, namespace, bloom, reply))])
        part, parts, listed = _PART.unpack_from(batch.values[0])
        data = batch.values[0][_PART.size :]
        taken = bloom.take(batch.tokens[0], part, parts, data, listed, self._node.clock.now())
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

    # The leader.

    def tick(self, now: float) -> None:
        """Begin the rebuilds that are due. To be called several times a second."""
        placement = self._node.placement
        if not placement.ready or placement.unsettled or placement.fenced(now) or self._node.closing:
            return
        for namespace in self._node.namespaces:
            if namespace.bloom is None or namespace.policy.name in self._running:
                continue
            if placement.owns(seat_of(namespace.policy.name)):
                epoch, built = placement.epoch, namespace.bloom.epoch
                if self._plan(namespace).due(now, self._node.wall(), epoch=epoch, built=built):
                    self.rebuild(namespace)

    def _plan(self, namespace: Namespace) -> Rebuilds:
        plan = self._plans.get(namespace.policy.name)
        if plan is None:
            plan = self._plans[namespace.policy.name] = Rebuilds(parse_schedule(namespace.policy.bloom_rebuild))
        return plan

    def rebuild(self, namespace: Namespace) -> Rebuild:
        """Begin a rebuild of a namespace that has a filter; one that this node is leading already is returned."""
        name = namespace.policy.name
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = Rebuild(name)
            running.task = asyncio.get_running_loop().create_task(self._run(running, namespace))
        return running

    async def _run(self, rebuild: Rebuild, namespace: Namespace) -> None:
        node, bloom, plan = self._node, namespace.bloom, self._plan(namespace)
        assert bloom is not None, "only namespaces with a filter are rebuilt"
        number = node.versions.next()
        plan.begin(node.clock.now(), self._node.wall())
        try:
            await self._lead(rebuild, namespace, bloom, number)
            rebuild.stage = "done"
            _log.info("bloom_rebuilt", namespace=rebuild.namespace, keys=rebuild.keys)
        except (OriginError, L2Unavailable) as error:
            rebuild.stage, rebuild.error = "failed", str(error)
            bloom.failures += 1
            _log.warning("bloom_rebuild_failed", namespace=rebuild.namespace, why=str(error))
        finally:
            bloom.give_up(number)
            plan.end(node.clock.now(), succeeded=rebuild.stage == "done")
            del self._running[rebuild.namespace]

    async def _lead(self, rebuild: Rebuild, namespace: Namespace, bloom: Bloom, number: int) -> None:
        room, error = bloom.room, bloom.error
        await self._everywhere(Operation.BLOOM_BEGIN, namespace, number, _SHAPE.pack(room, error))
        listed = KeyFilter(room, error)
        rebuild.stage = "origin"
        await self._list_origin(rebuild, namespace, listed)
        rebuild.stage = "l2"
        await self._list_l2(rebuild, namespace, listed)
        rebuild.stage = "handing out"
        saved = listed.save()
        parts = [saved[at : at + PART_BYTES] for at in range(0, len(saved), PART_BYTES)]
        for part, data in enumerate(parts):
            head = _PART.pack(part, len(parts), rebuild.keys)
            await self._everywhere(Operation.BLOOM_TAKE, namespace, number, head + data)

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
