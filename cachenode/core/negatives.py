"""Keys that have no value at the origin, remembered for a while: asking again would be told the same.

Only the owner remembers, and only in memory. An absence is no value: it has no version and travels nowhere, so it ends
with whatever could make it untrue. A write or removal of the key ends it (`void`), a barrier that covers the key does,
and a new view ends all, since writes of a moved key are ordered elsewhere. Nobody knows which tags a value would have
had, so a barrier by tag ends all.

Whoever makes keys up has no end of them. So the absences of all namespaces have a part of the memory's budget, beside
which entries make room for them, and no more: when that is used up, the namespace with most forgets its oldest.

Interleavings, each forced by a test in ``tests/node/test_read_through.py``:

1. The key is written while the load that finds nothing is under way: the load came off its key, so nothing is noted
   (``test_write_during_a_load_that_finds_nothing``).
2. A barrier comes between the load's beginning and its end, or later: the absence is not believed any more
   (``test_absence_from_before_a_barrier``).
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter

from cachenode.core.store import Meter

__all__ = ["Absences", "Negatives"]

_OVERHEAD = 256
"""What a key costs at most beside its bytes, measured: objects, and its place in a table that is just growing."""
_PART = 16
"""Absences get one part of so many of the memory's budget."""
_AT_ONCE = 64
"""One part of so many of a namespace's absences is forgotten at once: who looks for the oldest in a dictionary passes
by all that have gone before, so one by one would take time in proportion to their number, each time."""


class Absences:
    """What the absent keys of all namespaces may cost together.

    Args:
        meter: Counts them with all that shares the memory's budget.
    """

    __slots__ = ("_meter", "_sharers", "max_bytes", "used")

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()
        self.max_bytes = self._meter.max_bytes // _PART
        self.used = 0
        self._sharers: list[Negatives] = []

    def add(self, sharer: Negatives) -> None:
        """Let a namespace's absences be among them."""
        self._sharers.append(sharer)

    def count(self, more_bytes: int) -> None:
        """Take note of what has been added, or given back. Then some are forgotten if they are too many."""
        self.used += more_bytes
        self._meter.used += more_bytes
        while self.used > self.max_bytes:
            max(self._sharers, key=attrgetter("used_bytes")).forget_oldest()


class Negatives:
    """The absent keys of one namespace.

    Args:
        ttl_s: How long an absence is believed; 0: not at all.
        absences: What they share with those of other namespaces; None: as much as there is.
    """

    __slots__ = ("_absences", "_until", "ttl_s", "used_bytes")

    def __init__(self, ttl_s: float, absences: Absences | None = None) -> None:
        self.ttl_s = ttl_s
        self._absences = absences or Absences()
        self._absences.add(self)
        self.used_bytes = 0
        """What they cost."""
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
        self._count(len(key) + _OVERHEAD)

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
            self._count(-len(key) - _OVERHEAD)

    def void_all(self) -> None:
        """Any key may have a value by now."""
        self._until.clear()
        self._count(-self.used_bytes)

    def forget_oldest(self) -> None:
        """Forget some, those first that have been noted first."""
        oldest = list(islice(self._until, len(self._until) // _AT_ONCE + 1))
        for key in oldest:
            del self._until[key]
        self._count(-sum(map(len, oldest)) - _OVERHEAD * len(oldest))

    def _count(self, more_bytes: int) -> None:
        self.used_bytes += more_bytes
        self._absences.count(more_bytes)

    def __len__(self) -> int:
        return len(self._until)

    def __repr__(self) -> str:
        return f"<Negatives {len(self._until)} keys>"
