"""How often keys are asked for, and how long ago: a sketch of bounded size.

A count-min sketch with conservative update (Cormode and Muthukrishnan 2005; Estan and Varghese 2002): a key has a cell
in each of four rows, its count is the least of them, and an access raises only the cells that hold that least. So a
count is never too low, and too high only for a key that shares all four of its cells.

Counts are of the present window and the one before: with each window a new table begins, and the oldest goes. Within a
window too a larger table begins when the newest is filled, since cells that many keys share tell nothing. A count is
the sum over all tables; only the newest is written.

Beside its count a cell keeps when it was last touched, and when before that. The newest access of a key is the one that
brings its value here, so it says nothing about how much the key is wanted; the one before does. A shared cell makes it
look later than it was, never earlier.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

__all__ = ["Frequency"]

_ROWS = 4
_FEWEST = 256
_MOST_CELLS = 1 << 16
"""Cells of a row at most: 2.5 MiB a table, and less than 7 MiB for all tables of two windows."""
_GROWTH = 4
_FULL = 0xFFFF

Cells = tuple[int, int, int, int]


class Frequency:
    """The accesses of one namespace's keys.

    Args:
        window_s: Counts are of the last one to two of these.
        most_cells: Cells of a row at most, a power of two. With more keys than that in a window counts are too high.
    """

    __slots__ = ("_ends_at", "_former", "_most_cells", "_present", "_window_s")

    def __init__(self, window_s: float, *, most_cells: int = _MOST_CELLS) -> None:
        self._window_s = window_s
        self._most_cells = most_cells
        self._present = [_Table(min(_FEWEST, most_cells))]
        """The tables of this window, the newest last."""
        self._former: list[_Table] = []
        self._ends_at = -math.inf

    def add(self, keys: Iterable[bytes], now: float) -> None:
        """Count an access of each key."""
        if now >= self._ends_at:
            self._turn(now)
        table = self._present[-1]
        table.add(keys, int(now) + 1)  # 0 means never
        if table.filled and table.cells < self._most_cells:
            self._present.append(table.next_one(self._most_cells))

    def count(self, key: bytes, now: float) -> int:
        """Return how often a key was asked for lately."""
        if now >= self._ends_at:
            self._turn(now)
        return sum(table.count(key) for table in (*self._present, *self._former))

    def since(self, key: bytes, now: float) -> float:
        """Return the seconds since the access before the newest, to a second; infinite if there was none."""
        known = (second for table in (*self._present, *self._former) for second in table.seconds(key))
        last, before = sorted([0, 0, *known])[-1:-3:-1]
        return max(0.0, now - (before - 1)) if last and before else math.inf

    def _turn(self, now: float) -> None:
        """Begin a new window."""
        if math.isinf(self._ends_at):
            self._ends_at = now + self._window_s
            return
        windows = int((now - self._ends_at) // self._window_s) + 1
        self._ends_at += windows * self._window_s
        self._former = self._present if windows == 1 else []  # else nobody has asked for longer than a window
        self._present = [self._present[-1].next_one(self._most_cells)]

    def __repr__(self) -> str:
        return f"<Frequency in tables of {[table.cells for table in (*self._former, *self._present)]} cells a row>"


class _Table:
    """Four rows of cells."""

    __slots__ = ("_before", "_counts", "_keys", "_last", "cells")

    def __init__(self, cells: int) -> None:
        self.cells = cells
        nothing = bytes(4 * cells)
        self._counts = tuple(array("H", nothing[: 2 * cells]) for _ in range(_ROWS))
        self._last = tuple(array("I", nothing) for _ in range(_ROWS))
        self._before = tuple(array("I", nothing) for _ in range(_ROWS))
        self._keys = 0

    @property
    def filled(self) -> bool:
        """True if a new key shares all four of its cells with others one time in forty."""
        return 2 * self._keys > self.cells

    def next_one(self, most_cells: int) -> _Table:
        """Return an empty table of the size that the keys of this one call for."""
        cells = self.cells * _GROWTH if self.filled else self.cells
        if 2 * _GROWTH * self._keys <= self.cells:
            cells = max(_FEWEST, cells // _GROWTH)
        return _Table(min(cells, most_cells))

    def _at(self, key: bytes) -> Cells:
        bits, mask = hash(key), self.cells - 1
        return bits & mask, bits >> 16 & mask, bits >> 32 & mask, bits >> 48 & mask

    def add(self, keys: Iterable[bytes], second: int) -> None:
        one, two, three, four = self._counts
        rows = list(zip(self._counts, self._last, self._before, strict=True))
        for key in keys:
            a, b, c, d = cells = self._at(key)
            least = min(one[a], two[b], three[c], four[d])
            for (counts, last, before), cell in zip(rows, cells):  # noqa: B905 - both are four; it is a third slower
                if counts[cell] == least < _FULL:
                    counts[cell] = least + 1
                before[cell] = last[cell]
                last[cell] = second
            if not least:
                self._keys += 1

    def count(self, key: bytes) -> int:
        (one, two, three, four), (a, b, c, d) = self._counts, self._at(key)
        return min(one[a], two[b], three[c], four[d])

    def seconds(self, key: bytes) -> tuple[int, int]:
        """Return when a key was last touched and when before that, 0 for never."""
        cells = self._at(key)
        last, before = (
            [row[cell] for row, cell in zip(rows, cells, strict=True)] for rows in (self._last, self._before)
        )
        return min(last), min(before)
