"""Remote markers: where a key is loaded from while this region's origin may lack a change that was made elsewhere.

A region may load from a replica of a database that is written in another. Then a change is known here before the
replica has it: another region has told it (`cachenode.core.regions`), or it was made here, in the database of the
primary region. A mark remembers that for as long as replication may take, and says which region has the change; a load
of what is marked is done there. (Facebook's memcache does so: Nishtala et al., NSDI 2013, §5, "remote markers".)

A region has what it has told. So without a primary region, two that have changed the same key at about the same time
may each lack the other's change: then neither is asked. Nor is any while it is not known who changed what: there was
too much, or this node has just begun to own keys. What is loaded here then is not kept, which `cachenode.core.holdoff`
sees to: marks only say where to load, and losing one never lets an older value be kept. A whole namespace is not
marked: all that is read of it would be asked for elsewhere at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from cachenode_api.selectors import Selector, SelectorKind

__all__ = ["HERE", "Mark", "Markers"]

HERE = ""
"""In place of a region's name: this one."""
_MOST_SELECTORS = 1_000


class Mark(NamedTuple):
    """Which region has the newest change of something; until when this one's origin may lack it."""

    region: str
    until: float


class Markers:
    """The marks of one namespace.

    Args:
        life_s: Of a mark: the longest that a change takes to reach this region's origin.
        primary: The region whose database is written, wherever a change is made; empty if each writes its own.
        limit: Most keys that are marked one by one.
    """

    __slots__ = ("_keys", "_limit", "_selectors", "_unknown_until", "life_s", "primary")

    def __init__(self, life_s: float, primary: str = "", *, limit: int = 100_000) -> None:
        self.life_s = life_s
        self.primary = primary
        self._limit = limit
        self._keys: dict[bytes, Mark] = {}
        """The youngest is the last, and all live for as long."""
        self._selectors: deque[tuple[Selector, Mark]] = deque()
        self._unknown_until = float("-inf")

    def note(self, key: bytes, region: str, now: float) -> bool:
        """A key was changed in a region, `HERE` for this one. Return True if this region's origin may lack that."""
        by = self.primary or region
        known = self._keys.pop(key, None)
        if known is not None and known.until > now and known.region != by:
            self._keys[key] = Mark(HERE, now + self.life_s)
        else:
            self._keys[key] = Mark(by, now + self.life_s)
        self._prune(now)
        return by != HERE

    def note_selector(self, selector: Selector, region: str, now: float) -> bool:
        """All that a selector covers was changed in a region (see `note`)."""
        by = self.primary or region
        if selector.kind is SelectorKind.NAMESPACE:
            self.forget(now)
        else:
            self._selectors.append((selector, Mark(by, now + self.life_s)))
            self._prune(now)
        return by != HERE

    def forget(self, now: float) -> None:
        """Anything may have been changed anywhere: who has the newest of what is not known for the life of a mark."""
        self._lose(now + self.life_s)

    def of(self, key: bytes, tags: Sequence[bytes], now: float) -> Mark | None:
        """Return where a key is to be loaded from, None for here. Tags are those of its value, if that is known."""
        if now < self._unknown_until:
            return None
        marks = [mark for selector, mark in self._selectors if now < mark.until and selector.covers(key, tags)]
        mark = self._keys.get(key)
        if mark is not None and now < mark.until:
            marks.append(mark)
        if len({mark.region for mark in marks}) != 1 or marks[0].region == HERE:
            return None
        return Mark(marks[0].region, max(mark.until for mark in marks))

    def count(self, now: float) -> int:
        """Return how many marks are in force, about."""
        self._prune(now)
        return len(self._keys) + len(self._selectors)

    def _prune(self, now: float) -> None:
        keys, selectors = self._keys, self._selectors
        while keys and (keys[first := next(iter(keys))].until <= now or len(keys) > self._limit):
            self._lose(keys.pop(first).until)
        while selectors and (selectors[0][1].until <= now or len(selectors) > _MOST_SELECTORS):
            self._lose(selectors.popleft()[1].until)

    def _lose(self, until: float) -> None:
        if not self.primary:  # which has everything
            self._unknown_until = max(self._unknown_until, until)

    def __repr__(self) -> str:
        return f"<Markers {self.life_s:g} s, {len(self._keys)} keys, {len(self._selectors)} selectors>"
