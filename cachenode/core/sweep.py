"""Removes from memory what a barrier covers: at once as far as readers can tell, in slices in truth.

Looking at a million entries takes a second, so a barrier only begins a walk. Until the walk has passed every slot, a
hit is judged when it is read: an entry is untrue if a barrier that came after its version covers it. All versions are
this owner's own or older, and the barrier takes one too, so "after" is a comparison of numbers. (An entry that came
from L2 under an older version although it was written after the barrier is dropped as well: more than must be.)

Barriers that come during a walk wait for the next one. So there are two logs, however many barriers come, and a log is
forgotten with its walk (``test_barrier_during_a_walk_waits_for_the_next``).

What an expiry covers (`cachenode.core.expiries`) stays, and its record is marked as stale and ends with it: so whoever
reads it later needs no log to know (``test_expired_entries_are_marked``).
"""

from __future__ import annotations

import math

from cachenode.core.barriers import BarrierLog
from cachenode.core.expiries import Expiries
from cachenode.core.store import Store
from cachenode_api.records import HEADER, HEADER_BYTES, TAGGED
from cachenode_api.selectors import Selector, SelectorKind
from cachenode_api.tags import MAX_TAG_BYTES, MAX_TAGS, split_tags

__all__ = ["Sweep", "tags_of"]


_LONGEST_BLOCK = 2 + MAX_TAGS * (1 + MAX_TAG_BYTES)
"""Bytes of tags before a value, at most: so a look at them copies no megabytes."""


def tags_of(record: bytes) -> tuple[bytes, ...]:
    """Return the tags of a record."""
    if not HEADER.unpack_from(record)[1] & TAGGED:
        return ()
    return split_tags(record[HEADER_BYTES : HEADER_BYTES + _LONGEST_BLOCK])[0]


class _Walk:
    """What one walk looks for."""

    __slots__ = ("expiries", "removals")

    def __init__(self) -> None:
        self.removals = BarrierLog()
        self.expiries = Expiries(self.removals)

    def until(self, key: bytes, tags: tuple[bytes, ...], version: int) -> float:
        """Return when an entry ends: infinite if nothing covers it, minus infinite if it has to go."""
        if self.removals.covers(key, tags, version):
            return -math.inf
        until = self.expiries.until(key, tags, version)
        return math.inf if until is None else until


class Sweep:
    """The walk over one namespace's memory.

    Attributes:
        active: True while a walk is under way; then `judge` must be asked about every hit.
        removed: Entries removed by barriers.
        expired: Entries that were left to be served as stale.
    """

    __slots__ = ("_cursor", "_next", "_now", "_store", "active", "expired", "removed")

    def __init__(self, store: Store) -> None:
        self.active = False
        self.removed = 0
        self.expired = 0
        self._store = store
        self._now: _Walk | None = None
        self._next: _Walk | None = None
        self._cursor = 0

    def bar(self, selector: Selector, version: int) -> None:
        """Make every entry untrue that the selector covers and whose version is lower."""
        if selector.kind is SelectorKind.NAMESPACE:
            self.removed += len(self._store)
            self._store.clear()
            return
        if len(self._store):
            self._walk().removals.note(version, selector)

    def expire(self, selector: Selector, version: int, until: float, now: float) -> None:
        """Make every entry stale that the selector covers and whose version is lower, and let it end at `until`."""
        if len(self._store):
            self._walk().expiries.note(version, selector, until, now)

    def _walk(self) -> _Walk:
        """Return the walk that is to begin."""
        if self._now is None:
            self._now, self._cursor, self.active = _Walk(), 0, True
            return self._now
        self._next = self._next or _Walk()
        return self._next

    def until(self, key: bytes, record: bytes) -> float:
        """Return when an entry ends by what walks look for: infinite if nothing covers it. Changes nothing."""
        version: int = HEADER.unpack_from(record)[2]
        tags = tags_of(record)
        return min(walk.until(key, tags, version) for walk in (self._now, self._next) if walk is not None)

    def judge(self, key: bytes, record: bytes, now: float) -> bytes:
        """Return what may be served of an entry, empty if nothing, and leave that in memory. Ask it while `active`."""
        until = self.until(key, record)
        if until == math.inf:
            return record
        if until <= now:
            self._store.remove(key)
            self.removed += 1
            return b""
        marked = self._store.mark_stale(key, until)
        self.expired += marked is not record
        return marked

    def step(self, limit: int, now: float) -> int:
        """Look at up to `limit` slots of the walk. Return how many entries were removed."""
        if not self.active:
            return 0
        keys, self._cursor = self._store.scan(self._cursor, limit)
        removed = 0
        for key in keys:
            record = self._store.peek(key, now)
            if record is not None and not self.judge(key, record, now):
                removed += 1
        if not self._cursor:
            self._now, self._next = self._next, None
            self.active = self._now is not None
        return removed

    def __repr__(self) -> str:
        return f"<Sweep active={self.active} removed={self.removed}>"
