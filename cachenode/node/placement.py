"""Which keys are this node's, under the view in force.

A view is applied whole and only if its epoch is higher. The ring is built anew for each view. Keys that moved away
are dropped from memory in slices afterwards (`Mover`); until that is done, hits are checked against every ring that
was in force meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from cachenode_api.ring import Ring
from cachenode_api.view import Member, View

__all__ = ["Placement"]


class Placement:
    """The view in force, seen by one member.

    Args:
        me: This node.
    """

    def __init__(self, me: Member) -> None:
        self.me = me
        self.view: View | None = None
        self.ring: Ring | None = None
        self.follows = True
        """True if no other view was in force between the former and this one."""
        self.alone = False
        """True if this node is the only member, so that it owns every key."""
        self.ready = False
        """True if there is a view and this incarnation of the node is in it."""
        self.lease_until = math.inf
        self.unsettled = False
        self.releasing: list[Callable[[View], Awaitable[None] | None]] = []
        self.listeners: list[Callable[[View | None, View], None]] = []
        """Called with the former and the new view, after it is in force."""

    @property
    def epoch(self) -> int:
        """Epoch of the view in force, 0 before the first."""
        return self.view.epoch if self.view else 0

    def apply(self, view: View, *, follows: bool | None = None) -> bool:
        """Put a view in force if it is newer. Return True if it is.

        Args:
            view: The view.
            follows: Whether no other view was in force in between, so that what did not move is still this node's. By
                default that is so if the epoch is the next one.
        """
        if view.epoch <= self.epoch:
            return False
        self.follows = view.epoch == self.epoch + 1 if follows is None else follows
        former, self.view, self.ring = self.view, view, Ring(view)
        self.alone = [member.id for member in view.members] == [self.me.id]
        seen = view.by_id.get(self.me.id)
        self.ready = seen is not None and seen.incarnation == self.me.incarnation
        for listener in self.listeners:
            listener(former, view)
        return True

    def fenced(self, now: float) -> bool:
        """Return True if this node's lease is over."""
        return now >= self.lease_until

    def gained(self, key: bytes) -> bool:
        """Return True if another node may still act for a key of this one."""
        return False

    async def settle(self) -> None:
        """Return when no other may act for this node's keys."""

    def owner(self, key: bytes) -> str | None:
        """Return the id of the key's owner, None before the first view."""
        if self.alone:
            return self.me.id
        return self.ring.owner(key) if self.ring else None

    def owns(self, key: bytes) -> bool:
        """Return True if this node owns the key."""
        return self.owner(key) == self.me.id
