"""SIEVE: one queue that nothing moves in, a mark per entry, and a hand (Zhang et al., NSDI'24).

A hit sets the mark. The hand goes from the tail to the head and around, clears marks that are set, and evicts the
first entry whose mark is not. What was read since the hand last passed stays where it is, so new entries that nobody
reads go soon. The cheapest of the policies here, and the slowest to follow when other keys become popular.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.policies.base import NIL, PATIENCE, Links, Ring

__all__ = ["Sieve"]


class Sieve:
    """Evicts the first entry that was not read since the hand last passed."""

    __slots__ = ("_hand", "_links", "_ring", "extra_bytes", "marks")

    def __init__(self) -> None:
        self._links = Links()
        self._ring = Ring(self._links)
        self._hand = NIL
        self.marks = bytearray()
        self.extra_bytes = 0

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        self._links.grow(slots)
        self.marks.extend(bytes(slots - len(self.marks)))

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry at the head, unread."""
        self.marks[slot] = 0
        self._ring.push(slot)

    def hit(self, slot: int) -> None:
        """Set the entry's mark."""
        self.marks[slot] = 1

    def removed(self, slot: int) -> None:
        """Take the entry out; the hand moves on if it pointed there."""
        if self._hand == slot:
            self._hand = NIL if slot == self._ring.head else self._ring.before(slot)
        self._ring.unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Move the hand to the first unread entry and return it."""
        before, marks = self._links.previous, self.marks
        hand = self._ring.tail if self._hand == NIL else self._hand
        for _ in range(PATIENCE):
            if not marks[hand]:
                break
            marks[hand] = 0
            hand = before[hand]
        self._hand = hand
        return hand

    def slots(self) -> list[int]:
        """Return the slots of all entries, the newest first."""
        return self._ring.slots()
