"""What an eviction policy is: an order over slots, kept in arrays, that names a victim."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

__all__ = ["MAX_MARK", "NIL", "PATIENCE", "EvictionPolicy", "Links", "Ring"]

NIL = 0xFFFFFFFF
"""No slot."""
MAX_MARK = 0b11
"""The bits of a slot's mark that count its reads; the others are the policy's own."""
PATIENCE = 100
"""How many entries a policy may spare before it must name a victim.

Without a limit the first eviction after a long time of plenty, when all entries have been read, would go through all
of them and hold the loop for half a second at a million entries.
"""


class EvictionPolicy(Protocol):
    """Chooses which entry goes when space is needed.

    Entries are known by their slots, small integers that are used again. A policy keeps what it needs in arrays indexed
    by slot, a few bytes an entry. No call takes time in proportion to the number of entries, except that `grow` copies
    arrays.

    Attributes:
        extra_bytes: Memory beside what is proportional to slots.
    """

    extra_bytes: int

    @property
    def marks(self) -> bytearray | None:
        """A number per slot whose bits `MAX_MARK` count reads, if counting is all that `hit` does, else None.

        A store may then count in its own loop instead of calling `hit`.
        """

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

    def slots(self) -> list[int]:
        """Return the slots of all entries (for tests)."""


class Links:
    """The arrays that hold the order of a policy's rings: by slot, which comes before and which comes next."""

    __slots__ = ("following", "previous")

    def __init__(self) -> None:
        self.previous = array("I")
        self.following = array("I")

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        more = array("I", (NIL,)) * (slots - len(self.previous))
        self.previous.extend(more)
        self.following.extend(more)


class Ring:
    """A queue of slots linked in a circle: the tail precedes the head, so that the tail becomes the head at no cost.

    `head` means nothing while `size` is 0.
    """

    __slots__ = ("_links", "head", "size")

    def __init__(self, links: Links) -> None:
        self._links = links
        self.head = NIL
        self.size = 0

    @property
    def tail(self) -> int:
        """The slot at the tail; the ring must not be empty."""
        return self._links.previous[self.head]

    def push(self, slot: int) -> None:
        """Put a slot at the head."""
        previous, following = self._links.previous, self._links.following
        if self.size:
            head = self.head
            tail = previous[head]
            previous[slot] = tail
            following[slot] = head
            previous[head] = following[tail] = slot
        else:
            previous[slot] = following[slot] = slot
        self.head = slot
        self.size += 1

    def rotate(self) -> None:
        """Make the tail the head."""
        self.head = self._links.previous[self.head]

    def unlink(self, slot: int) -> None:
        """Take a slot out, wherever it is."""
        previous, following = self._links.previous, self._links.following
        before, after = previous[slot], following[slot]
        following[before] = after
        previous[after] = before
        self.size -= 1
        if slot == self.head:
            self.head = after

    def before(self, slot: int) -> int:
        """Return the slot next to this one on the way to the head; before the head comes the tail."""
        return self._links.previous[slot]

    def slots(self) -> list[int]:
        """Return all slots, from head to tail (for tests)."""
        found: list[int] = []
        slot = self.head
        while len(found) < self.size:
            found.append(slot)
            slot = self._links.following[slot]
        return found
