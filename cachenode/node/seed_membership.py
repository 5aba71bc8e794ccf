"""Membership without a registry: members find each other by a list of addresses or a DNS name.

Every node dials every seed. The live members that a node sees are itself and the peers it has a link to (a lost link
counts as live until the lease has passed). The live member with the smallest id is the coordinator: it alone makes
views, each with an epoch above every epoch it has heard of; the others take the newest view that names them. So while
everybody can talk to everybody there is one sequence of views.

Cases, each with its test in ``tests/node/test_seed_membership.py``:

1. Two nodes start at the same moment: each waits for its seeds (at most `bootstrap_wait_s`), and then only the
   smaller makes a view, with both (``test_two_nodes_that_start_together_end_in_one_view``).
2. A node starts alone because its seeds are down, and they come later: the links come up, the coordinator makes a
   view with all (``test_late_seeds_join``).
3. Two halves of a partition each have a view; when it heals, the coordinator has heard both epochs and makes a higher
   one with all (``test_halves_merge``).
4. L2, which counts the epochs, is away when the first view is made: the view is made again, with a sure epoch, as
   soon as it is back (``test_epoch_is_made_sure_later``).
5. The coordinator dies: after its lease the next smallest makes the views (``test_coordinator_is_replaced``).

6. A node is cut off from most members: its ownership lease, which is as fresh as the answers to its heartbeats from a
   majority of its view, runs out (``test_lease_needs_a_majority``). Answers of members that have told a newer view do
   not count (``test_members_that_went_on_without_this_node_do_not_count``).
7. A member restarts while the others still have its former incarnation in their view: that one may still act, so the
   keys wait for the end of its lease (``test_restart_waits_for_the_former_life``).
8. A member says that it leaves, and then a second link to it comes up, dialled before: it is not counted as live again
   (``test_link_that_comes_after_the_farewell``).

Not promised: one sequence of views *across* a partition, in which each part makes a view of its own and has a majority
of that. That needs an arbiter; use a registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Collection

import structlog

from cachenode.core.settling import LEASE_MARGIN
from cachenode.node.membership import SETTLE_S
from cachenode.node.placement import Placement
from cachenode.ports import Clock
from cachenode_api.view import Member, View

__all__ = ["SeedMembership"]

_log = structlog.get_logger(__name__)

_TICK_S = 0.25
_REMEMBERED_S = 60.0
"""Longer than a node that leaves takes to end."""


class SeedMembership:
    """Keeps the view in step with the peers that this node is linked to.

    Args:
        placement: Gets the views and the lease.
        clock: For leases.
        missing: Returns the seeds at which nobody has been met yet.
        epoch_after: Returns an epoch above the given one, and whether it is surely above those of former lives too.
            With an L2 the epochs are counted there, since its entries carry versions of former lives; while it is
            away that is not sure.
        lease_s: How long a peer counts as live after its link was lost, and how long answers make an ownership lease.
        bootstrap_wait_s: Longest wait for the seeds before the first view.
        farewell: Tells the peers that this node leaves.
    """

    def __init__(
        self,
        placement: Placement,
        clock: Clock,
        *,
        missing: Callable[[], Collection[str]],
        epoch_after: Callable[[int], Awaitable[tuple[int, bool]]],
        lease_s: float = 4.0,
        bootstrap_wait_s: float = 2.0,
        farewell: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._placement = placement
        self._clock = clock
        self._missing = missing
        self._epoch_after = epoch_after
        self._lease_s = lease_s
        self._bootstrap_wait_s = bootstrap_wait_s
        self._farewell = farewell
        self._linked: dict[str, Member] = {}
        self._lost: dict[str, tuple[Member, float]] = {}
        self._left: dict[Member, float] = {}
        """Who has said that it leaves, and when."""
        self._heard: View | None = None
        self._told: dict[Member, int] = {}
        """The newest epoch that each linked peer has told."""
        self._answered: dict[Member, float] = {}
        """When the newest heartbeat that each peer has answered was sent."""
        self._former_life = False
        """True if a peer has a view with another incarnation of this node."""
        self._sure = True
        self._started_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to make or take views. Returns at once; `Placement.ready` tells when the node is in."""
        self._started_at = self._clock.now()
        self._task = asyncio.create_task(self._tick_forever())

    async def stop(self) -> None:
        """Stop: resign, and say farewell, unless there are gained keys for which others may act."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._placement.resign()
        if not await self._placement.settled_within(SETTLE_S):
            _log.warning("left_unsettled", detail="the others wait for the end of the lease")
        elif self._farewell is not None:
            await self._farewell()

    async def close(self) -> None:
        """Nothing to give back."""

    async def _tick_forever(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(_TICK_S)

    async def tick(self) -> None:
        """Make a new view if this node is the coordinator and the live members are not those of the view."""
        now = self._clock.now()
        self._lost = {peer: lost for peer, lost in self._lost.items() if now - lost[1] < self._lease_s}
        self._left = {peer: at for peer, at in self._left.items() if now - at < _REMEMBERED_S}
        view = self._placement.view
        if view is None and self._missing() and now - self._started_at < self._bootstrap_wait_s:
            return
        live = self._live()
        if min(live) != self._placement.me.id:
            return
        if view is not None and set(live.values()) == set(view.members) and self._sure:
            return
        above = max(self._placement.epoch, self._heard.epoch if self._heard else 0)
        epoch, sure = await self._epoch_after(above)
        if view is not None and not self._sure and not sure:
            return
        self._sure = sure
        known = view or self._heard
        seed = known.ring_seed if known else secrets.token_bytes(16)
        self._apply(View(epoch, seed, tuple(self._live().values())))

    def _live(self) -> dict[str, Member]:
        """Return the live members: this node, the linked peers, and those lost only now that are in the view."""
        live = {self._placement.me.id: self._placement.me}
        view = self._placement.view
        for peer, (member, _) in self._lost.items():
            if view is not None and view.by_id.get(peer) == member:
                live[peer] = member
        return live | self._linked

    def _apply(self, view: View) -> None:
        if not self._placement.apply(view, replaced=self._former_life):
            return
        self._former_life = False
        known = {*view.members, *self._linked.values()}
        self._answered = {peer: at for peer, at in self._answered.items() if peer in known}
        self._told = {peer: epoch for peer, epoch in self._told.items() if peer in known}
        self._renew_lease()
        _log.info("view", epoch=view.epoch, members=[member.id for member in view.members])

    def _renew_lease(self) -> None:
        """Make the lease as fresh as the answers of a majority of the view, of which this node is one."""
        view, me = self._placement.view, self._placement.me
        if view is None:
            return
        others = [member for member in view.members if member != me]
        heard = sorted(
            (self._answered.get(peer, -math.inf) for peer in others if self._told.get(peer, 0) <= view.epoch),
            reverse=True,
        )
        needed = len(view.members) // 2  # besides this node
        if not others:
            until = math.inf
        else:
            until = heard[needed - 1] + self._lease_s * (1 - LEASE_MARGIN) if len(heard) >= needed else -math.inf
        self._placement.set_lease(until)

    # As `PeerEvents`.

    def peer_up(self, peer: Member) -> None:
        """Count a peer as live, unless it leaves."""
        if peer in self._left:
            return
        self._linked[peer.id] = peer
        self._lost.pop(peer.id, None)
        self._placement.peer_linked(peer)

    def peer_down(self, peer: Member) -> None:
        """Count a peer as live until its lease has passed."""
        self._placement.peer_unlinked(peer)
        self._told.pop(peer, None)
        if self._linked.get(peer.id) == peer:
            del self._linked[peer.id]
            self._lost[peer.id] = (peer, self._clock.now())

    def peer_view(self, peer: Member, view: View) -> None:
        """Take a newer view if this incarnation of this node is in it; else remember its epoch, to go above it."""
        if self._heard is None or view.epoch > self._heard.epoch:
            self._heard = view
        self._told[peer] = view.epoch
        self._placement.peer_view(view)
        seen = view.by_id.get(self._placement.me.id)
        if seen == self._placement.me:
            self._apply(view)
        elif seen is not None and view.epoch > self._placement.epoch:
            self._former_life = True

    def peer_alive(self, peer: Member, sent_at: float) -> None:
        """Renew the ownership lease."""
        self._answered[peer] = max(sent_at, self._answered.get(peer, -math.inf))
        self._renew_lease()

    def peer_settled(self, peer: Member, epoch: int) -> None:
        """Pass it on."""
        self._placement.peer_settled(peer.id, peer.incarnation, epoch)

    def peer_leaving(self, peer: Member) -> None:
        """Count a peer as gone at once."""
        self._placement.peer_left(peer)
        self._left[peer] = self._clock.now()
        self._linked.pop(peer.id, None)
        self._lost.pop(peer.id, None)
