"""S3-FIFO: a small queue that tries newcomers, a main queue, and a memory of what the small one evicted.

A new entry enters the small queue, a tenth of all entries. If it has been read by the time it reaches the tail, it goes
to the main queue; else it is evicted and remembered as a "ghost": should its key come back soon, it enters the main
queue at once. The main queue gives an entry another round for each read since its last one, three at most. A scan
passes through the small queue and leaves the main one alone. (Yang et al., SOSP'23; they ask for two reads in the small
queue. On the traces of the benchmark one read did as well, and up to a point better where popularity shifts.)

Ghosts lie in a table indexed by the key's hash, made when the first entry is evicted: 8 bytes an entry, in two cells,
of which half are in use. A cell holds 16 bits of the hash and 16 bits of time, which runs in steps of some thousandth
part of a turnover. A ghost counts until as many entries have been evicted as the main queue holds. What can go wrong
costs a place in the queue and nothing else: a later ghost overwrites one of the same cell, a stranger is taken for a
ghost once in 65,536, and when the entries have doubled a new table begins empty.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from cachenode.core.policies.base import MAX_MARK, PATIENCE, Links, Ring

__all__ = ["S3Fifo"]

_MAIN = 0b100
_SMALL_PART = 10
_CELLS = 2
_FEWEST_CELLS = 64
_DIGIT = 0x3FFFFFFF
_TICKS = 0xFFFF
_TICKS_PER_TURNOVER = 12


class S3Fifo:
    """Evicts newcomers that nobody read, then what was not read since its last round."""

    __slots__ = ("_ghosts", "_links", "_main", "_passed", "_shift", "_small", "extra_bytes", "marks")

    def __init__(self) -> None:
        self._links = Links()
        self._small = Ring(self._links)
        self._main = Ring(self._links)
        self.marks = bytearray()
        self._ghosts = array("I")
        self._passed = 0  # entries evicted from the small queue: the ghosts' clock
        self._shift = 0  # ... of which 2^shift make a tick
        self.extra_bytes = 0

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        self._links.grow(slots)
        self.marks.extend(bytes(slots - len(self.marks)))

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry in the small queue, or in the main one if it was evicted not long ago."""
        if self._ghosts and self._remembered(key_hash):
            self.marks[slot] = _MAIN
            self._main.push(slot)
        else:
            self.marks[slot] = 0
            self._small.push(slot)

    def hit(self, slot: int) -> None:
        """Count the read, up to three."""
        mark = self.marks[slot]
        if mark & MAX_MARK != MAX_MARK:
            self.marks[slot] = mark + 1

    def removed(self, slot: int) -> None:
        """Take the entry out of its queue."""
        (self._main if self.marks[slot] & _MAIN else self._small).unlink(slot)

    def victim(self, keys: Sequence[bytes | None]) -> int:
        """Return the first entry at a tail that has not earned to stay."""
        small, main, marks = self._small, self._main, self.marks
        for _ in range(PATIENCE):
            if small.size * _SMALL_PART > small.size + main.size or not main.size:
                slot = small.tail
                if not marks[slot]:
                    self._remember(hash(keys[slot]))
                    return slot
                small.unlink(slot)
                marks[slot] = _MAIN
                main.push(slot)
            else:
                slot = main.tail
                if marks[slot] == _MAIN:
                    return slot
                marks[slot] -= 1
                main.rotate()
        return main.tail

    def slots(self) -> list[int]:
        """Return the slots of all entries: the small queue from head to tail, then the main one."""
        return self._small.slots() + self._main.slots()

    def _remember(self, key_hash: int) -> None:
        entries = self._small.size + self._main.size
        if entries > len(self._ghosts):
            self._ghosts = array("I", (0,)) * max(_FEWEST_CELLS, _CELLS * entries)
            self._shift = max(0, entries.bit_length() - _TICKS_PER_TURNOVER)
            self.extra_bytes = len(self._ghosts) * self._ghosts.itemsize
        self._passed += 1
        ticks = (self._passed >> self._shift) & _TICKS
        self._ghosts[(key_hash & _DIGIT) % len(self._ghosts)] = (key_hash >> 24) & 0xFFFF0000 | ticks

    def _remembered(self, key_hash: int) -> bool:
        ghost = self._ghosts[(key_hash & _DIGIT) % len(self._ghosts)]
        if not ghost or (ghost ^ (key_hash >> 24)) & 0xFFFF0000:
            return False
        age = ((self._passed >> self._shift) - ghost) & _TICKS
        return age << self._shift <= self._main.size
