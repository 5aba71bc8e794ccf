"""Lives that begin anew with each read (sliding TTL): how far a read moves an entry's end.

An end is moved only if that makes it later by at least a tenth of the TTL: so an entry that is read all the time is
written ten times in a TTL and not a thousand times a second, and lives for nine tenths of a TTL after its last read, or
longer. An end is never moved to an earlier time.

However often an entry is read, it ends `max_life_s` after it began, as far as its owner knows. Who hands an entry over
says when that is (`latest`, `inherit`). One that was not handed over when its key moved, or that came back from L2, is
taken to have begun one TTL before the end that it had when it was first read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["STEP", "Slides"]

STEP = 0.1
"""Part of a TTL by which an end must move."""
_LOOKED_AT = 2
"""Notes that are looked at for every new one, oldest first: those of entries that are gone go."""


class Slides:
    """The ends of one namespace's entries.

    Args:
        max_life_s: No read moves an entry's end beyond this time after it began; infinite: nothing is noted.
    """

    __slots__ = ("_last", "max_life_s", "moved")

    def __init__(self, max_life_s: float = math.inf) -> None:
        self.max_life_s = max_life_s
        self._last: dict[bytes, tuple[int, float]] = {}
        self.moved = 0

    def end(
        self, key: bytes, version: int, deadline: float, ttl_s: float, now: float, present: Callable[[bytes], bool]
    ) -> float:
        """Return when an entry ends that is read now: its present end if that is not to be moved.

        Args:
            key: Its key.
            version: Its version: of another one other things are known.
            deadline: Its present end.
            ttl_s: The life that the read gives it.
            now: The time.
            present: Whether a key is in memory.
        """
        end = now + ttl_s
        if not math.isinf(self.max_life_s):
            end = min(end, self._latest(key, version, deadline, ttl_s, present))
        if end <= deadline or end - deadline < STEP * ttl_s < math.inf:
            return deadline
        self.moved += 1
        return end

    def _latest(
        self, key: bytes, version: int, deadline: float, ttl_s: float, present: Callable[[bytes], bool]
    ) -> float:
        known = self.latest(key, version)
        return self._note(key, version, deadline - ttl_s + self.max_life_s, present) if known is None else known

    def latest(self, key: bytes, version: int) -> float | None:
        """Return beyond which time no read moves an entry's end, None if that is not known."""
        known = self._last.get(key)
        return known[1] if known is not None and known[0] == version else None

    def inherit(self, key: bytes, version: int, latest: float, present: Callable[[bytes], bool]) -> None:
        """Take what a former owner knew."""
        if not math.isinf(self.max_life_s):
            self._note(key, version, latest, present)

    def _note(self, key: bytes, version: int, latest: float, present: Callable[[bytes], bool]) -> float:
        self._last.pop(key, None)
        for _ in range(min(_LOOKED_AT, len(self._last))):
            oldest = next(iter(self._last))
            note = self._last.pop(oldest)
            if present(oldest):
                self._last[oldest] = note
        self._last[key] = version, latest
        return latest

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"<Slides {self.moved} moved, {len(self._last)} noted>"
