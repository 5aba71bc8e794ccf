"""Least recently used: the well-known policy, for comparison and for those who want it.

A hit moves the entry to the head of one list; the victim is its tail. One scan over many keys flushes everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.policies.base import Chain, extend, links

__all__ = ["Lru"]


class Lru:
    """Evicts what was not read for longest."""

    __slots__ = ("_arrays", "_chain", "marks")

    def __init__(self) -> None:
        self._arrays = links()
        self._chain = Chain(*self._arrays)
        self.marks: bytearray | None = None

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        extend(self._arrays, slots)

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry at the head."""
        del key_hash
        self._chain.push(slot)

    def hit(self, slot: int) -> None:
        """Move the entry to the head."""
        if self._chain.head != slot:
            self._chain.unlink(slot)
            self._chain.push(slot)

    def removed(self, slot: int) -> None:
        """Take the entry out."""
        self._chain.unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Return the tail."""
        del keys
        return self._chain.tail
