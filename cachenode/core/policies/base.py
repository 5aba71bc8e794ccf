"""What an eviction policy is: an order over slots, kept in arrays, that names a victim."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

__all__ = ["NIL", "Chain", "EvictionPolicy"]

NIL = 0xFFFFFFFF
"""No slot."""


class EvictionPolicy(Protocol):
    """Chooses which entry goes when space is needed.

    Entries are known by their slots, small integers that are used again. A policy keeps what it needs in arrays indexed by slot, a few bytes an entry.

    Attributes:
        marks: A counter per slot that a hit raises up to 3, in the two lowest bits, if that is all a hit means for this policy; the store then does it in
            its own loop. None if `hit` must be called.
    """

    marks: bytearray | None

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""

    def admitted(self, slot: int, key_hash: int) -> None:
        """An entry was added. `key_hash` is the same for the same key as long as the process lives."""

    def hit(self, slot: int) -> None:
        """An entry was read."""

    def removed(self, slot: int) -> None:
        """An entry is gone, for whatever reason; the slot will be used again."""

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Return the slot of the entry that should go; the store removes it. There is at least one entry.

        Args:
            keys: The key by slot, for policies that remember what they evicted.
        """


class Chain:
    """A doubly linked list of slots; the links are arrays that several chains of one policy share."""

    __slots__ = ("_next", "_previous", "head", "size", "tail")

    def __init__(self, previous: array[int], following: array[int]) -> None:
        self._previous = previous
        self._next = following
        self.head = NIL
        self.tail = NIL
        self.size = 0

    def push(self, slot: int) -> None:
        """Put a slot at the head."""
        head = self.head
        self._previous[slot] = NIL
        self._next[slot] = head
        if head == NIL:
            self.tail = slot
        else:
            self._previous[head] = slot
        self.head = slot
        self.size += 1

    def unlink(self, slot: int) -> None:
        """Take a slot out, wherever it is."""
        before, after = self._previous[slot], self._next[slot]
        if before == NIL:
            self.head = after
        else:
            self._next[before] = after
        if after == NIL:
            self.tail = before
        else:
            self._previous[after] = before
        self.size -= 1

    def before(self, slot: int) -> int:
        """Return the slot next to this one on the way to the head, NIL at the head."""
        return self._previous[slot]

    def slots(self) -> list[int]:
        """Return all slots, from head to tail (for tests)."""
        found, slot = [], self.head
        while slot != NIL:
            found.append(slot)
            slot = self._next[slot]
        return found


def links() -> tuple[array[int], array[int]]:
    """Return two empty arrays for the links of chains."""
    return array("I"), array("I")


def extend(arrays: Sequence[array[int]], slots: int) -> None:
    """Make arrays as long as there are slots."""
    for column in arrays:
        column.extend([NIL] * (slots - len(column)))
