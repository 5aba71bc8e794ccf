"""Barriers: one mechanism behind prefixes, patterns, tags and whole namespaces.

A barrier is a position in its namespace's log after which everything it covers that began earlier is untrue. The node
that owns the namespace's name on the ring, its *coordinator*, orders the barriers of that namespace; a position is one
of its versions, so positions rise across coordinators as versions do across owners. Then:

1. The coordinator applies it, and every other member does: the log, memory (`cachenode.core.sweep`), what is being
   read or loaded, and every near-cached session that holds anything of the namespace. A member answers when its
   sessions have acknowledged or lost their leases.
2. Meanwhile the shared store gets it, so that a node which starts later knows it. If it cannot take it now, every
   member remembers that, and brings it there later.
3. The coordinator answers when all have answered, and it still is the coordinator. Who becomes a member before the
   shared store has it must be told: it may have looked there in vain
   (``test_newcomer_is_told_while_the_shared_store_takes_its_time``).

A member that has restarted does not know the clients of its former life, which may not have noticed yet: it answers
when their leases are over (``test_restarted_member_answers_for_its_former_life``).

A member that cannot be reached is asked again until it answers or is no member any more: then its leases are over.
An order from a coordinator of an older view is refused: another may have taken its place
(``test_order_of_an_older_view_is_refused``). So is one that arrives behind a later one, because the link was down for a
moment: what a member wrote in between, a touch of an old value above all, has the later position. The coordinator
then orders anew (``test_order_that_comes_too_late_is_given_anew``).

A member that the registry has left out is not told, though it may act until its lease is over: so a coordinator whose
view is not settled orders nothing before it is (``test_member_that_the_registry_has_left_out_may_act``; the simulation
found this).

An *expiry* (`cachenode.core.expiries`) is ordered and told in the same way, and nobody's near cache may keep what it
covers. The shared store, and who learns of it there, takes it for a barrier that removes
(``test_expiry_is_a_removal_to_a_newcomer``); a member that is told of it once more does not
(``test_expiry_that_comes_again_removes_nothing``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import BAD_ORDER, NOT_OWNER, NOT_READY, ORDER_TOO_LATE, bad_selector, failed
from cachenode_api.errors import InvalidSelector
from cachenode_api.keys import seat_of
from cachenode_api.selectors import Selector, SelectorKind, make_selector
from cachenode_api.version import epoch_of

if TYPE_CHECKING:
    from cachenode.core.holders import Holder
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["Barriers", "again"]

AGAIN = 0x100
"""Set in a kind of an APPLY: the barrier was ordered before, and the shared store has not taken it yet."""
_KIND = 0xFF


def again(namespace: str, position: int, selector: Selector) -> Batch:
    """Return the order that tells others of a barrier which the shared store has missed."""
    kind = selector.kind.value | AGAIN
    return Batch(Operation.APPLY, namespace, [selector.text], flags=[kind], tokens=[position])


class Barriers:
    """The part of a node that orders and applies barriers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        """Order barriers if this is the coordinator, apply them if a coordinator has ordered them (`Node.execute`)."""
        node, indices = self._node, list(range(len(batch.keys)))
        try:
            kinds = batch.flags or [0] * len(batch.keys)
            selectors = [make_selector(kind & _KIND, text) for kind, text in zip(kinds, batch.keys, strict=True)]
            if not from_peer:
                node.limits.check(selectors)
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
            order = partial(self._order, batch, namespace, selectors)
            told = node.regions if namespace.policy.regions and not batch.region else None
            rest = told.tell(batch, indices, order, reply) if told is not None else order(reply)
            return node.run_parts(batch, reply, [(indices, rest)])
        if from_peer:
            reply(failed(batch, dict.fromkeys(indices, NOT_OWNER)))
            return None
        return node.run_parts(batch, reply, [(indices, node.writes.ask(owner, batch, indices, reply))])

    async def _order(self, batch: Batch, namespace: Namespace, selectors: Sequence[Selector], reply: Reply) -> None:
        """Order barriers, again with new positions for as long as a member has heard of later ones first."""
        while True:
            positions = [self._node.versions.next() for _ in selectors]
            refused = await self._order_at(positions, batch, namespace, selectors)
            if refused is not ORDER_TOO_LATE:
                break
        count = len(positions)
        failures = dict.fromkeys(range(count), refused) if refused is not None else {}
        reply(BatchResult(range(count), versions=positions, failures=failures))

    async def _order_at(
        self, positions: list[int], batch: Batch, namespace: Namespace, selectors: Sequence[Selector]
    ) -> Failure | None:
        """Order barriers at these positions. Return why it could not be done, None if it was.

        Up to the first await nothing comes between: the members are told in the order of the positions.
        """
        node, name, epoch = self._node, namespace.policy.name, self._node.placement.epoch
        kinds = [selector.kind.value for selector in selectors]
        order = Batch(Operation.APPLY, name, batch.keys, flags=kinds, tokens=positions, timeout_s=batch.timeout_s)
        order.acknowledged, order.expire, order.region = batch.acknowledged, batch.expire, batch.region
        waiter = self._begin(order, namespace, selectors, batch.near)
        refused = await node.tell_all(order, until=self._keep(namespace, positions, selectors))
        if waiter is not None:
            await waiter
        if refused is not None:
            return refused
        if node.placement.epoch != epoch and node.placement.owner(seat_of(name)) != node.placement.me.id:
            return NOT_OWNER
        return NOT_READY if node.placement.fenced(node.clock.now()) else None

    async def _keep(self, namespace: Namespace, positions: Sequence[int], selectors: Sequence[Selector]) -> None:
        """Have the shared store keep barriers; if it cannot now, have every member remember that."""
        tier, barriers = self._node.l2_for(namespace), list(zip(positions, selectors, strict=True))
        if tier is not None and not await tier.note_barriers(namespace.policy.name, barriers):
            for position, selector in barriers:
                await self._node.tell_all(again(namespace.policy.name, position, selector))

    async def _obey(self, batch: Batch, namespace: Namespace, selectors: Sequence[Selector], reply: Reply) -> None:
        indices, refused = range(len(batch.keys)), None
        anew = not any(kind & AGAIN for kind in batch.flags)
        if anew and any(epoch_of(position) < self._node.placement.epoch for position in batch.tokens):
            refused = NOT_OWNER
        elif anew and min(batch.tokens) < namespace.barriers.position:
            refused = ORDER_TOO_LATE
        if refused is not None:
            reply(failed(batch, dict.fromkeys(indices, refused)))
            return
        tier = self._node.l2_for(namespace)
        if tier is not None and not anew:
            tier.remember_barriers(namespace.policy.name, list(zip(batch.tokens, selectors, strict=True)))
        waiter = self._begin(batch, namespace, selectors, None)
        if waiter is not None:
            await waiter
        if batch.acknowledged:
            await self._node.placement.outlive()
        reply(BatchResult(indices, versions=list(batch.tokens)))

    def _begin(
        self, order: Batch, namespace: Namespace, selectors: Sequence[Selector], by: Holder[asyncio.Future[None]] | None
    ) -> asyncio.Future[None] | None:
        """Make what the selectors cover untrue on this node and its sessions; return what to wait for, if anything."""
        for position, selector in zip(order.tokens, selectors, strict=True):
            self.note(namespace, position, selector, expire=order.expire, holdoff_s=namespace.held_s(order))
            if namespace.markers is not None:
                namespace.mark_selector(selector, order.region, self._node.clock.now())
        waiter = self._node.invalidations.bar(namespace, selectors, by)
        waiter = waiter if order.acknowledged else None
        if namespace.dependents is not None:
            return self._node.cascades.bar(namespace, selectors, waiter, order.acknowledged)
        return waiter

    def note(
        self,
        namespace: Namespace,
        position: int,
        selector: Selector,
        *,
        expire: bool = False,
        holdoff_s: float = 0.0,
    ) -> None:
        """Put a barrier in force in this node's memory.

        Args:
            namespace: Whose entries it covers.
            position: Its position.
            selector: What it covers.
            expire: Whether the namespace may serve what it covers for a while. Who brings the barrier again does not
                know that any more.
            holdoff_s: How long loads are held off at least.
        """
        now, version, stale_s = self._node.clock.now(), self._node.versions.next(), namespace.policy.stale_s
        if expire and stale_s:
            if not namespace.expiries.note(position, selector, now + stale_s, now):
                return
            namespace.sweep.expire(selector, version, now + stale_s, now)
        else:
            if namespace.expiries.knows(position, selector) or not namespace.barriers.note(position, selector):
                return
            namespace.sweep.bar(selector, version)
        namespace.invalidations += 1
        namespace.holdoff.note_barrier(selector, now, holdoff_s)
        namespace.fills.void_all()
        if selector.kind is SelectorKind.TAG:  # what a load under way brings may have any tags, so may what was absent
            namespace.negatives.void_all()
            if namespace.bloom is not None:
                namespace.bloom.suspend()
            namespace.flights.detach_if(lambda _key: True)
        else:
            namespace.flights.detach_if(lambda key: selector.covers(key, ()))
