"""Hands entries on when ownership moves: from the node that loses keys to those that have gained them.

Without it a new owner begins cold, and without an L2 what moved is lost. The former owner *offers*: it asks each new
owner whether that acts under the same view, and learns its clock. Then it sends what it has, hottest first, with
versions, remaining lives and the barriers' position, in batches, one after the other, for a short time.

When is it right to take such an entry? The right to act for a key goes from owner to owner, and nobody has it twice.
The former owner has applied the view, so it does nothing for the key any more; it takes the entry out of its memory
after that, and only if nothing is under way for it there. From then on only the new owner can make the entry untrue,
and it knows everything that it has done since its view began (`cachenode.core.gains`). So both must mean the same view,
and that the new owner may not act for the key yet (others have not given their word) does no harm: it is the value that
whoever acts first will find.

Whoever leaves on purpose resigns, and hands over by the next view, which leaves it out: its peers tell it.

Interleavings, each forced by a test in ``tests/node/test_handover.py``:

1. The new owner removes or writes the key, and then the entry comes, even when what was written is gone again
   (``test_removed_key_does_not_come_back``, ``test_written_and_evicted_key_does_not_come_back``).
2. A write or a removal is under way at the former owner when the view comes: what memory has is not what L2 has
   (``test_key_with_a_write_under_way_is_not_handed_over``, ``test_key_with_a_removal_under_way_is_not_handed_over``).
3. A barrier comes to one of the two first (``test_barrier_at_the_new_owner_covers_what_was_taken_before``,
   ``test_barrier_at_the_former_owner_stops_what_waits``), or after both (``test_barrier_after_the_hand_over``).
4. Another view comes at the new owner, or at the former one (``test_entry_for_another_view_is_refused``,
   ``test_next_view_ends_the_hand_over``). The new owner is behind: it is waited for
   (``test_offer_waits_for_the_new_owner``).
5. The former owner is fenced, or was when it resigned (``test_fenced_node_hands_nothing_over``).
6. The new owner reads the key from L2 before it may keep it, and answers what is newer than the entry that comes
   (``test_answered_from_l2_is_not_overtaken``); or it reads it in order to keep it
   (``test_key_that_is_being_filled_is_not_taken``).
7. An entry waits for long on its way: its life ends when it would have ended
   (``test_time_on_the_way_counts``), and so does the time until which reads may prolong it
   (``test_longest_life_goes_with_the_entry``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import NOT_OWNER, failed
from cachenode.core.parting import Parcel, Parting
from cachenode.core.settling import may_gain
from cachenode.errors import PeerUnavailable
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.reasons import Reason
from cachenode_api.records import DEPENDENT, HEADER, HEADER_BYTES, NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest
    from cachenode_api.view import View

__all__ = ["HANDOVER_S", "Handover"]

_log = structlog.get_logger(__name__)

HANDOVER_S = 2.5
"""How long a former owner goes on after it has learned of the view."""
WINDOW_S = 5.0
"""How long a new owner takes entries: what the former one needs, and as much again for learning of the view later."""
_SUCCESSION_S = 1.5
"""How long a node that leaves waits for the view without it. Milliseconds as a rule; with seeds, up to 0.3 s."""
_MOST_ENTRIES = 20_000
_BATCH_ENTRIES = 250
_BATCH_BYTES = 256 * 1024
_SLICE = 500
_OFFER_TIMEOUT_S = 1.0
_ASK_AGAIN_S = 0.02
_NEVER_AGAIN = frozenset({Reason.NOT_OWNER, Reason.INVALID_REQUEST, Reason.UNKNOWN_NAMESPACE})


class Handover:
    """The part of a node that hands entries over, and takes them.

    Args:
        node: The node.
        max_bytes: Most bytes handed over after one change of view, at most a quarter of memory; 0: none are, and
            none are taken.

    Attributes:
        sent: Entries that new owners were given.
        declined: Those of them that they did not take.
        accepted: Entries taken from former owners.
        refused: Entries of former owners that were not taken.
    """

    def __init__(self, node: Node, max_bytes: int) -> None:
        self.sent = 0
        self.declined = 0
        self.accepted = 0
        self.refused = 0
        self._node = node
        self._max_bytes = min(max_bytes, node.namespaces.memory.max_bytes // 4)
        self._parting = self._new_parting()
        self._epoch = 0
        self._until = -math.inf
        self._sending: asyncio.Task[None] | None = None
        node.placement.listeners.append(self._view_changed)
        if self._max_bytes:
            node.mover.parting = self._take_out

    def _new_parting(self) -> Parting:
        return Parting(self._max_bytes, _MOST_ENTRIES)

    def _view_changed(self, former: View | None, view: View) -> None:
        self._begin(view.epoch)
        if self._max_bytes and self._may_gain(former, view):
            self._node.namespaces.gains.begin(self._node.clock.now() + WINDOW_S)
        else:
            self._node.namespaces.gains.close()

    def _may_gain(self, former: View | None, view: View) -> bool:
        placement = self._node.placement
        me = placement.me.id
        if former is None or not placement.follows or me not in former.by_id:
            return True
        return may_gain(me, former, view)

    def _begin(self, epoch: int) -> None:
        """Hand over by another view from now on: what waits for the former one stays behind."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        self._parting = self._new_parting()
        self._epoch, self._until = epoch, self._node.clock.now() + HANDOVER_S

    # The former owner.

    def _take_out(self, namespace: Namespace, key: bytes, owner: str) -> None:
        """Keep an entry that is about to be dropped for its new owner, unless something is under way for the key."""
        node, now = self._node, self._node.clock.now()
        record = namespace.store.peek(key, now)
        if record is None or node.placement.outlived(now) or now >= self._until:
            return
        if key in namespace.writing or key in namespace.changing:
            return
        if namespace.sweep.active and not (record := namespace.sweep.judge(key, record, now)):
            return
        version = HEADER.unpack_from(record)[2]
        if namespace.tombstones.covers(key, version, now):
            return
        latest = namespace.slides.latest(key, version)
        parcel = Parcel(namespace.policy.name, key, record, namespace.barriers.position, latest)
        self._parting.add(owner, parcel, namespace.store.heat(record))

    def tick(self, now: float) -> None:
        """Begin to send once all that moved has been dropped. To be called several times a second."""
        self._node.namespaces.gains.tick(now)
        if len(self._parting) and not self._node.mover.moving and self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send(self._epoch))

    async def leave(self) -> None:
        """Hand everything over: this node has resigned, and the others know. Returns when it has, or cannot."""
        node, placement = self._node, self._node.placement
        if not self._max_bytes or placement.unsettled:  # unsettled: the others wait for the end of the lease
            return
        await placement.succession(_SUCCESSION_S)
        if placement.successors is None or placement.successors[0].epoch != placement.epoch + 1:
            return
        view, ring = placement.successors
        self._begin(view.epoch)
        node.mover.walk(ring)
        while node.mover.moving:
            node.mover.step(_SLICE)
            await asyncio.sleep(0)
        self.tick(node.clock.now())
        if self._sending is not None:
            await asyncio.wait([self._sending])

    def stop(self) -> None:
        """Send nothing more."""
        self._begin(self._epoch)

    async def _send(self, epoch: int) -> None:
        """Send what waits, to all new owners side by side."""
        parting, self._parting = self._parting, self._new_parting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._until - self._node.clock.now())):
                shares = parting.by_owner()
                await asyncio.gather(*(self._send_to(owner, epoch, share) for owner, share in shares.items()))
        _log.info("handed_over", epoch=epoch, sent=self.sent, declined=self.declined)

    async def _send_to(self, owner: str, epoch: int, share: deque[Parcel]) -> None:
        clocks = await self._offer(owner, epoch)
        while clocks is not None and share and not self._node.placement.outlived(self._node.clock.now()):
            batches = [self._batch(epoch, clocks, name, parcels) for name, parcels in _portion(share).items()]
            try:
                results = await asyncio.gather(*(self._node.ask(owner, batch) for batch in batches if batch.keys))
            except PeerUnavailable:
                return
            for result in results:
                if result.failures:
                    return
                self.sent += len(result.versions)
                self.declined += sum(not version for version in result.versions)

    async def _offer(self, owner: str, epoch: int) -> tuple[float, float] | None:
        """Wait until a new owner acts under the view. Return this node's time and its, None if it has another view.

        The owner's time was read before this node's, so what ends on this node's clock ends no later on the owner's.
        """
        offer = Batch(Operation.OFFER, DEFAULT_NAMESPACE, [b"offer"], timeout_s=_OFFER_TIMEOUT_S, epoch=epoch)
        while True:
            try:
                result = await self._node.ask(owner, offer)
            except PeerUnavailable:  # a node that has just come has no link yet
                pass
            else:
                if not result.failures:
                    return self._node.clock.now(), result.now_s
                if result.failures[0].reason in _NEVER_AGAIN:
                    return None
            await asyncio.sleep(_ASK_AGAIN_S)

    def _batch(self, epoch: int, clocks: tuple[float, float], name: str, parcels: Iterable[Parcel]) -> Batch:
        """Return the batch of some entries, without those that have become untrue while they waited."""
        namespace = self._node.namespaces.get(name)
        assert namespace is not None, "namespaces stay"
        mine, theirs = clocks
        keys, values, flags, versions, ttls_ms, latest_ms, positions = [], [], [], [], [], [], []
        for parcel in parcels:
            _, flag, version, deadline = HEADER.unpack_from(parcel.record)
            value, left_s = parcel.record[HEADER_BYTES:], deadline - mine
            if left_s <= 0 or namespace.barred(parcel.key, value, flag, parcel.position):
                continue
            keys.append(parcel.key)
            values.append(value)
            flags.append(flag)
            versions.append(version)
            ttls_ms.append(NO_TTL_MS if math.isinf(left_s) else max(1, int(left_s * 1_000)))
            latest_ms.append(0 if parcel.latest is None else max(1, int((parcel.latest - mine) * 1_000)))
            positions.append(parcel.position)
        return Batch(
            Operation.HAND_OVER,
            name,
            keys,
            values,
            flags,
            ttls_ms,
            tokens=versions,
            epoch=epoch,
            position=min(positions, default=0),
            since_s=theirs,
            latest_ms=latest_ms if any(latest_ms) else (),
        )

    # The new owner.

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Answer a former owner (see `Node.execute`)."""
        if batch.operation is Operation.OFFER:
            return self._node.run_parts(batch, reply, [([0], self._answer(batch, reply))])
        self._take_in(batch, namespace, reply)
        return None

    async def _answer(self, batch: Batch, reply: Reply) -> None:
        """Answer an offer once entries can be taken: under its view, and when nothing of before is in memory."""
        node, placement = self._node, self._node.placement
        while placement.epoch < batch.epoch or (  # noqa: ASYNC110 - two things that are milliseconds away
            placement.epoch == batch.epoch and node.mover.moving
        ):
            await asyncio.sleep(_ASK_AGAIN_S)
        now = node.clock.now()
        if self._refuses(batch.epoch, now):
            reply(failed(batch, {0: NOT_OWNER}))
        else:
            reply(BatchResult([0], versions=[batch.epoch], now_s=now))

    def _refuses(self, epoch: int, now: float) -> bool:
        placement = self._node.placement
        return placement.epoch != epoch or not placement.ready or placement.fenced(now)

    def _take_in(self, batch: Batch, namespace: Namespace, reply: Reply) -> None:
        node, now = self._node, self._node.clock.now()
        count = len(batch.keys)
        if self._refuses(batch.epoch, now):
            self.refused += count
            reply(failed(batch, dict.fromkeys(range(count), NOT_OWNER)))
            return
        since, position = min(batch.since_s, now), batch.position
        versions = []
        columns = zip(batch.keys, batch.values, batch.flags, batch.tokens, batch.ttls_ms, strict=True)
        for key, value, flags, version, ttl_ms in columns:
            deadline = math.inf if ttl_ms == NO_TTL_MS else since + ttl_ms / 1_000
            taken = (
                deadline > now
                and not flags & DEPENDENT  # its parents' owners would not know where it is
                and self._takes(namespace, key, version, now)
                and not namespace.barred(key, value, flags, position)
                and namespace.store.put(key, value, flags=flags, version=version, deadline=deadline, now=now)
            )
            versions.append(version if taken else 0)
        if batch.latest_ms:
            self._inherit_lives(batch, namespace, versions, since, now)
        node.namespaces.memory.make_room(namespace.policy.name)
        taken_in = sum(map(bool, versions))
        self.accepted += taken_in
        self.refused += count - taken_in
        reply(BatchResult(range(count), versions=versions))

    @staticmethod
    def _inherit_lives(batch: Batch, namespace: Namespace, taken: Sequence[int], since: float, now: float) -> None:
        """Take from a former owner when entries are over however often they are read."""

        def present(key: bytes) -> bool:
            return namespace.store.peek(key, now) is not None

        for key, version, latest_ms in zip(batch.keys, taken, batch.latest_ms, strict=True):
            if version and latest_ms:
                namespace.slides.inherit(key, version, since + latest_ms / 1_000, present)

    def _takes(self, namespace: Namespace, key: bytes, version: int, now: float) -> bool:
        """Return True if this node has gained the key with its view, and has done nothing for it since."""
        if not self._node.namespaces.gains.takes(namespace.policy.name, key, now):
            return False
        if key in namespace.writing or key in namespace.changing or namespace.fills.live(key):
            return False
        return self._node.placement.acquired(key) and not namespace.tombstones.covers(key, version, now)


def _portion(share: deque[Parcel]) -> dict[str, list[Parcel]]:
    """Take the next entries of a share, as many as a batch may have, by namespace."""
    found: dict[str, list[Parcel]] = {}
    size = 0
    for _ in range(min(len(share), _BATCH_ENTRIES)):
        parcel = share.popleft()
        found.setdefault(parcel.namespace, []).append(parcel)
        size += parcel.size
        if size >= _BATCH_BYTES:
            break
    return found
