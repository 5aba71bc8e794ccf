"""Holds loaded values off for a while after a removal: a loader may read a replica of the origin that lags behind.

Who commits a change and invalidates has done all that it can. But a load that begins a moment later may read a replica
which has not heard of the change yet, and what it brings would be kept for its whole life. So for as long as replicas
may lag, loads of what was removed are handed to those who asked and not stored; the next caller loads again.
(Facebook's memcache holds off for 2 s for the same reason: Nishtala et al., NSDI 2013, "remote markers" and leases.)

Writes are not held off: they bring the value themselves. Nobody tells a new owner what was removed before its time, so
after a change of view everything is held off once. Too many removed keys hold everything off too: more loads than must
be, never an older value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cachenode_api.selectors import Selector

__all__ = ["Holdoff"]

_LONGEST_LOAD_S = 60.0
_MOST_SELECTORS = 1_000


class Holdoff:
    """What was removed lately in one namespace.

    Args:
        holdoff_s: How long loads are held off after a removal; 0: not at all.
        limit: Most keys remembered one by one.
    """

    __slots__ = ("_all_until", "_any", "_keys", "_limit", "_s", "_selectors")

    def __init__(self, holdoff_s: float, *, limit: int = 100_000) -> None:
        self._s = holdoff_s
        self._any = False
        self._limit = limit
        self._keys: dict[bytes, float] = {}
        self._selectors: deque[tuple[float, Selector]] = deque()
        self._all_until = 0.0

    def change(self, holdoff_s: float, now: float) -> None:
        """Hold loads off for longer or shorter from now on.

        What was removed before was noted for the former time, or not at all: so if it was shorter, everything is held
        off once.
        """
        longer, self._s = holdoff_s > self._s, holdoff_s
        if longer:
            self.note_all(now)

    def note(self, key: bytes, now: float, holdoff_s: float = 0.0) -> None:
        """A key was removed. What is loaded is held off for as long as ever, or longer if this says so."""
        if seconds := max(self._s, holdoff_s):
            self._any = True
            known = self._keys.pop(key, 0.0)  # so that the youngest is the last
            self._keys[key] = max(known, now + seconds)
            self._prune(now)

    def note_barrier(self, selector: Selector, now: float, holdoff_s: float = 0.0) -> None:
        """All that a selector covers was declared untrue (see `note`)."""
        if seconds := max(self._s, holdoff_s):
            self._any = True
            self._selectors.append((now + seconds, selector))
            self._prune(now)

    def note_all(self, now: float, holdoff_s: float = 0.0) -> None:
        """Anything may have been removed (see `note`)."""
        if seconds := max(self._s, holdoff_s):
            self._any = True
            self._all_until = max(self._all_until, now + seconds)

    def covers(self, key: bytes, tags: Sequence[bytes], began: float) -> bool:
        """Return True if a load that began at this time must not be stored."""
        if not self._any:
            return False
        if began < self._all_until or began < self._keys.get(key, 0.0):
            return True
        return any(began < until and selector.covers(key, tags) for until, selector in self._selectors)

    def _prune(self, now: float) -> None:
        # A load may have begun while what it is judged by was in force, and come when it no longer is: so it is kept
        # for as long as a load may take.
        keys, selectors = self._keys, self._selectors
        while keys and (keys[first := next(iter(keys))] < now - _LONGEST_LOAD_S or len(keys) > self._limit):
            self._all_until = max(self._all_until, keys.pop(first))
        while selectors and (selectors[0][0] < now - _LONGEST_LOAD_S or len(selectors) > _MOST_SELECTORS):
            self._all_until = max(self._all_until, selectors.popleft()[0])

    def __repr__(self) -> str:
        return f"<Holdoff {self._s:g} s, {len(self._keys)} keys, {len(self._selectors)} selectors>"


_LONGEST_LOAD_S = 60.0
