"""Barriers: one mechanism behind prefixes, patterns, tags and whole namespaces.

A barrier is a position in its namespace's log after which everything it covers that began earlier is untrue. The node
that owns the namespace's name on the ring, its *coordinator*, orders the barriers of that namespace; a position is one
of its versions, so positions rise across coordinators as versions do across owners. Then:

1. The shared store gets the barrier, so that a node which starts later knows it. If it cannot take it now, every node
   keeps it for later.
2. Every other member applies it, and the coordinator does: the log, memory (`cachenode.core.sweep`), what is being
   read or loaded, and every near-cached session that holds anything of the namespace. A member answers when its
   sessions have acknowledged or lost their leases.
3. The coordinator answers when all have answered, and it still is the coordinator.

A member that cannot be reached is asked again until it answers or is no member any more: then its leases are over.
An order from a coordinator of an older view is refused: another may have taken its place
(``test_order_of_an_older_view_is_refused``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import BAD_ORDER, NOT_OWNER, NOT_READY, bad_selector, failed
from cachenode_api.errors import InvalidSelector
from cachenode_api.keys import seat_of
from cachenode_api.selectors import Selector, SelectorKind, make_selector
from cachenode_api.version import epoch_of

if TYPE_CHECKING:
    from cachenode.core.holders import Holder
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["Barriers"]

MISSED = 0x100
"""Set in a kind of an APPLY: the shared store has not taken the barrier yet."""


class Barriers:
    """The part of a node that orders and applies barriers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        """Order barriers if this is the coordinator, apply them if a coordinator has ordered them (`Node.execute`)."""
        node, indices = self._node, list(range(len(batch.keys)))
        try:
            kinds = batch.flags or [0] * len(batch.keys)
            selectors = [make_selector(kind & ~MISSED, text) for kind, text in zip(kinds, batch.keys, strict=True)]
        except InvalidSelector as error:
            reply(failed(batch, dict.fromkeys(indices, bad_selector(str(error)))))
            return None
        if batch.operation is Operation.APPLY:
            if not from_peer:
                reply(failed(batch, dict.fromkeys(indices, BAD_ORDER)))
                return None
            return node.run_parts(batch, reply, [(indices, self._obey(batch, namespace, selectors, reply))])
        owner = node.placement.owner(seat_of(namespace.policy.name)) or node.placement.me.id
        if owner == node.placement.me.id:
            return node.run_parts(batch, reply, [(indices, self._order(batch, namespace, selectors, reply))])
        if from_peer:
            reply(failed(batch, dict.fromkeys(indices, NOT_OWNER)))
            return None
        return node.run_parts(batch, reply, [(indices, node.writes.ask(owner, batch, indices, reply))])

    async def _order(self, batch: Batch, namespace: Namespace, selectors: Sequence[Selector], reply: Reply) -> None:
        node, name = self._node, namespace.policy.name
        epoch = node.placement.epoch
        positions = [node.versions.next() for _ in selectors]
        kinds = [selector.kind.value for selector in selectors]
        tier = node.l2_for(namespace)
        if tier is not None:
            in_l2 = await tier.note_barriers(name, list(zip(positions, selectors, strict=True)))
            kinds = kinds if in_l2 else [kind | MISSED for kind in kinds]
        order = Batch(Operation.APPLY, name, batch.keys, flags=kinds, tokens=positions, timeout_s=batch.timeout_s)
        order.acknowledged = batch.acknowledged
        near = batch.near
        await asyncio.gather(self._apply(order, namespace, selectors, near), node.tell_all(order))
        count = len(positions)
        if node.placement.epoch != epoch and node.placement.owner(seat_of(name)) != node.placement.me.id:
            reply(BatchResult(range(count), versions=positions, failures=dict.fromkeys(range(count), NOT_OWNER)))
        elif node.placement.fenced(node.clock.now()):
            reply(BatchResult(range(count), versions=positions, failures=dict.fromkeys(range(count), NOT_READY)))
        else:
            reply(BatchResult(range(count), versions=positions))

    async def _obey(self, batch: Batch, namespace: Namespace, selectors: Sequence[Selector], reply: Reply) -> None:
        indices = range(len(batch.keys))
        if any(epoch_of(position) < self._node.placement.epoch for position in batch.tokens):
            reply(failed(batch, dict.fromkeys(indices, NOT_OWNER)))
            return
        tier = self._node.l2_for(namespace)
        if tier is not None and batch.flags and batch.flags[0] & MISSED:
            tier.remember_barriers(namespace.policy.name, list(zip(batch.tokens, selectors, strict=True)))
        await self._apply(batch, namespace, selectors, None)
        reply(BatchResult(indices, versions=list(batch.tokens)))

    async def _apply(
        self, order: Batch, namespace: Namespace, selectors: Sequence[Selector], by: Holder[asyncio.Future[None]] | None
    ) -> None:
        """Make what the selectors cover untrue on this node and its sessions."""
        for position, selector in zip(order.tokens, selectors, strict=True):
            self.note(namespace, position, selector)
        waiter = self._node.invalidations.bar(namespace, selectors, by)
        if waiter is not None and order.acknowledged:
            await waiter

    def note(self, namespace: Namespace, position: int, selector: Selector) -> None:
        """Put a barrier in force in this node's memory."""
        if not namespace.barriers.note(position, selector):
            return
        namespace.invalidations += 1
        namespace.sweep.bar(selector, self._node.versions.next())
        namespace.fills.void_all()
        if selector.kind is SelectorKind.TAG:  # what a load under way brings may have any tags
            namespace.flights.detach_if(lambda _key: True)
        else:
            namespace.flights.detach_if(lambda key: selector.covers(key, ()))
