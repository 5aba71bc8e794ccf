"""Keys that others depend on, seen from their owner: it has the dependents removed when one changes, then answers.

A key changes when it is written, removed or declared untrue, by its name or by a selector that covers it, be it in the
cache or not. It does not when its life ends, when it is evicted, or when it is loaded: a load brings what is there, and
who has changed that has said so. (A load that brings other parents than before matters to its dependents: see
`Cascades.reloaded`.)

The dependents go *after* the change is visible everywhere, and before it is answered: who makes one anew in between
reads the new value. A dependent is ordered removed at its own owner like any invalidation, so near caches, copies and
L2 are told as usual, and an owner that cannot be reached is asked again until it can, or has a successor. The orders go
to all dependents at once, those over others too: there are no rounds, and cycles end where they begin.

A writer who goes away, or whose time is over, does not end a cascade. Whose write was *uncertain* must repeat it: a
node that dies between a change and its cascade has answered nothing.

Interleavings, each forced by a test in ``tests/node/test_cascades.py``:

1. A dependent is linked while its parent is being written: it is removed, since the edges are looked at when the write
   is done (``test_dependent_that_is_linked_during_a_change``).
2. A second change comes while the first one's cascade waits: it waits for the same dependents
   (``test_second_change_waits_for_the_same_dependents``).
3. The first dependents of a namespace come while keys of it are being written by those who knew of none
   (``test_change_that_began_before_there_were_dependents``).
4. The caller gives up during a cascade (``test_cascade_outlives_its_caller``).
5. A dependent's owner is out of reach (``test_change_waits_for_an_owner_out_of_reach``).
6. A barrier covers parents (``test_barrier_takes_dependents_along``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cachenode.core.dependencies import Dependents
from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import NOT_OWNER, NOT_READY, bad_dependencies, failed
from cachenode.core.sweep import tags_of
from cachenode.errors import PeerUnavailable
from cachenode.node.filler import fill
from cachenode.node.linking import AGAIN, INDIRECT, PREPARE
from cachenode_api.dependencies import pack_references, parent_of
from cachenode_api.errors import InvalidDependencies
from cachenode_api.reasons import Reason
from cachenode_api.records import NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest
    from cachenode_api.selectors import Selector
    from cachenode_api.view import View

__all__ = ["CHANGES", "Cascades"]

CHANGES = frozenset({Operation.SET, Operation.DELETE, Operation.INVALIDATE, Operation.INCR})

_PAUSE_S = 0.02
_KEYS_AT_ONCE = 1_000
_PARENTS_AT_ONCE = 500
_FOREIGN_S = 60.0
"""How long edges of keys that have moved away are kept: a write from before may still be under way."""
_UNDONE = frozenset({Reason.CONDITION_FAILED, Reason.NOT_A_COUNTER})


class Cascades:
    """The part of a node that knows what depends on its keys."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._opened: dict[str, asyncio.Event] = {}
        """By namespace: set once every change that is under way is noted when it is done."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._making_room: set[str] = set()
        self._viewed_at = node.clock.now()
        node.placement.listeners.append(self._view_changed)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that whoever asked for it need not live to see."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ended(self, seconds: float) -> None:
        """Return when no cascade is under way, or after so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # LINK: somebody depends on keys of this node.

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest:
        """Take note of what depends on keys (see `Linking`)."""
        return self._node.run_parts(batch, reply, [(list(range(len(batch.keys))), self._link(batch, namespace, reply))])

    async def _link(self, batch: Batch, namespace: Namespace, reply: Reply) -> None:
        node, placement = self._node, self._node.placement
        again = bool(batch.flags[0] & AGAIN)
        while again and placement.epoch < batch.epoch:  # noqa: ASYNC110 - the view is milliseconds away
            await asyncio.sleep(_PAUSE_S)
        if not again and placement.unsettled and any(map(placement.gained, batch.keys)):
            await placement.settle()
        dependents, epoch = self._open(namespace), placement.epoch
        if not again:
            await self._opened[namespace.policy.name].wait()
            await self._look_up(namespace, dependents, batch)
        now, count = node.clock.now(), len(batch.keys)
        if placement.epoch != epoch or placement.fenced(now) or not placement.ready:
            reply(failed(batch, dict.fromkeys(range(count), NOT_READY)))
            return
        failures = {index: NOT_OWNER for index, key in enumerate(batch.keys) if not placement.owns(key)}
        records, unchanged = [b""] * count, [0] * count
        for index, key in enumerate(batch.keys):
            if index in failures:
                continue
            try:
                parent_of(batch.depends_on[index])
            except InvalidDependencies as error:
                failures[index] = bad_dependencies(str(error))
                continue
            unchanged[index] = dependents.unchanged_us(key, batch.depends_on[index], now)
            if namespace.links is not None:
                records[index] = pack_references(sorted(namespace.links.parents(key)))
            if not batch.flags[index] & PREPARE:
                self._link_one(batch, namespace, dependents, index, now)
        reply(BatchResult(range(count), records=records, tokens=unchanged, failures=failures))
        self._make_room(namespace, dependents)

    def _link_one(self, batch: Batch, namespace: Namespace, dependents: Dependents, index: int, now: float) -> None:
        key, ttl_ms = batch.keys[index], batch.ttls_ms[index]
        record = namespace.store.peek(key, now)
        dependents.link(
            key,
            batch.depends_on[index],
            batch.tokens[index],
            float("inf") if ttl_ms == NO_TTL_MS else now + ttl_ms / 1_000,
            now,
            direct=not batch.flags[index] & INDIRECT,
            tags=tags_of(record) if record is not None else (),
        )

    def _open(self, namespace: Namespace) -> Dependents:
        """Return a namespace's dependents; from the first call on its changes are noted."""
        if namespace.dependents is None:
            namespace.dependents = Dependents(self._node.clock.now())
            self._opened[namespace.policy.name] = opened = asyncio.Event()
            self.spawn(self._open_when(opened))
        return namespace.dependents

    async def _open_when(self, opened: asyncio.Event) -> None:
        await self._node.writes.under_way.turned()
        opened.set()

    async def _look_up(self, namespace: Namespace, dependents: Dependents, batch: Batch) -> None:
        """Find entries of the shared store that something is going to depend on, for their tags and own parents."""
        now, keys = self._node.clock.now(), []
        for key in dict.fromkeys(batch.keys):
            known = dependents.edges(key) or (namespace.links is not None and namespace.links.of(key))
            if not known and self._node.present(namespace, key, now) is None:
                keys.append(key)
        tier = self._node.l2_for(namespace)
        if keys and tier is not None and tier.available:
            await fill(self._node, namespace, keys)

    def _make_room(self, namespace: Namespace, dependents: Dependents) -> None:
        """Have the dependents removed of the parents that were named longest ago, if there are too many."""
        if dependents.surplus() and namespace.policy.name not in self._making_room:
            self._making_room.add(namespace.policy.name)
            self.spawn(self._give_up_surplus(namespace, dependents))

    async def _give_up_surplus(self, namespace: Namespace, dependents: Dependents) -> None:
        try:
            while surplus := dependents.surplus():
                await self._cascade(dependents, surplus, acknowledged=True, giving_up=True)
        finally:
            self._making_room.discard(namespace.policy.name)

    # Changes.

    async def change(
        self,
        batch: Batch,
        namespace: Namespace,
        own: Sequence[int],
        reply: Reply,
        *,
        epoch: int,
        spread: bool = True,
    ) -> None:
        """Write keys of this node and have what depends on them removed, then answer.

        Args:
            batch: One of `CHANGES`.
            namespace: Its namespace.
            own: Positions of the keys.
            reply: Takes the answers.
            epoch: Of the view under which they are this node's.
            spread: False if what depends on these keys is seen to by whoever orders this.
        """
        results: list[BatchResult] = []
        keys, left = [batch.keys[index] for index in own], list(own)
        try:
            if self._node.placement.epoch != epoch:
                self._node.writes.keep_own(batch, left, results.append)
            rest = self._node.writes.linked(batch, namespace, left, results.append)
            if rest is not None:
                await rest
        except BaseException:  # given up half way: it may be seen, and its sink's part goes on
            self.spawn(self._change_given_up(namespace, keys, spread=spread, acknowledged=batch.acknowledged))
            raise
        undone = {batch.keys[index] for part in results for index in _undone(part)}
        keys = [key for key in keys if key not in undone]
        cascading = self._note(namespace, keys, spread=spread, acknowledged=batch.acknowledged)
        if cascading is not None:
            await asyncio.shield(cascading)
        for part in results:
            reply(part)

    async def _change_given_up(
        self, namespace: Namespace, keys: Sequence[bytes], *, spread: bool, acknowledged: bool
    ) -> None:
        await self._node.write_through.ended(namespace, keys)
        cascading = self._note(namespace, keys, spread=spread, acknowledged=acknowledged)
        if cascading is not None:
            await cascading

    async def reloaded(
        self, namespace: Namespace, parents: Mapping[bytes, tuple[set[bytes], set[bytes]]], *, acknowledged: bool
    ) -> None:
        """Take note that keys have been loaded, which depended on others before than they do now.

        What depends on one that depends on more now has not been told of that: it goes. What is being loaded from one
        that has depended on something else would not learn of that any more: it is not kept.
        """
        dependents, now = namespace.dependents, self._node.clock.now()
        assert dependents is not None, "there is something to tell"
        for key, (before, present) in parents.items():
            if not before <= present:
                dependents.note(key, now)
        grown = [key for key, (before, present) in parents.items() if not present <= before and dependents.edges(key)]
        if grown:
            namespace.cascades += len(grown)
            await asyncio.shield(self.spawn(self._cascade(dependents, grown, acknowledged=acknowledged)))

    def _note(
        self, namespace: Namespace, keys: Sequence[bytes], *, spread: bool, acknowledged: bool
    ) -> asyncio.Task[None] | None:
        """Take note of changes that everybody sees from now on; begin to have the dependents removed, if any."""
        dependents, now = namespace.dependents, self._node.clock.now()
        if dependents is None:
            return None
        for key in keys:
            dependents.note(key, now)
        parents = [key for key in dict.fromkeys(keys) if dependents.edges(key)] if spread else []
        if not parents:
            return None
        namespace.cascades += len(parents)
        return self.spawn(self._cascade(dependents, parents, acknowledged=acknowledged))

    def bar(
        self,
        namespace: Namespace,
        selectors: Sequence[Selector],
        waiter: asyncio.Future[None] | None,
        acknowledged: bool,
    ) -> asyncio.Task[None]:
        """Have removed what depends on anything that barriers cover, when nobody sees that any more."""
        return self.spawn(self._bar(namespace, selectors, waiter, acknowledged))

    async def _bar(
        self,
        namespace: Namespace,
        selectors: Sequence[Selector],
        waiter: asyncio.Future[None] | None,
        acknowledged: bool,
    ) -> None:
        if waiter is not None:
            await waiter
        dependents = namespace.dependents
        assert dependents is not None, "there is something to look at"
        dependents.note_all(self._node.clock.now())
        covered = dependents.covered(selectors)
        namespace.cascades += len(covered)
        await self._cascade(dependents, covered, acknowledged=acknowledged)

    async def _cascade(
        self, dependents: Dependents, parents: Sequence[bytes], *, acknowledged: bool, giving_up: bool = False
    ) -> None:
        """Have all that depends on keys removed; return when it is.

        Args:
            dependents: Where the keys' edges are.
            parents: The keys.
            acknowledged: Whether to wait until nobody holds a copy.
            giving_up: Whether the edges are to go as well.
        """
        stamps = {key: {each: edge.stamp for each, edge in dependents.edges(key).items()} for key in parents}
        left: dict[str, dict[bytes, None]] = {}
        for name, key in map(parent_of, dict.fromkeys(dependent for some in stamps.values() for dependent in some)):
            left.setdefault(name, {})[key] = None
        while left:
            await asyncio.gather(*(self._order(name, keys, acknowledged) for name, keys in left.items()))
            left = {name: keys for name, keys in left.items() if keys}
            if left:
                await asyncio.sleep(_PAUSE_S)
        for key in parents:
            dependents.cascaded(key, stamps[key], gone=giving_up)

    async def _order(self, name: str, keys: dict[bytes, None], acknowledged: bool) -> None:
        """Order keys removed at their owners; take those out that are."""
        shares: dict[str, list[bytes]] = {}
        for key in keys:
            owner = self._node.placement.owner(key)
            if owner is not None:
                shares.setdefault(owner, []).append(key)
        orders = [
            (owner, share[first : first + _KEYS_AT_ONCE])
            for owner, share in shares.items()
            for first in range(0, len(share), _KEYS_AT_ONCE)
        ]
        for owner, some in orders:
            batch = Batch(Operation.CASCADE, name, some, acknowledged=acknowledged)
            try:
                result = await self._node.send(owner, batch)
            except PeerUnavailable:
                continue
            for at, key in enumerate(some):
                if _is_done(result.failures.get(at)):
                    del keys[key]

    def loaded(self, namespace: Namespace, key: bytes) -> None:
        """Take note of the tags of what has been loaded for a key."""
        record = namespace.store.peek(key, self._node.clock.now())
        if record is not None and namespace.dependents is not None:
            namespace.dependents.tag(key, tags_of(record))

    # Time.

    def _view_changed(self, _former: View | None, _view: View) -> None:
        self._viewed_at = now = self._node.clock.now()
        for namespace in self._node.namespaces:
            if namespace.dependents is not None:
                namespace.dependents.note_all(now)

    def expire(self, now: float) -> None:
        """Forget what depends on nothing of this node any more. To be called several times a second."""
        placement = self._node.placement
        settled = placement.ready and not placement.unsettled and now - self._viewed_at > _FOREIGN_S
        for namespace in self._node.namespaces:
            if namespace.dependents is None:
                continue
            for key in namespace.dependents.expire(now, _PARENTS_AT_ONCE):
                if settled and not placement.owns(key):
                    namespace.dependents.forget(key)


def _undone(result: BatchResult) -> Iterable[int]:
    """Return the positions of what has certainly not been written."""
    for at, failure in result.failures.items():
        if failure.reason in _UNDONE:
            yield at if result.indices is None else result.indices[at]


def _is_done(failure: Failure | None) -> bool:
    return failure is None or failure.reason is Reason.UNKNOWN_NAMESPACE
