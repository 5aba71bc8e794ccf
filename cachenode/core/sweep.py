"""Removes from memory what a barrier covers: at once as far as readers can tell, in slices in truth.

Looking at a million entries takes a second, so a barrier only begins a walk. Until the walk has passed every slot, a
hit is judged when it is read: an entry is untrue if a barrier that came after its version covers it. All versions are
this owner's own or older, and the barrier takes one too, so "after" is a comparison of numbers. (An entry that came
from L2 under an older version although it was written after the barrier is dropped as well: more than must be.)

Barriers that come during a walk wait for the next one. So there are two logs, however many barriers come, and a log is
forgotten with its walk (``test_barrier_during_a_walk_waits_for_the_next``).
"""

from __future__ import annotations

from cachenode.core.barriers import BarrierLog
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


class Sweep:
    """The walk over one namespace's memory.

    Attributes:
        active: True while a walk is under way; then `untrue` must be asked about every hit.
        removed: Entries removed by barriers.
    """

    __slots__ = ("_cursor", "_next", "_now", "_store", "active", "removed")

    def __init__(self, store: Store) -> None:
        self.active = False
        self.removed = 0
        self._store = store
        self._now: BarrierLog | None = None
        self._next: BarrierLog | None = None
        self._cursor = 0

    def bar(self, selector: Selector, version: int) -> None:
        """Make every entry untrue that the selector covers and whose version is lower."""
        if selector.kind is SelectorKind.NAMESPACE:
            self.removed += len(self._store)
            self._store.clear()
            return
        if not len(self._store):
            return
        if self._now is None:
            self._now, self._cursor, self.active = BarrierLog(), 0, True
            self._now.note(version, selector)
        else:
            self._next = self._next or BarrierLog()
            self._next.note(version, selector)

    def untrue(self, key: bytes, record: bytes) -> bool:
        """Return True if a barrier covers this entry. To be asked while `active`."""
        version: int = HEADER.unpack_from(record)[2]
        tags = tags_of(record)
        return any(log is not None and log.covers(key, tags, version) for log in (self._now, self._next))

    def step(self, limit: int, now: float) -> int:
        """Look at up to `limit` slots of the walk. Return how many entries were removed."""
        if not self.active:
            return 0
        keys, self._cursor = self._store.scan(self._cursor, limit)
        removed = 0
        for key in keys:
            record = self._store.peek(key, now)
            if record is not None and self.untrue(key, record):
                self._store.remove(key)
                removed += 1
        self.removed += removed
        if not self._cursor:
            self._now, self._next = self._next, None
            self.active = self._now is not None
        return removed

    def __repr__(self) -> str:
        return f"<Sweep active={self.active} removed={self.removed}>"
