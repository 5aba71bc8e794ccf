"""Keys that have no value at the origin, remembered for a while: asking again would be told the same.

Only the owner remembers, and only in memory. An absence is no value: it has no version and travels nowhere, so it ends
with whatever could make it untrue. A write or removal of the key ends it (`void`), a barrier that covers the key does,
and a new view ends all, since writes of a moved key are ordered elsewhere. Nobody knows which tags a value would have
had, so a barrier by tag ends all.

Interleavings, each forced by a test in ``tests/node/test_read_through.py``:

1. The key is written while the load that finds nothing is under way: the load came off its key, so nothing is noted
   (``test_write_during_a_load_that_finds_nothing``).
2. A barrier comes between the load's beginning and its end, or later: the absence is not believed any more
   (``test_absence_from_before_a_barrier``).
"""

from __future__ import annotations

__all__ = ["Negatives"]


class Negatives:
    """The absent keys of one namespace.

    Args:
        ttl_s: How long an absence is believed; 0: not at all.
        limit: Most keys; beyond it the oldest is forgotten, since whoever asks for made-up keys has no end of them.
    """

    __slots__ = ("_limit", "_until", "ttl_s")

    def __init__(self, ttl_s: float, *, limit: int = 100_000) -> None:
        self.ttl_s = ttl_s
        self._limit = limit
        self._until: dict[bytes, tuple[float, int]] = {}

    def note(self, key: bytes, now: float, position: int) -> None:
        """A load has found nothing that began at this position of the barrier log, and has not come off its key."""
        if not self.ttl_s:
            return
        self._until.pop(key, None)  # so that the youngest is the last
        self._until[key] = now + self.ttl_s, position
        if len(self._until) > self._limit:
            del self._until[next(iter(self._until))]

    def since(self, key: bytes, now: float) -> int | None:
        """Return the position at which a key was found to be absent, None if that is not known or too long ago."""
        known = self._until.get(key)
        if known is None:
            return None
        if known[0] <= now:
            del self._until[key]
            return None
        return known[1]

    def void(self, key: bytes) -> None:
        """The key has been written or declared untrue."""
        self._until.pop(key, None)

    def void_all(self) -> None:
        """Any key may have a value by now."""
        self._until.clear()

    def __len__(self) -> int:
        return len(self._until)

    def __repr__(self) -> str:
        return f"<Negatives {len(self._until)} keys>"
