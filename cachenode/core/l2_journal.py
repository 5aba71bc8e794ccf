"""What the shared store (L2) has missed, and what it may forget: the journal of one node.

L2 may hold older values of the keys that it has missed, so each of them gets a tombstone there before L2 is trusted
again, and is not believed about meanwhile. It has missed barriers too, which nodes that start later must know.

A store that is started anew, or a replica that takes its place, lacks the last writes, so those are remembered for a
while after they were done. Then they count as missed (`recall`).

Nothing here grows without end. What had to be forgotten becomes a floor: a version up to which nothing that the store
holds is believed (over-invalidate, never under). `note` and `recall` return it at once when the journal overflows,
`forgotten` when the store has lost its history: then nobody remembers the writes that were too many
(``test_writes_beyond_the_limit_become_a_floor``), nor those of a member that has gone with its journal
(``test_member_that_is_gone_becomes_a_floor``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from cachenode_api.selectors import Selector

__all__ = ["RECENT_S", "L2Journal"]

RECENT_S = 60.0
"""A failover forgets the writes of some moments; older ones than this have long reached the replicas, or the disk."""


class L2Journal:
    """The keys, by namespace, and the barriers that the store must be told of before it is trusted again.

    Args:
        limit: Most keys remembered: of those that were missed, and of those that were written lately.

    Attributes:
        keys: What was missed, under which version.
        barriers: Those that were missed, at which position.
    """

    __slots__ = ("_bereaved_at", "_bereft", "_forgot_at", "_forgotten", "_limit", "_recent", "barriers", "keys")

    def __init__(self, limit: int) -> None:
        self.keys: dict[tuple[str, bytes], int] = {}
        self.barriers: dict[tuple[str, Selector], int] = {}
        self._limit = limit
        self._recent: deque[tuple[float, str, bytes, int]] = deque()
        self._forgot_at = -math.inf
        self._forgotten = 0
        """The newest version that was forgotten at `_forgot_at` or before: more was written than is remembered."""
        self._bereaved_at = -math.inf
        self._bereft = 0
        """No member that had gone by `_bereaved_at` can have given this version."""

    def __bool__(self) -> bool:
        """True if the store has missed anything."""
        return bool(self.keys) or bool(self.barriers)

    def note(self, namespace: str, missed: Sequence[tuple[bytes, int]]) -> int:
        """Take keys in that the store has missed. Return the floor for those that had to go for them, 0 if none had."""
        keys, floor = self.keys, 0
        for key, version in missed:
            keys[namespace, key] = max(version, keys.get((namespace, key), 0))
        while len(keys) > self._limit:
            floor = max(floor, keys.pop(next(iter(keys))))
        return floor

    def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Take barriers in that the store has missed."""
        for position, selector in barriers:
            noted = namespace, selector
            self.barriers[noted] = max(position, self.barriers.get(noted, 0))

    def written(self, namespace: str, written: Sequence[tuple[bytes, int]], now: float) -> None:
        """Take keys out that have got a newer value or tombstone since; remember what was written."""
        self._remember(((now, namespace, key, version) for key, version in written), now)
        if self.keys:
            for key, version in written:
                if self.keys.get((namespace, key), version) < version:
                    del self.keys[namespace, key]

    def _remember(self, written: Iterable[tuple[float, str, bytes, int]], now: float) -> None:
        recent = self._recent
        recent.extend(written)
        while recent and (recent[0][0] < now - RECENT_S or len(recent) > self._limit):
            at, _, _, forgotten = recent.popleft()
            if at >= now - RECENT_S:
                self._forgot_at, self._forgotten = now, max(forgotten, self._forgotten)

    def testament(self, now: float) -> dict[str, list[tuple[bytes, int, float]]] | None:
        """Return what was written lately, by namespace: keys, versions, and for how many seconds that is to be known.

        None if that is not all that another must know: the store has missed something, or `forgotten` has a floor.
        """
        if self or self.forgotten(now):
            return None
        newest: dict[tuple[str, bytes], tuple[int, float]] = {}
        for at, namespace, key, version in self._recent:
            if at >= now - RECENT_S:
                newest[namespace, key] = max((version, at + RECENT_S - now), newest.get((namespace, key), (0, 0.0)))
        found: dict[str, list[tuple[bytes, int, float]]] = {}
        for (namespace, key), (version, left_s) in newest.items():
            found.setdefault(namespace, []).append((key, version, left_s))
        return found

    def inherit(self, namespace: str, written: Sequence[tuple[bytes, int, float]], now: float) -> None:
        """Remember what another has written, as if it had been done here (see `testament`)."""
        self._remember(((now - RECENT_S + left_s, namespace, key, version) for key, version, left_s in written), now)

    def recall(self, now: float) -> int:
        """Take all in that a store without its last writes may have forgotten. Return the floor, as `note`."""
        floor = 0
        for at, namespace, key, version in self._recent:
            if at >= now - RECENT_S:
                floor = max(floor, self.note(namespace, [(key, version)]))
        return floor

    def bereave(self, version: int, now: float) -> None:
        """Take note that a member has gone, or may have, whose journal is gone with it.

        Args:
            version: One above all that it can have given.
            now: Of the node's clock, as everywhere here.
        """
        self._bereaved_at, self._bereft = now, version

    def console(self) -> None:
        """Take note that another member knows who has gone, and would say so."""
        self._bereaved_at = -math.inf

    def forgotten(self, now: float) -> int:
        """Return the floor above what nobody remembers and a store without its last writes may lack, 0 for none."""
        floor = self._forgotten if now - self._forgot_at < RECENT_S else 0
        return max(floor, self._bereft) if now - self._bereaved_at < RECENT_S else floor

    def by_namespace(self, most: int | None = None) -> dict[str, list[tuple[bytes, int]]]:
        """Return the keys that were missed, or the oldest `most` of them, by namespace."""
        grouped: dict[str, list[tuple[bytes, int]]] = {}
        for (namespace, key), version in islice(self.keys.items(), most):
            grouped.setdefault(namespace, []).append((key, version))
        return grouped

    def replayed(self, namespace: str, drops: Sequence[tuple[bytes, int]], now: float) -> None:
        """Take keys out that have got their tombstones, unless they were missed again meanwhile.

        The store may forget a tombstone too, so they are remembered like writes.
        """
        self._remember(((now, namespace, key, version) for key, version in drops), now)
        for key, version in drops:
            if self.keys.get((namespace, key)) == version:
                del self.keys[namespace, key]

    def replayed_barrier(self, namespace: str, position: int, selector: Selector) -> None:
        """Take a barrier out that the store knows now, unless it was raised meanwhile."""
        if self.barriers.get((namespace, selector)) == position:
            del self.barriers[namespace, selector]
