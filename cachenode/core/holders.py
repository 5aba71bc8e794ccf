"""Who may hold copies of this node's values in a near cache, and whose word a writer still waits for.

A *holder* is one session with a near cache. It serves its copies only under a live lease that this node grants, so a
writer who wants nobody to serve the older value waits until every holder that may have the key has acknowledged the
invalidation, or its lease is over. What waits together for several holders is a *round*. Acknowledgements are
cumulative: a number on the session's stream says that everything up to it has been acted on.

`Exposure` says who may have which key. It says too much rather than too little: a client does not tell when it evicts
a copy. It forgets by generations: a copy is used for `MAX_AGE_S` at most, so what was noted two generations ago
is nobody's any more.

Interleavings, each forced by a test of the same name in ``tests/core/test_holders.py``:

1. ``laggard_loses_its_lease``: a holder that does not acknowledge gets no further grant, so it holds up the writers of
   one lease's time and no more.
2. ``grant_after_acknowledging``: once it has caught up it is granted again.
3. ``ended_stream_keeps_its_lease``: the node sees a stream end before the client does; until the lease is over the
   client may still serve, so the writer waits.
4. ``exposed_again_after_invalidation``: a holder that reads the new value is exposed again, and told again.
5. ``second_writer_waits_too``: a holder has been told and has not acknowledged yet, so it may still serve the copy. The
   next writer of the key need not tell it again, but waits as the first does, or did until its time was over.
6. ``told_again_before_acknowledging``: an acknowledgement of the first word does not count for the second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from cachenode_api.selectors import Selector

__all__ = ["GENERATION_S", "MAX_AGE_S", "NEAR_LEASE_S", "Exposure", "Holder", "Round"]

W = TypeVar("W")

MAX_EXPOSED = 250_000
"""Keys of one namespace that may be noted in a generation, some 30 MB: what is read beyond that is not copied."""

NEAR_LEASE_S = 2.0
"""How long a client may serve its copies after it asked for the lease; granted anew every half second."""
DRIFT = 0.1
"""How far two clocks' rates may differ: the client counts so much less, the node so much more."""
_LAG_S = 0.2
"""A holder that has not acknowledged for so long gets no grants."""
MAX_AGE_S = 60.0
"""Longest use of one copy."""
GENERATION_S = MAX_AGE_S * (1 + DRIFT) + 2 * NEAR_LEASE_S
"""Length of a generation: longer than any copy is used, with the time in which its reply was on the way."""


class Round(Generic[W]):
    """One wait for several holders.

    Attributes:
        left: How many have neither acknowledged nor lost their lease.
        waiter: To be told when none is left.
    """

    __slots__ = ("left", "waiter")

    def __init__(self, waiter: W) -> None:
        self.left = 0
        self.waiter = waiter


class Holder(Generic[W]):
    """One session with a near cache, as the node sees it.

    Attributes:
        until: When its lease is over, on the node's clock.
        sequence: Number of the last invalidation sent.
        acknowledged: Number of the last one that the client has acted on.
        tell: Sends an invalidation of keys and selectors of a namespace over the session's stream.
    """

    __slots__ = ("_owed", "_pending", "_told", "acknowledged", "sequence", "tell", "until")

    def __init__(self, tell: Callable[[str, Sequence[bytes], Sequence[Selector]], None]) -> None:
        self.tell = tell
        self.until = -math.inf
        self.sequence = 0
        self.acknowledged = 0
        self._owed = 0  # to be acknowledged before there is another lease
        self._pending: deque[tuple[int, float, Round[W]]] = deque()
        self._told: deque[tuple[int, float, Exposure[W], Sequence[bytes]]] = deque()

    def granted(self, now: float, longest_s: float) -> float:
        """Grant the lease anew. Return its length, counted from the client's question; 0 if there is none.

        Args:
            now: When the question came.
            longest_s: How long the node itself may act as owner.
        """
        if self.acknowledged < self._owed or (self._pending and now - self._pending[0][1] > _LAG_S):
            return 0.0
        if self._told and now - self._told[0][1] > NEAR_LEASE_S:  # nobody waits yet, but it must not go on for ever
            return 0.0
        lease_s = min(NEAR_LEASE_S, longest_s / (1 + DRIFT))
        if lease_s <= 0:
            return 0.0
        self.until = max(self.until, now + lease_s * (1 + DRIFT))
        return lease_s * (1 - DRIFT)

    def drop(self, namespace: str, keys: Sequence[bytes], exposure: Exposure[W], now: float) -> None:
        """Tell it to drop keys, and take note that it may serve them until it has acknowledged that."""
        self.tell(namespace, keys, ())
        if now < self.until:
            self._told.append((self.sequence, now, exposure, keys))
            exposure.told(keys, self)

    def lost(self) -> None:
        """Its stream has ended, and nothing more will be heard of it: from now on its lease must run out."""
        self.sequence += 1

    def awaited_by(self, waiting: Round[W], now: float) -> bool:
        """Let a round wait for the last invalidation sent. Return False if there is no need: the lease is over."""
        if self.until <= now or self.acknowledged >= self.sequence:
            return False
        waiting.left += 1
        self._pending.append((self.sequence, now, waiting))
        return True

    def heard(self, acknowledged: int) -> list[Round[W]]:
        """Take an acknowledgement; return the rounds that are complete by it."""
        self.acknowledged = max(self.acknowledged, min(acknowledged, self.sequence))
        self._forget_told(self.acknowledged)
        done = []
        while self._pending and self._pending[0][0] <= self.acknowledged:
            done += self._settle()
        return done

    def expired(self, now: float) -> list[Round[W]]:
        """Return the rounds that are complete because the lease is over."""
        if now < self.until:
            return []
        if self._pending or self._told:
            self._owed = self.sequence
        self._forget_told(self.sequence)
        done = []
        while self._pending:
            done += self._settle()
        return done

    def end(self) -> list[Round[W]]:
        """The client holds nothing any more and has said so. Return the rounds that are complete by it."""
        self.until = -math.inf
        return self.expired(0.0)

    def _forget_told(self, last: int) -> None:
        while self._told and self._told[0][0] <= last:
            _, _, exposure, keys = self._told.popleft()
            exposure.heard(keys, self)

    def _settle(self) -> list[Round[W]]:
        _, _, waiting = self._pending.popleft()
        waiting.left -= 1
        return [] if waiting.left else [waiting]

    @property
    def awaited(self) -> int:
        """How many rounds wait for it."""
        return len(self._pending)

    def __repr__(self) -> str:
        return f"<Holder sent={self.sequence} acknowledged={self.acknowledged} awaited={self.awaited}>"


class Exposure(Generic[W]):
    """Who may hold which key of one namespace."""

    __slots__ = ("_old", "_told", "_young", "holders")

    def __init__(self) -> None:
        self._young: dict[bytes, Holder[W] | set[Holder[W]]] = {}
        self._old: dict[bytes, Holder[W] | set[Holder[W]]] = {}
        self._told: dict[bytes, dict[Holder[W], int]] = {}  # how often, without an acknowledgement yet
        self.holders: dict[Holder[W], None] = {}
        """Those that may hold anything."""

    @property
    def full(self) -> bool:
        """True if nothing more may be noted in this generation."""
        return len(self._young) >= MAX_EXPOSED

    def note(self, keys: Iterable[bytes], holder: Holder[W]) -> None:
        """Take note that a holder is being sent these keys' values."""
        table = self._young
        self.holders[holder] = None
        for key in keys:
            known = table.setdefault(key, holder)
            if known is not holder:
                if isinstance(known, set):
                    known.add(holder)
                else:
                    table[key] = {known, holder}

    def take(self, keys: Sequence[bytes]) -> dict[Holder[W], list[bytes]]:
        """Return which holders may have which of these keys, and forget it: they are going to be told."""
        told: dict[Holder[W], list[bytes]] = {}
        for table in (self._young, self._old):
            if not table:
                continue
            for key in keys:
                known = table.pop(key, None)
                if known is None:
                    continue
                for holder in known if isinstance(known, set) else (known,):
                    told.setdefault(holder, []).append(key)
        return told

    def told(self, keys: Sequence[bytes], holder: Holder[W]) -> None:
        """Take note that a holder has been told to drop keys."""
        for key in keys:
            times = self._told.setdefault(key, {})
            times[holder] = times.get(holder, 0) + 1

    def heard(self, keys: Sequence[bytes], holder: Holder[W]) -> None:
        """Take note that a holder has acted on one such word, or cannot serve what it has any more."""
        for key in keys:
            times = self._told.get(key, {})
            left = times.pop(holder, 0) - 1
            if left > 0:
                times[holder] = left
            elif not times:
                self._told.pop(key, None)

    def doubtful(self, keys: Sequence[bytes]) -> list[Holder[W]]:
        """Return who has been told to drop one of these keys and has not acknowledged it yet."""
        if not self._told:
            return []
        return list(dict.fromkeys(holder for key in keys for holder in self._told.get(key, ())))

    def of(self, key: bytes) -> list[Holder[W]]:
        """Return who may have a key."""
        found: dict[Holder[W], None] = dict.fromkeys(self._told.get(key, ()))
        for table in (self._young, self._old):
            known = table.get(key)
            if known is not None:
                found.update(dict.fromkeys(known if isinstance(known, set) else (known,)))
        return list(found)

    def turn(self) -> None:
        """Begin a generation: forget what was noted before the last. To be called every `GENERATION_S`."""
        self._old, self._young = self._young, {}
        still: dict[Holder[W], None] = dict.fromkeys(holder for times in self._told.values() for holder in times)
        for known in self._old.values():
            still.update(dict.fromkeys(known if isinstance(known, set) else (known,)))
        self.holders = still

    def clear(self) -> None:
        """Forget everything: all holders have been told to drop it, or have lost their leases."""
        self._young, self._old, self._told = {}, {}, {}
        self.holders = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __repr__(self) -> str:
        return f"<Exposure {len(self)} keys to {len(self.holders)} holders>"
