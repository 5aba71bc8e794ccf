"""What was declared untrue lately by prefix, pattern, tag or as a whole: a log that judges what comes back late.

A barrier covers entries that nobody can list: some are in memory, some in L2, some still being loaded. So it gets a
*position*, a number that rises from barrier to barrier, and every write and load remembers the log's position at which
it began. When it is about to be stored, or is found in L2, a barrier of a higher position that covers it makes it
untrue.

The log is bounded. When it is full the oldest barriers become a *floor*: everything that began below it counts as
covered, whatever its key. That covers more than it must, never less.

Interleavings, each forced by a test of the same name in ``tests/core/test_barriers.py``:

1. ``barrier_during_a_load``: the load began before the barrier, so its value is covered; the next load's is not.
2. ``late_barrier_still_counts``: barriers reach a node in any order. One below the newest covers what began below it.
3. ``repeated_selector_takes_one_place``: the newest barrier of a selector covers all that its older ones do, so only
   that one is kept; an older one that comes after it changes nothing.
4. ``overflow_becomes_a_floor``: a full log covers everything that began before its oldest barriers.
5. ``barrier_comes_again_after_the_floor``: one that the floor has taken up is not recognised, and is simply done again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter

from cachenode_api.selectors import Selector, SelectorKind

__all__ = ["BarrierLog"]


class BarrierLog:
    """The barriers of one namespace.

    Args:
        limit: Most barriers remembered one by one.
        globs: Most patterns among them: each is tried on every entry, while prefixes and tags are looked up.
    """

    __slots__ = ("_everything", "_floor", "_globs", "_lengths", "_limit", "_order", "_position", "_tables")

    def __init__(self, *, limit: int = 1_000, globs: int = 100) -> None:
        self._limit = limit
        self._globs = globs
        self._position = 0
        self._floor = 0
        self._everything = 0  # position of the last barrier of the whole namespace
        self._order: list[tuple[int, SelectorKind, bytes]] = []  # sorted
        self._tables: dict[SelectorKind, dict[bytes, tuple[int, Selector]]] = {
            SelectorKind.PREFIX: {},
            SelectorKind.GLOB: {},
            SelectorKind.TAG: {},
        }
        self._lengths: Counter[int] = Counter()  # of the prefixes: few, so few look-ups find them all

    @property
    def position(self) -> int:
        """The newest barrier's position, 0 before the first: what a write or load that begins now remembers."""
        return self._position

    @property
    def floor(self) -> int:
        """Everything that began below this position is covered."""
        return self._floor

    def note(self, position: int, selector: Selector) -> bool:
        """Take a barrier. Return False if there is nothing to do: one of no lower position covers all that it does.

        A barrier that the floor has taken up may return True again; doing it again removes more than it must.
        """
        if position <= self._everything:
            return False
        if selector.kind is SelectorKind.NAMESPACE:
            self._everything = position
            self.raise_floor(position)
            return True
        known = self._tables[selector.kind].get(selector.text)
        if known is not None:
            if position <= known[0]:
                return False
            del self._order[bisect_left(self._order, (known[0], selector.kind, selector.text))]
            self._forget(selector.kind, selector.text)
        if position > self._floor:
            self._position = max(self._position, position)
            self._remember(position, selector)
        return True

    def covers(self, key: bytes, tags: Sequence[bytes], since: int) -> bool:
        """Return True if an entry whose write or load began at this position is untrue."""
        if since >= self._position:
            return False
        if since < self._floor:
            return True
        return next(self.covering(key, tags, since), None) is not None

    def covering(self, key: bytes, tags: Sequence[bytes], since: int) -> Iterator[Selector]:
        """Yield the selectors of the barriers above the floor that make such an entry untrue."""
        by_tag, by_prefix = self._tables[SelectorKind.TAG], self._tables[SelectorKind.PREFIX]
        for tag in tags:
            if tag in by_tag and by_tag[tag][0] > since:
                yield by_tag[tag][1]
        for length in self._lengths:
            prefix = key[:length]
            if len(prefix) == length and prefix in by_prefix and by_prefix[prefix][0] > since:
                yield by_prefix[prefix][1]
        for position, glob in self._tables[SelectorKind.GLOB].values():
            if position > since and glob.covers(key, tags):
                yield glob

    def position_of(self, selector: Selector) -> int:
        """Return the position of a selector's newest barrier above the floor, 0 if there is none."""
        return self._tables[selector.kind].get(selector.text, (0, selector))[0]

    def advance(self, position: int) -> None:
        """Let what begins from now on remember at least this position: something else than a barrier took it."""
        self._position = max(self._position, position)

    def raise_floor(self, position: int) -> None:
        """Let everything count as covered that began below this position. A lower one than before is ignored."""
        if position <= self._floor:
            return
        self._floor = position
        self._position = max(self._position, position)
        taken_up = bisect_right(self._order, position, key=itemgetter(0))
        for _, kind, text in self._order[:taken_up]:
            self._forget(kind, text)
        del self._order[:taken_up]

    def barriers(self) -> list[tuple[int, Selector]]:
        """Return the barriers above the floor, by position. Those of the whole namespace are in the floor."""
        return [self._tables[kind][text] for _, kind, text in self._order]

    def _remember(self, position: int, selector: Selector) -> None:
        kind, text, globs = selector.kind, selector.text, self._tables[SelectorKind.GLOB]
        self._tables[kind][text] = (position, selector)
        insort(self._order, (position, kind, text))
        if kind is SelectorKind.PREFIX:
            self._lengths[len(text)] += 1
        if len(self._order) > self._limit:
            self.raise_floor(self._order[0][0])
        if len(globs) > self._globs:
            self.raise_floor(min(position for position, _ in globs.values()))

    def _forget(self, kind: SelectorKind, text: bytes) -> None:
        del self._tables[kind][text]
        if kind is SelectorKind.PREFIX:
            self._lengths[len(text)] -= 1
            if not self._lengths[len(text)]:
                del self._lengths[len(text)]

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        return f"<BarrierLog {len(self._order)} position={self._position} floor={self._floor}>"
