"""Rounds: how a node lets a key be loaded that is not its own, while the owner cannot be reached.

Only the owner hears of every invalidation, so whoever stands in for it must not let a caller have what was loaded
before that caller asked: an invalidation may have been acknowledged in between. So a caller never joins a load under
way. It waits in the key's *queue*; when the load has ended the next *round* begins, for all who are in the queue then:
one of them leads and loads, the others share. At most one load of a key runs here at a time, and each began after
everybody who shares it had asked (C3). Nothing that it brings is stored: who is not the owner has no versions to give.

A token says by itself that a stand-in lent it, and which: it may come back to any node, for instance to the owner, who
has been found again meanwhile.

Interleavings, each forced by a test of the same name in ``tests/core/test_rounds.py``:

1. ``caller_during_a_load_shares_the_next``: it asked after the load began.
2. ``lost_round_goes_first``: a round ends without a value, its holder is gone or too slow; those who shared it are the
   first of the next one.
3. ``late_holder_means_nothing``: a value that comes after its round has ended is nobody's, above all not that of the
   round after, which may have begun because the value was not true any more.
4. ``tokens_of_two_nodes_differ``: two stand-ins, or two lives of one, never lend the same token: it would let a load
   that began too early pass for a later one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from typing import Generic, TypeVar

from cachenode_api.version import epoch_of, make_version
from cachenode_api.view import Member

__all__ = ["Place", "Round", "Rounds", "lender_mark"]

W = TypeVar("W", bound=Hashable)

Place = tuple[str, bytes]
"""Namespace and key."""

_LENT_BY_STAND_IN = 1 << 23
"""Set in a token where a version has the highest bit of its epoch: no cluster sees so many views."""


def lender_mark(token: int) -> int:
    """Return the mark of the stand-in that lent a token, 0 if the owner did."""
    epoch = epoch_of(token)
    return epoch if epoch & _LENT_BY_STAND_IN else 0


class Round(Generic[W]):
    """One load by a stand-in.

    Attributes:
        place: What is loaded.
        token: Known to the holder only.
        holder: Who loads, or None if nobody knows when it is gone.
        deadline: When the lease ends.
        sharing: Who gets what it brings, besides the holder; in the order in which they asked.
    """

    __slots__ = ("deadline", "holder", "place", "sharing", "token")

    def __init__(self, place: Place, token: int, holder: Hashable, deadline: float, sharing: dict[W, None]) -> None:
        self.place = place
        self.token = token
        self.holder = holder
        self.deadline = deadline
        self.sharing = sharing


class Rounds(Generic[W]):
    """The rounds of one node.

    Args:
        me: The node: its tokens say that they are its.
    """

    __slots__ = ("_by_place", "_by_token", "_lent", "_next_end", "_queues", "mark")

    def __init__(self, me: Member) -> None:
        self.mark = self.mark_of(me)
        self._lent = 0
        self._by_place: dict[Place, Round[W]] = {}
        self._by_token: dict[int, Round[W]] = {}
        self._queues: dict[Place, dict[W, None]] = {}
        self._next_end = math.inf

    @staticmethod
    def mark_of(member: Member) -> int:
        """Return what the tokens of a member have in common: a digest of its name and incarnation."""
        identity = f"{member.id} {member.incarnation}".encode()
        digest = int.from_bytes(blake2b(identity, digest_size=3).digest(), "big")
        return digest | _LENT_BY_STAND_IN

    def join(self, place: Place, caller: W) -> None:
        """Let a caller wait for the next round of a key."""
        self._queues.setdefault(place, {})[caller] = None

    def leave(self, place: Place, caller: W) -> None:
        """Let a caller wait no more."""
        queue, running = self._queues.get(place), self._by_place.get(place)
        if running is not None:
            running.sharing.pop(caller, None)
        if queue is not None and caller in queue:
            del queue[caller]
            if not queue:
                del self._queues[place]

    def queue(self, place: Place) -> list[W]:
        """Return who waits for the next round of a key."""
        return list(self._queues.get(place, ()))

    def dismiss(self, place: Place) -> list[W]:
        """Return who waits for the next round of a key, which is not going to begin."""
        return list(self._queues.pop(place, ()))

    def begin(self, place: Place, leader: W, holder: Hashable, deadline: float) -> Round[W]:
        """Begin a round, led by one of those who wait and shared by the others."""
        assert place not in self._by_place, "a key has one round at a time"
        sharing = self._queues.pop(place)
        del sharing[leader]
        self._lent += 1
        token = make_version(self.mark, self._lent)
        found = self._by_place[place] = self._by_token[token] = Round(place, token, holder, deadline, sharing)
        self._next_end = min(self._next_end, deadline)
        return found

    def of(self, place: Place, token: int) -> Round[W] | None:
        """Return the round that a holder means; None if it has ended, or never was this key's."""
        found = self._by_token.get(token)
        return found if found is not None and found.place == place else None

    def running(self, place: Place) -> Round[W] | None:
        """Return the round of a key that is under way."""
        return self._by_place.get(place)

    def end(self, ended: Round[W]) -> list[W]:
        """End a round that has an outcome; return whom it concerns."""
        self._forget(ended)
        return list(ended.sharing)

    def lose(self, lost: Round[W]) -> None:
        """End a round without an outcome: those who shared it come first in the next."""
        self._forget(lost)
        if lost.sharing:
            self._queues[lost.place] = lost.sharing | self._queues.get(lost.place, {})

    def release(self, holder: Hashable) -> list[Round[W]]:
        """Lose the rounds of a holder that is gone; return them."""
        return self._lose_all(lambda each: each.holder is holder)

    def expire(self, now: float) -> list[Round[W]]:
        """Lose the rounds whose lease is over; return them."""
        if now < self._next_end:
            return []
        lost = self._lose_all(lambda each: each.deadline <= now)
        self._next_end = min((each.deadline for each in self._by_token.values()), default=math.inf)
        return lost

    def clear(self) -> tuple[list[Round[W]], list[W]]:
        """End everything; return the rounds that were under way, and who waited for them or for the next."""
        rounds, queues = list(self._by_token.values()), list(self._queues.values())
        self._by_token.clear()
        self._by_place.clear()
        self._queues.clear()
        self._next_end = math.inf
        waiting: list[Iterable[W]] = [each.sharing for each in rounds]
        return rounds, [caller for some in [*waiting, *queues] for caller in some]

    def _lose_all(self, which: Callable[[Round[W]], bool]) -> list[Round[W]]:
        lost = [each for each in self._by_token.values() if which(each)]
        for each in lost:
            self.lose(each)
        return lost

    def _forget(self, ended: Round[W]) -> None:
        del self._by_token[ended.token]
        del self._by_place[ended.place]

    def __len__(self) -> int:
        return len(self._by_token)

    def __repr__(self) -> str:
        return f"<Rounds {len(self._by_token)} under way, {len(self._queues)} queues>"
