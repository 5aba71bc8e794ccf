"""SIEVE: one queue that nothing moves in, a bit per entry, and a hand (Zhang et al., NSDI'24).

A hit sets the bit. The hand goes from the tail to the head and around, clears bits that are set, and evicts the first entry whose bit is not. What was read
since the hand last passed stays where it is, so new entries that nobody reads go soon. Not resistant to scans.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.policies.base import NIL, Chain, extend, links

__all__ = ["Sieve"]


class Sieve:
    """Evicts the first entry that was not read since the hand last passed."""

    __slots__ = ("_arrays", "_chain", "_hand", "marks")

    def __init__(self) -> None:
        self._arrays = links()
        self._chain = Chain(*self._arrays)
        self._hand = NIL
        self.marks = bytearray()

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        extend(self._arrays, slots)
        self.marks.extend(bytes(slots - len(self.marks)))

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry at the head, unread."""
        del key_hash
        self.marks[slot] = 0
        self._chain.push(slot)

    def hit(self, slot: int) -> None:
        """Set the entry's bit."""
        self.marks[slot] = 1

    def removed(self, slot: int) -> None:
        """Take the entry out; the hand moves on if it pointed there."""
        if self._hand == slot:
            self._hand = self._chain.before(slot)
        self._chain.unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Move the hand to the first unread entry and return it."""
        del keys
        chain, marks = self._chain, self.marks
        hand = chain.tail if self._hand == NIL else self._hand
        while marks[hand]:
            marks[hand] = 0
            hand = chain.before(hand)
            if hand == NIL:
                hand = chain.tail
        self._hand = hand
        return hand
