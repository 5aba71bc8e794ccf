"""Brings here what was written in another region, so that its readers here find it (`region_value_bytes`).

Another region's word says only that keys are untrue, and whether they have values there. When it is acted on, the value
is asked for where it was written, and comes here as a load does: with a lease that was got after the key became untrue,
and which ends with the next word or write. So no older value takes a newer one's place, in whatever order words and
values come, and versions of two regions are never compared: what comes gets one of this region's own.

Of two regions that write a key at the same time each asks after it has dropped its own value. So they do not end up
with each other's: one of them at most still has something to give.

It is an effort, not a promise: what does not fit, or comes when this node is busy, or when the other region is out of
reach, is loaded by who asks for it.

Interleavings, each forced by a test in ``tests/node/test_region_values.py``:

1. The next word comes while a value is on its way: it is not kept, and the next one is asked for
   (``test_value_on_its_way_is_overtaken``).
2. A reader comes first: it waits for the value, or loads itself if there is none (``test_reader_waits_for_the_value``,
   ``test_reader_loads_what_does_not_come``).
3. Both regions write (``test_two_who_write_agree``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cachenode.core.entries import Batch, BatchResult, Loaded, Operation
from cachenode.core.shedding import Work
from cachenode.errors import RegionUnavailable
from cachenode_api.records import NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode.ports import RegionLink

__all__ = ["RegionValues"]

_AT_A_TIME = 32
_MOST_WAITING = 10_000


class _Wanted(NamedTuple):
    origin: str
    namespace: Namespace
    key: bytes


class RegionValues:
    """The part of a node that fetches what other regions have written.

    Args:
        node: The node.
        links: The ways to the other regions, by their names. Not closed with this.
        timeout_s: Longest wait for a value.
    """

    def __init__(self, node: Node, links: Mapping[str, RegionLink], timeout_s: float) -> None:
        self._node = node
        self._links = links
        self._timeout_s = timeout_s
        self._waiting: dict[_Wanted, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, origin: str, namespace: Namespace, keys: Sequence[bytes]) -> None:
        """Bring what a region has for keys that are untrue here by now. Returns at once."""
        for key in keys:
            if len(self._waiting) >= _MOST_WAITING or self._node.shed(Work.REFRESH, [0]):
                namespace.remote_values_missed += 1
            else:
                self._waiting[_Wanted(origin, namespace, key)] = None
        for _ in range(min(len(self._waiting), _AT_A_TIME - len(self._tasks))):
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while self._waiting:
            wanted = next(iter(self._waiting))
            del self._waiting[wanted]
            await self._bring(wanted)

    async def _bring(self, wanted: _Wanted) -> None:
        """Get the lease of a key, and end it with what the region has; not if it is there, or is being loaded."""
        namespace, name = wanted.namespace, wanted.namespace.policy.name
        asked = Batch(Operation.LEASE, name, [wanted.key], lease_s=2 * self._timeout_s, timeout_s=self._timeout_s)
        answers: list[BatchResult] = []
        await self._do(asked, answers)
        tokens = [token for answer in answers for token in answer.tokens if token]
        if not tokens:
            return
        end = Batch(Operation.ABANDON, name, [wanted.key], tokens=tokens, acknowledged=False)
        try:
            async with asyncio.timeout(self._timeout_s):
                loaded = await self._links[wanted.origin].cached(name, wanted.key, namespace.policy.region_value_bytes)
        except (RegionUnavailable, TimeoutError):
            loaded = None
        if loaded is None:
            namespace.remote_values_missed += 1
        else:
            namespace.remote_values += 1
            _fulfil(end, wanted.origin, loaded)
        await self._do(end, [])

    async def _do(self, batch: Batch, answers: list[BatchResult]) -> None:
        rest = self._node.execute(batch, answers.append, holder=self)
        if rest is not None:
            await rest

    async def close(self) -> None:
        """Bring nothing more."""
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._node.loads.release(self)


def _fulfil(end: Batch, origin: str, loaded: Loaded) -> None:
    """Let the end of a lease bring a value: from where it was written, so it is kept whatever replicas may lack."""
    end.operation, end.region = Operation.FULFILL, origin
    end.values, end.flags = [loaded.value], [loaded.flags]
    if loaded.ttl_s is not None:
        end.ttls_ms = [NO_TTL_MS if loaded.ttl_s == float("inf") else max(1, round(loaded.ttl_s * 1_000))]
