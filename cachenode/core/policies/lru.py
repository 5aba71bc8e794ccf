"""Least recently used: the well-known policy, for comparison and for those who want it.

A hit moves the entry to the head of one queue; the victim is its tail. One scan over many keys flushes everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.policies.base import Links, Ring

__all__ = ["Lru"]


class Lru:
    """Evicts what was not read for longest."""

    __slots__ = ("_links", "_ring", "extra_bytes", "marks")

    def __init__(self) -> None:
        self._links = Links()
        self._ring = Ring(self._links)
        self.marks: bytearray | None = None
        self.extra_bytes = 0

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        self._links.grow(slots)

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry at the head."""
        self._ring.push(slot)

    def hit(self, slot: int) -> None:
        """Move the entry to the head."""
        if self._ring.head != slot:
            self._ring.unlink(slot)
            self._ring.push(slot)

    def removed(self, slot: int) -> None:
        """Take the entry out."""
        self._ring.unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Return the tail."""
        return self._ring.tail

    def slots(self) -> list[int]:
        """Return the slots of all entries, the victim last."""
        return self._ring.slots()
