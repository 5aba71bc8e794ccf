"""When jobs begin by themselves: on schedule, at a node's start, and where a job's node is gone.

Scheduled jobs, and those to be gone on with, belong to the node that owns the namespace's name. A node that starts has
the keys warmed that it read most in its former life: once a minute, and when it stops, it notes them in L2
(`namespaces.<name>.warm_top`). How often a key is read is what the eviction policy knows, so reads pay nothing for it.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from cachenode.core.failures import JOB_RUNNING
from cachenode.core.warming import HotKey, WarmJob, WarmPlan, hottest, pack_hot, unpack_hot
from cachenode.errors import L2Unavailable, OriginError
from cachenode_api.keys import seat_of

if TYPE_CHECKING:
    from cachenode.core.entries import Failure
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["WarmDuties"]

_log = structlog.get_logger(__name__)

HOT = ".hot"
_LOOK_S = 1.0
_HOT_S = 60.0
_KEEP_S = 7 * 86_400.0
_SLICE = 1_000
_START_RATE = 1_000.0


class WarmDuties:
    """Begins jobs.

    Args:
        node: Runs them.
        plans: What is due again and again.
        read_file: Yields the keys in a file, one on a line.
    """

    def __init__(self, node: Node, plans: Sequence[WarmPlan], read_file: Callable[[str], AsyncIterator[bytes]]) -> None:
        self._node = node
        self._read_file = read_file
        self._plans = list(plans)
        self._due = [plan.schedule.after(node.wall()) for plan in plans]
        self._look_at = self._hot_at = 0.0
        self._started = False
        self._work: asyncio.Task[None] | None = None

    def tick(self, now: float) -> None:
        """Do what is due. To be called several times a second; returns at once."""
        placement = self._node.placement
        if now < self._look_at or (self._work is not None and not self._work.done()):
            return
        if not placement.ready or placement.unsettled or placement.fenced(now) or self._node.closing:
            return
        self._look_at = now + _LOOK_S
        self._work = asyncio.get_running_loop().create_task(self.look(now))

    async def look(self, now: float) -> None:
        """Begin the jobs that are due, and note what is hot."""
        if not self._started:
            self._started, self._hot_at = True, now + _HOT_S
            await self._warm_as_before()
        for at, plan in enumerate(self._plans):
            if self._node.wall() >= self._due[at]:
                self._due[at] = plan.schedule.after(self._node.wall())
                await self._begin_planned(plan)
        for namespace in self._node.namespaces:
            if namespace.origin is not None and self._leads(namespace):
                await self._go_on(namespace)
        if now >= self._hot_at:
            self._hot_at = now + _HOT_S
            await self.note_hot()

    def _leads(self, namespace: Namespace) -> bool:
        return self._node.placement.owns(seat_of(namespace.policy.name))

    async def begin(
        self, namespace: Namespace, job: WarmJob, keys: Sequence[bytes] = ()
    ) -> asyncio.Task[None] | Failure:
        """Begin a job, or go on with it; return what ends with it, or why it cannot begin.

        Args:
            namespace: Whose keys.
            job: The job.
            keys: Those of a job whose source is "keys".
        """
        return await self._node.warming.start(namespace, job, lambda: self._keys(namespace, job, keys))

    async def _keys(self, namespace: Namespace, job: WarmJob, keys: Sequence[bytes]) -> AsyncIterator[bytes]:
        if job.source == "origin":
            if namespace.origin is None:
                raise OriginError("the namespace has no origin", again=False)
            async for key in namespace.origin.keys():
                yield key
        elif job.source == "file":
            async for key in self._read_file(job.file):
                yield key
        else:
            for key in keys if job.source == "keys" else await self._hottest(namespace, job.top):
                yield key

    async def _begin_planned(self, plan: WarmPlan) -> None:
        namespace = self._node.namespaces.get(plan.namespace)
        if namespace is None or not self._leads(namespace):
            return
        source = "file" if plan.keys_file else "origin" if plan.origin else "hot"
        job = WarmJob(secrets.token_hex(6), plan.namespace, source, plan.rate_per_s, top=plan.top, file=plan.keys_file)
        if await self.begin(namespace, job) is JOB_RUNNING:
            _log.warning("warming_skipped", namespace=plan.namespace, why="another job of it is running")

    async def _go_on(self, namespace: Namespace) -> None:
        job = await self._node.warming.to_go_on(namespace.policy.name)
        if job is not None and await self.begin(namespace, job) is not JOB_RUNNING:
            _log.info("warming_goes_on", namespace=job.namespace, job=job.id, done=job.done)

    # What was read most.

    async def _warm_as_before(self) -> None:
        """Have the keys warmed that this node read most before it was started."""
        tier, node = self._node.tier, self._node
        if tier is None:
            return
        for namespace in node.namespaces:
            name = namespace.policy.name
            if not namespace.policy.warm_top:
                continue
            noted = await tier.noted(HOT, [self._place(name)])
            keys = hottest((unpack_hot(entry.value) for entry in noted if entry), namespace.policy.warm_top)
            if keys:
                job = WarmJob(f"start-{secrets.token_hex(4)}", name, "keys", _START_RATE, total=len(keys))
                await node.warming.start(namespace, job, lambda keys=keys: _each(keys), alone=False)  # type: ignore[misc]

    def _place(self, namespace: str) -> bytes:
        return f"{namespace}/{self._node.placement.me.id}".encode()

    async def _hottest(self, namespace: Namespace, most: int) -> list[bytes]:
        """Return the keys that were read most on all nodes, those of others as they noted them last."""
        found = [await self._hot(namespace, most)]
        tier = self._node.tier
        if tier is not None:
            try:
                names, _ = await tier.keys(HOT)
            except L2Unavailable:
                names = []
            own = self._place(namespace.policy.name)
            prefix = f"{namespace.policy.name}/".encode()
            others = [name for name in names if name.startswith(prefix) and name != own]
            noted = await tier.noted(HOT, others) if others else []
            found += [unpack_hot(entry.value) for entry in noted if entry]
        return hottest(found, most)

    async def _hot(self, namespace: Namespace, most: int) -> list[HotKey]:
        """Return the keys of this node that were read most, in memory."""
        store, owns, found, cursor = namespace.store, self._node.placement.owns, list[HotKey](), 0
        while True:
            now = self._node.clock.now()
            keys, cursor = store.scan(cursor, _SLICE)
            records = [(key, store.peek(key, now)) for key in keys]
            some = [(store.heat(record), key) for key, record in records if record is not None and owns(key)]
            found = heapq.nlargest(most, [*found, *some])
            if not cursor:
                return found
            await asyncio.sleep(0)

    async def note_hot(self) -> None:
        """Note what was read most, for the next life of this node. To be called before it leaves."""
        tier = self._node.tier
        for namespace in self._node.namespaces:
            most = namespace.policy.warm_top
            if tier is None or not most:
                continue
            found = await self._hot(namespace, most)
            if found:
                version = int(self._node.wall() * 1_000)
                await tier.note(HOT, self._place(namespace.policy.name), pack_hot(found), _KEEP_S, version)

    async def close(self) -> None:
        """Begin nothing more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)


async def _each(keys: Sequence[bytes]) -> AsyncIterator[bytes]:
    for key in keys:
        yield key
