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

_OVERHEAD = 200
"""About what a key costs beside its bytes: objects, and its place in the table."""


class Negatives:
    """The absent keys of one namespace.

    Args:
        ttl_s: How long an absence is believed; 0: not at all.
        max_bytes: What they may cost; beyond it the oldest are forgotten: whoever makes keys up has no end of them.
    """

    __slots__ = ("_max_bytes", "_until", "_used", "ttl_s")

    def __init__(self, ttl_s: float, *, max_bytes: int = 16 << 20) -> None:
        self.ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._used = 0
        self._until: dict[bytes, tuple[float, int]] = {}

    def change(self, ttl_s: float) -> None:
        """Believe absences that are found from now on for longer or shorter; 0 forgets those that are known too."""
        self.ttl_s = ttl_s
        if not ttl_s:
            self.void_all()

    def note(self, key: bytes, now: float, position: int) -> None:
        """A load has found nothing that began at this position of the barrier log, and has not come off its key."""
        if not self.ttl_s:
            return
        self.void(key)  # so that the youngest is the last
        self._until[key] = now + self.ttl_s, position
        self._used += len(key) + _OVERHEAD
        while self._used > self._max_bytes:
            self.void(next(iter(self._until)))

    def since(self, key: bytes, now: float) -> int | None:
        """Return the position at which a key was found to be absent, None if that is not known or too long ago."""
        known = self._until.get(key)
        if known is None:
            return None
        if known[0] <= now:
            self.void(key)
            return None
        return known[1]

    def left_s(self, key: bytes, now: float) -> float:
        """Return for how long a key's absence would still be believed, 0 if it is not known."""
        known = self._until.get(key)
        return max(0.0, known[0] - now) if known is not None else 0.0

    def void(self, key: bytes) -> None:
        """The key has been written or declared untrue."""
        if self._until.pop(key, None) is not None:
            self._used -= len(key) + _OVERHEAD

    def void_all(self) -> None:
        """Any key may have a value by now."""
        self._until.clear()
        self._used = 0

    def __len__(self) -> int:
        return len(self._until)

    def __repr__(self) -> str:
        return f"<Negatives {len(self._until)} keys>"
