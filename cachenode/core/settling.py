"""When keys that a node has gained may be served: once nobody else may still act as their owner.

A view takes effect at each member in its own time. A member that has not heard of it yet, or whose clients still hold
copies, acts under an older one. So a node that gains keys *waits* for the word of every member that may be such a
one: "I act under epoch e, and nothing is left that I or my clients might serve from before". Who cannot speak is
waited for until its ownership lease must have run out, `lease_s` and 10 % after this node has learned of the view.

What a node has gained and not settled may pass on with the next view, to one that asks only this node. So its own word
is held back to the epoch of its oldest wait, and it does not leave on purpose while it waits. If it dies instead, its
lease at the registry began after it had gained the keys, and outlasts whatever it was waiting for.

Whom a wait is for:

- A member of this view and the former one: until its word. If a later view leaves it out and it is not linked, it is
  given up: the registry does that only when its lease is over.
- A member that the view leaves out although it is linked: until its word, or the end of its lease. It is evidently
  alive, and the registry may have been wrong about the time.
- A former incarnation of an id that is in the view again: the same. This concerns those who gain something in the same
  view. Its own keys stay with the id, and are its successor's to wait for (`replaced`).
- Not a member that is new in this view: it owned nothing. Except if this node has no former view, or has missed one:
  then all others may have been there before.
- Not a member that left on purpose: it has released everything before it says so.

Interleavings, each forced by a test of the same name in ``tests/core/test_settling.py``:

1. ``paused_former_owner``: a member of the view stands still; its keys wait for the end of its lease.
2. ``one_way_partition``: the owner of the keys is cut off from the registry, not from this node; it leaves the view
   while linked, and goes on until its lease is over.
3. ``restart_under_the_same_id``: the process before may still run; its successor waits out its lease.
4. ``view_while_unsettled``: a second view gives this node more keys before the first is settled; the first stay
   gained, and each has its own end.
5. ``clock_step_prunes_a_live_member``: the registry leaves out a member whose lease is not over, and takes it back.
6. ``two_new_nodes_at_once``: both are in a view for the first time and wait for each other; both answer at once.
7. ``keys_that_pass_through_an_unsettled_node``: the node that gained keys loses them before they are settled; its word
   for the later view must not be given before that.

Not covered: a registry whose clock steps while nobody but a new node asks it. That node then knows no member that it
could wait for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cachenode_api.ring import Ring
from cachenode_api.view import Member, View

__all__ = ["LEASE_MARGIN", "Identity", "Settling", "identity", "may_gain"]

Identity = tuple[str, str]
"""Id and incarnation."""

LEASE_MARGIN = 0.1
"""How far two clocks' rates may differ: who holds a lease counts so much less, who waits for its end so much more."""


def identity(member: Member) -> Identity:
    """Return a member's id and incarnation."""
    return member.id, member.incarnation


@dataclass(slots=True)
class _Wait:
    """For whom the keys gained with one view wait.

    Attributes:
        epoch: The view's.
        ring: The ring before; None if this node owned nothing then that still counts.
        members: Given up when a view leaves them out and they are not linked.
        held: Not given up before the end of their leases.
        until: When all leases are over; None until the first tick.
    """

    epoch: int
    ring: Ring | None
    members: set[Identity]
    held: set[Identity]
    until: float | None = None


class Settling:
    """The waits of one node. It knows neither time nor links but by what it is told.

    Args:
        lease_s: Length of an ownership lease.

    Attributes:
        unsettled: True while something gained may not be served yet.
    """

    def __init__(self, lease_s: float) -> None:
        self.unsettled = False
        self._wait_s = lease_s * (1 + LEASE_MARGIN)
        self._waits: list[_Wait] = []
        self._words: dict[Identity, int] = {}
        self._left: set[Identity] = set()
        self._linked: dict[str, str] = {}

    @property
    def waits_since(self) -> int | None:
        """Epoch of the oldest wait, None if there is none: this node's word may not go beyond."""
        return self._waits[0].epoch if self._waits else None

    @property
    def former_life(self) -> bool:
        """True while a former incarnation of this node, or a client of it, may still serve something."""
        return any(not incarnation for wait in self._waits for _, incarnation in wait.held)

    def blocks(self, me: str, key: bytes) -> bool:
        """Return True if a key of this node was gained, and may not be served yet."""
        return any(wait.ring is None or wait.ring.owner(key) != me for wait in self._waits)

    def change(
        self,
        me: Member,
        former: View | None,
        view: View,
        *,
        ring: Ring | None = None,
        follows: bool = True,
        replaced: bool = False,
    ) -> None:
        """Take note of a new view.

        Args:
            me: This node.
            former: The view in force until now.
            view: The new view.
            ring: The former view's ring.
            follows: False if other views may have been in force in between.
            replaced: True if a former incarnation of this node may still act.
        """
        mine = identity(me)
        present, before = _others(view, mine), _others(former, mine)
        for wait in self._waits:
            wait.held |= self._may_act(wait.members - present, view)
            wait.members &= present
        fresh = former is None or not follows or mine not in map(identity, former.members)
        if fresh or former is None or may_gain(me.id, former, view):
            held = self._may_act(before - present, view)
            if replaced:
                held.add((me.id, ""))
            members = present if fresh else present & before
            self._waits.append(_Wait(view.epoch, None if fresh else ring, set(members), held))
        self._resolve()
        self._forget(present)

    def _may_act(self, gone: Collection[Identity], view: View) -> set[Identity]:
        """Return who of those that have left the view may have a lease still: they were replaced, or are linked."""
        return {who for who in gone if who[0] in view.by_id or self._linked.get(who[0]) == who[1]}

    def _forget(self, present: set[Identity]) -> None:
        """Forget words of those that nobody will ask for again."""
        known = present.union(self._linked.items(), *(wait.members | wait.held for wait in self._waits))
        self._words = {who: epoch for who, epoch in self._words.items() if who in known}
        self._left &= known

    def _resolve(self) -> None:
        for wait in self._waits:
            for waited_for in (wait.members, wait.held):
                waited_for.difference_update(
                    [who for who in waited_for if who in self._left or self._words.get(who, 0) >= wait.epoch]
                )
        self._waits = [wait for wait in self._waits if wait.members or wait.held]
        self.unsettled = bool(self._waits)

    # What is heard.

    def told(self, who: Identity, epoch: int) -> None:
        """Take a peer's word that nothing is left from before an epoch."""
        self._words[who] = max(epoch, self._words.get(who, 0))
        self._resolve()

    def left(self, who: Identity) -> None:
        """Take note that a peer leaves on purpose, with nothing left at all."""
        self._left.add(who)
        self._resolve()

    def all_left(self, me: Member, view: View) -> bool:
        """Return True if nobody else of a view stays."""
        return _others(view, identity(me)) <= self._left

    def linked(self, who: Identity) -> None:
        """Take note of a link, in place of one to another incarnation."""
        self._linked[who[0]] = who[1]

    def unlinked(self, who: Identity) -> None:
        """Take note that a link is down."""
        if self._linked.get(who[0]) == who[1]:
            del self._linked[who[0]]

    def tick(self, now: float) -> None:
        """End the waits whose time is over. Their time begins with the first tick after the view."""
        if not self._waits:
            return
        for wait in self._waits:
            if wait.until is None:
                wait.until = now + self._wait_s
            elif now >= wait.until:
                wait.members.clear()
                wait.held.clear()
        self._resolve()

    def __repr__(self) -> str:
        waits = {wait.epoch: sorted(wait.members | wait.held) for wait in self._waits}
        return f"<Settling unsettled={self.unsettled} waits={waits}>"


def _others(view: View | None, mine: Identity) -> set[Identity]:
    return {identity(member) for member in view.members} - {mine} if view is not None else set()


def may_gain(me: str, former: View, view: View) -> bool:
    """Return False if no key can have come to a member: it has no new points on the ring, and no other's have gone."""
    if (former.ring_seed, former.vnodes, former.ring_hash) != (view.ring_seed, view.vnodes, view.ring_hash):
        return True
    for member in former.members:
        present = view.by_id.get(member.id)
        grown = (present.weight if present is not None else 0) - member.weight
        if grown > 0 if member.id == me else grown < 0:
            return True
    return False
