"""S3-FIFO: a small queue that tries newcomers, a main queue, and a memory of what both evicted.

A new entry enters the small queue. If it has been read by the time it reaches the tail, it goes to the main queue; else
it is evicted and remembered as a "ghost": should its key come back soon, it enters the main queue at once. The main
queue gives an entry another round for each read since its last one, three at most. A scan passes through the small
queue and leaves the main one alone. (Yang et al., SOSP'23; they ask for two reads in the small queue. On the traces of
the benchmark one read did as well, and up to a point better where popularity shifts.)

How large the small queue should be depends on the requests: while popularity is stable a twentieth of all entries is
enough, after it has shifted half of them is better. So both queues leave ghosts. One that comes back among the latest
of its queue, as many as a twentieth of all entries, says that a little more room would have kept it: its queue gets a
500th of all entries from the other one. As many ghosts are asked on either side, so the border settles where another
place is worth the same on both. (The idea is that of ARC, Megiddo and Modha, FAST'03.) That is all that ghosts of the
main queue do; their keys come back as newcomers.

Ghosts lie in tables indexed by the key's hash, made when the first entry is evicted: 8 bytes an entry, in two cells, of
which half are in use. An eighth of them is the main queue's, whose ghosts are few but must last long. A cell holds 16
bits of the hash and 16 bits of time, which runs in steps of some thousandth part of a turnover. A newcomer's ghost
counts until as many have been evicted as the main queue holds, and none counts twice. What can go wrong costs a place
in the queue or a step of the border and nothing else: a later ghost overwrites one of the same cell, a stranger is
taken for a ghost once in 65,536, and when the entries have doubled new tables begin empty. The border is slow to return
when popularity is stable again, some turnovers of thousands of entries and dozens of hundreds, and among fewer still
too few ghosts come back to tell a trend from chance.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from cachenode.core.policies.base import MAX_MARK, PATIENCE, Links, Ring

__all__ = ["S3Fifo"]

_MAIN = 0b100
_WHOLE = 500
_SMALL_AT_FIRST, _SMALLEST, _LARGEST = 50, 25, 250  # parts of the whole
_NEAR_PART = 20
_CELLS = 2
_CELLS_PER_MAIN_CELL = 7
_FEWEST_CELLS = 64
_CELL_BYTES = 4
_DIGIT = 0x3FFFFFFF
_FINGERPRINT = 0xFFFF0000
_TICKS = 0xFFFF
_TICKS_PER_TURNOVER = 12


class S3Fifo:
    """Evicts newcomers that nobody read, then what was not read since its last round."""

    __slots__ = (
        "_ghosts",
        "_links",
        "_main",
        "_main_ghosts",
        "_main_passed",
        "_passed",
        "_shift",
        "_small",
        "_small_part",
        "extra_bytes",
        "marks",
    )

    def __init__(self) -> None:
        self._links = Links()
        self._small = Ring(self._links)
        self._main = Ring(self._links)
        self.marks = bytearray()
        self._small_part = _SMALL_AT_FIRST
        self._ghosts = array("I", (0,))
        self._main_ghosts = array("I", (0,))
        self._passed = 0  # entries evicted from the small queue: its ghosts' clock
        self._main_passed = 0  # ... and from the main queue
        self._shift = 0  # ... of which 2^shift make a tick
        self.extra_bytes = 0

    def grow(self, slots: int) -> None:
        """Make room for so many slots in all."""
        self._links.grow(slots)
        self.marks.extend(bytes(slots - len(self.marks)))

    def admitted(self, slot: int, key_hash: int) -> None:
        """Put the entry in the small queue, or in the main one if the small one evicted it not long ago."""
        fingerprint = key_hash >> 24
        cell = (key_hash & _DIGIT) % len(self._ghosts)
        if not (self._ghosts[cell] ^ fingerprint) & _FINGERPRINT:
            age = self._lay(self._ghosts, cell, self._passed)
            if age <= self._near():
                self._small_part = min(self._small_part + 1, _LARGEST)
            if age <= self._main.size:
                self.marks[slot] = _MAIN
                self._main.push(slot)
                return
        cell //= _CELLS_PER_MAIN_CELL
        if not (self._main_ghosts[cell] ^ fingerprint) & _FINGERPRINT:
            age = self._lay(self._main_ghosts, cell, self._main_passed)
            if age <= self._near():
                self._small_part = max(self._small_part - 1, _SMALLEST)
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
        entries = small.size + main.size
        if entries * _CELL_BYTES > self.extra_bytes:
            self._make_tables(entries)
        room = entries * self._small_part // _WHOLE
        for _ in range(PATIENCE):
            if small.size > room or not main.size:
                slot = small.tail
                if not marks[slot]:
                    self._passed += 1
                    key_hash = hash(keys[slot])
                    cell = (key_hash & _DIGIT) % len(self._ghosts)
                    self._ghosts[cell] = (key_hash >> 24) & _FINGERPRINT | (self._passed >> self._shift) & _TICKS
                    return slot
                small.unlink(slot)
                marks[slot] = _MAIN
                main.push(slot)
            else:
                slot = main.tail
                if marks[slot] == _MAIN:
                    self._main_passed += 1
                    key_hash = hash(keys[slot])
                    cell = (key_hash & _DIGIT) % len(self._ghosts) // _CELLS_PER_MAIN_CELL
                    ticks = (self._main_passed >> self._shift) & _TICKS
                    self._main_ghosts[cell] = (key_hash >> 24) & _FINGERPRINT | ticks
                    return slot
                marks[slot] -= 1
                main.rotate()
        return main.tail

    def slots(self) -> list[int]:
        """Return the slots of all entries: the small queue from head to tail, then the main one."""
        return self._small.slots() + self._main.slots()

    def _make_tables(self, entries: int) -> None:
        cells = max(_FEWEST_CELLS, _CELLS * entries)
        of_main = -(-cells // (_CELLS_PER_MAIN_CELL + 1))
        self._main_ghosts = array("I", (0,)) * of_main
        self._ghosts = array("I", (0,)) * (cells - of_main)
        self._shift = max(0, entries.bit_length() - _TICKS_PER_TURNOVER)
        self.extra_bytes = cells * self._ghosts.itemsize

    def _lay(self, ghosts: array[int], cell: int, passed: int) -> float:
        """Forget a ghost, and return how many entries its queue has evicted since."""
        ghost = ghosts[cell]
        ghosts[cell] = 0
        return ((passed >> self._shift) - ghost & _TICKS) << self._shift if ghost else math.inf

    def _near(self) -> int:
        return (self._small.size + self._main.size) // _NEAR_PART
