"""S3-FIFO: a small queue that tries newcomers, a main queue, and a memory of what the small one evicted (Yang et al., SOSP'23).

A new entry enters the small queue, a tenth of all entries. If it has been read twice by the time it reaches the tail, it goes to the main queue; else it is
evicted and its fingerprint remembered: should the key come back soon, it enters the main queue at once. The main queue gives an entry another round for
each read since the last one, three at most. A scan passes through the small queue and leaves the main one alone.

The fingerprints ("ghosts") lie in a table indexed by the key's hash, 8 bytes each, made when the first entry is evicted: a later ghost overwrites an earlier one of
the same place, and one that is older than as many evictions as there are entries does not count.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from cachenode.core.policies.base import Chain, extend, links

__all__ = ["S3Fifo"]

_READS = 0b011
_MAIN = 0b100
_PROMOTE_AT = 2
_SMALL_SHARE = 0.1
_LOW = 0xFFFFFFFF


class S3Fifo:
    """Evicts newcomers that were not read twice, then what was not read since its last round."""

    __slots__ = ("_arrays", "_evictions", "_ghost_mask", "_ghosts", "_main", "_small", "marks")

    def __init__(self) -> None:
        self._arrays = links()
        self._small = Chain(*self._arrays)
        self._main = Chain(*self._arrays)
        self.marks = bytearray()
        self._ghosts = array("Q")
        self._ghost_mask = 0
        self._evictions = 0

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        extend(self._arrays, slots)
        self.marks.extend(bytes(slots - len(self.marks)))

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry in the small queue, or in the main one if it was evicted not long ago."""
        if self._ghost_mask and self._remembered(key_hash):
            self.marks[slot] = _MAIN
            self._main.push(slot)
        else:
            self.marks[slot] = 0
            self._small.push(slot)

    def hit(self, slot: int) -> None:
        """Count the read, up to three."""
        mark = self.marks[slot]
        if mark & _READS != _READS:
            self.marks[slot] = mark + 1

    def removed(self, slot: int) -> None:
        """Take the entry out of its queue."""
        (self._main if self.marks[slot] & _MAIN else self._small).unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Return the first entry at a tail that has not earned to stay."""
        small, main, marks = self._small, self._main, self.marks
        while True:
            if small.size > _SMALL_SHARE * (small.size + main.size) or not main.size:
                slot = small.tail
                if marks[slot] & _READS < _PROMOTE_AT:
                    self._remember(hash(keys[slot]))
                    return slot
                small.unlink(slot)
                marks[slot] = _MAIN
                main.push(slot)
            else:
                slot = main.tail
                if not marks[slot] & _READS:
                    return slot
                marks[slot] -= 1
                main.unlink(slot)
                main.push(slot)

    def _remember(self, key_hash: int) -> None:
        entries = self._small.size + self._main.size
        if entries > self._ghost_mask:
            size = 1 << max(8, (2 * entries - 1).bit_length())
            self._ghosts = array("Q", bytes(8 * size))
            self._ghost_mask = size - 1
        self._evictions += 1
        fingerprint = (key_hash >> 32) & _LOW
        self._ghosts[key_hash & self._ghost_mask] = (self._evictions & _LOW) << 32 | fingerprint

    def _remembered(self, key_hash: int) -> bool:
        ghost = self._ghosts[key_hash & self._ghost_mask]
        if not ghost or ghost & _LOW != (key_hash >> 32) & _LOW:
            return False
        age = (self._evictions - (ghost >> 32)) & _LOW
        return age <= self._main.size
