"""Membership through a registry: a lease renewed every second, and whatever view the registry says is in force.

The registry's script prunes, admits and counts epochs in one step, so all members see one sequence of views, and two
nodes that start at the same moment end in one view. A registry that cannot be reached changes nothing: nobody joins,
and the view stays.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from cachenode.errors import RegistryError
from cachenode.node.placement import Placement
from cachenode.ports import LOST_HISTORY_STRIDE, Registry
from cachenode_api.view import Member, View

__all__ = ["RegistryMembership"]

_log = structlog.get_logger(__name__)


class RegistryMembership:
    """Keeps this node a member, and its view fresh.

    Args:
        registry: Where members meet.
        placement: Gets the views.
        renew_s: Time between renewals; a quarter of the lease leaves three to be lost.
    """

    def __init__(self, registry: Registry, placement: Placement, *, renew_s: float = 1.0) -> None:
        self._registry = registry
        self._placement = placement
        self._renew_s = renew_s
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._linked: set[str] = set()
        self._told: set[int] = set()
        """Epochs that peers told since the view in force was applied."""
        self._unheard = False
        """True if a link was lost since then."""

    async def start(self) -> None:
        """Begin to renew. Returns at once; `Placement.ready` tells when the node is in."""
        self._task = asyncio.create_task(self._renew_forever())

    async def stop(self) -> None:
        """Give the lease back, so that the others need not wait for its end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(RegistryError):
            await self._registry.leave(self._placement.me)

    async def close(self) -> None:
        """Close the registry."""
        await self._registry.close()

    async def _renew_forever(self) -> None:
        while True:
            try:
                view = await self._registry.renew(self._placement.me, self._placement.view)
            except RegistryError as error:
                if not self._failing:
                    _log.warning("registry_unreachable", detail=str(error))
                self._failing = True
            else:
                if self._failing:
                    _log.info("registry_back", epoch=view.epoch)
                self._failing = False
                if self._placement.apply(view, follows=self._follows(view)):
                    self._told.clear()
                    self._unheard = False
                    _log.info("view", epoch=view.epoch, members=[member.id for member in view.members])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renew_s):  # wait_for swallows a cancellation in Python 3.11
                    await self._poke.wait()
            self._poke.clear()

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

    def peer_down(self, peer: Member) -> None:
        """Take note: what views the peer has now is not known."""
        self._linked.discard(peer.id)
        self._unheard = True

    def peer_view(self, peer: Member, view: View) -> None:
        """Ask the registry at once if a peer has a newer view."""
        self._told.add(view.epoch)
        if view.epoch > self._placement.epoch:
            self._poke.set()

    def peer_leaving(self, peer: Member) -> None:
        """Ask the registry at once: the peer gives its lease back."""
        self._poke.set()
