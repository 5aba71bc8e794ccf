"""Membership through a registry: a lease renewed every second, and whatever view the registry says is in force.

The registry's script prunes, admits and counts epochs in one step, so all members see one sequence of views, and two
nodes that start at the same moment end in one view. A registry that cannot be reached changes nothing: nobody joins,
and the view stays, until the ownership lease runs out.

Order matters in three places, each with its test in ``tests/node/test_membership.py``:

1. The lease counts from the moment *before* a renewal was sent: the registry may have done it at once and the answer
   be late (``test_lease_counts_from_before_the_call``). A process that was frozen meanwhile is fenced when it wakes,
   whatever answer waits for it (``test_frozen_node_is_fenced_until_it_has_renewed``).
2. A new view is in force *before* the lease that came with it: otherwise the old view would be acted by for longer
   (``test_view_is_in_force_before_the_lease``).
3. Who leaves ends its own service, then says so to its peers, then gives the lease back: a peer that sees the view
   without it need not wait any more (``test_stop_resigns_says_farewell_and_gives_the_lease_back``). Whose gained keys
   are not settled does neither: others may still act for them, and only this node knows
   (``test_unsettled_node_lets_its_lease_run_out``). Nor does a node that has no view yet: what it does not know of is
   a former life of its own, whose place it may have taken at the registry (``test_node_without_a_view_leaves_nothing``;
   the model in ``tests/core/test_settling.py`` found this).

A registry that hangs, as a frozen Redis does until another has its place, costs each call its whole time limit. That
time is part of the pause before the next one, or a lease would end although the registry came back in time for it
(``test_call_that_hung_is_followed_soon``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from cachenode.core.settling import LEASE_MARGIN
from cachenode.errors import RegistryError
from cachenode.node.placement import Placement
from cachenode.ports import LOST_HISTORY_STRIDE, Clock, Registry, Renewal
from cachenode_api.view import Member, View

__all__ = ["SETTLE_S", "RegistryMembership"]

_log = structlog.get_logger(__name__)

SETTLE_S = 1.0
"""How long a node that leaves waits for its gained keys to be settled. Peers' words take milliseconds."""


class RegistryMembership:
    """Keeps this node a member, and its view fresh.

    Args:
        registry: Where members meet.
        placement: Gets the views and the lease.
        clock: For the lease.
        lease_s: Length of the lease that the registry gives.
        renew_s: Time between renewals; a quarter of the lease leaves three to be lost.
        farewell: Tells the peers that this node leaves.
        changes: Yields the epochs of views as the registry hears of them, for ever; None if it does not hear of any.
    """

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        clock: Clock,
        *,
        lease_s: float = 4.0,
        renew_s: float = 1.0,
        farewell: Callable[[], Awaitable[None]] | None = None,
        changes: Callable[[], AsyncIterator[int]] | None = None,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._clock = clock
        self._lease_s = lease_s * (1 - LEASE_MARGIN)
        self._renew_s = renew_s
        self._farewell = farewell
        self._poke = asyncio.Event()
        self._changes = changes
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False
        self._linked: set[str] = set()
        self._told: set[int] = set()
        """Epochs that peers told since the view in force was applied."""
        self._unheard = False
        """True if a link was lost since then."""

    async def start(self) -> None:
        """Begin to renew. Returns at once; `Placement.ready` tells when the node is in."""
        self._placement.set_lease(self._clock.now())
        self._tasks = [asyncio.create_task(self._renew_forever())]
        if self._changes is not None:
            self._tasks.append(asyncio.create_task(self._listen(self._changes())))

    async def stop(self) -> None:
        """Resign, say farewell, and give the lease back, so that the others need not wait for its end."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        joined = self._placement.view is not None
        self._placement.resign()
        if not joined:  # its first renewal may be done, and have ended the lease of a process that still acts by it
            return
        if not await self._placement.settled_within(SETTLE_S):
            _log.warning("left_unsettled", detail="the lease is left to run out")
            return
        if self._farewell is not None:
            await self._farewell()
        with contextlib.suppress(RegistryError):
            self._placement.departure = await self._registry.leave(self._placement.me)
        if self._farewell is not None:
            await self._farewell()  # again: those who asked the registry at the first one may have been too early

    async def close(self) -> None:
        """Close the registry."""
        await self._registry.close()

    async def _renew_forever(self) -> None:
        while True:
            sent_at, pause_s = self._clock.now(), self._renew_s
            try:
                renewal = await self._registry.renew(self._placement.me, self._placement.view)
            except RegistryError as error:
                if not self._failing:
                    _log.warning("registry_unreachable", detail=str(error))
                self._failing = True
                pause_s = _pause_s(self._renew_s, self._clock.now() - sent_at)
            except Exception as error:  # noqa: BLE001 - a defect, which must not cost the node its lease for good
                _log.error("renewal_failed", error_type=type(error).__name__, exc_info=error)
            else:
                if self._failing:
                    _log.info("registry_back", epoch=renewal.view.epoch)
                self._failing = False
                self._take(renewal, sent_at)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # wait_for swallows a cancellation in Python 3.11
                    await self._poke.wait()
            self._poke.clear()

    async def _listen(self, changes: AsyncIterator[int]) -> None:
        """Renew at once when the registry has a newer view."""
        async for epoch in changes:
            if epoch > self._placement.epoch:
                self._poke.set()

    def _take(self, renewal: Renewal, sent_at: float) -> None:
        placement, view = self._placement, renewal.view
        if placement.apply(view, follows=self._follows(view), replaced=renewal.replaced):
            self._told.clear()
            self._unheard = False
            _log.info("view", epoch=view.epoch, members=[member.id for member in view.members])
        if view.epoch == placement.epoch:
            placement.set_lease(max(placement.lease_until, sent_at + self._lease_s))

    def _follows(self, view: View) -> bool:
        """Return True if no other view can have been in force since the present one.

        The epoch is the next one; or the registry has lost its history and took over the members that all know, and no
        peer has told of a later epoch meanwhile, all links having been up. Otherwise somebody may have owned this
        node's keys in between, and what it has in memory may be old.
        """
        former = self._placement.view
        if former is None or view.epoch == former.epoch + 1:
            return True
        lost_history = view.epoch == former.epoch + LOST_HISTORY_STRIDE and view.members == former.members
        others = {member.id for member in former.members} - {self._placement.me.id}
        heard = not self._unheard and others <= self._linked
        return lost_history and heard and all(told <= former.epoch or told == view.epoch for told in self._told)

    # As `PeerEvents`: a peer that knows more is a reason to ask the registry now.

    def peer_up(self, peer: Member) -> None:
        """Take note: the registry says who is a member, but a peer that is linked tells its views."""
        self._linked.add(peer.id)
        self._placement.peer_linked(peer)

    def peer_down(self, peer: Member) -> None:
        """Take note: what views the peer has now is not known."""
        self._linked.discard(peer.id)
        self._unheard = True
        self._placement.peer_unlinked(peer)

    def peer_view(self, peer: Member, view: View) -> None:
        """Ask the registry at once if a peer has a newer view."""
        self._told.add(view.epoch)
        self._placement.peer_view(view)
        if view.epoch > self._placement.epoch:
            self._poke.set()

    def peer_alive(self, peer: Member, sent_at: float) -> None:
        """Do nothing: the lease is the registry's."""

    def peer_settled(self, peer: Member, epoch: int) -> None:
        """Pass it on."""
        self._placement.peer_settled(peer.id, peer.incarnation, epoch)

    def peer_leaving(self, peer: Member) -> None:
        """Ask the registry at once: the peer gives its lease back."""
        self._placement.peer_left(peer)
        self._poke.set()


def _pause_s(renew_s: float, took_s: float) -> float:
    """Return how long to wait after a renewal that failed: they begin `renew_s` apart, unless they take longer."""
    return max(renew_s / 4, renew_s - took_s)
