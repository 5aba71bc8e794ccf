"""What was expired lately by prefix, pattern, tag or as a whole: values that may be served for a while, marked stale.

An expiry is a barrier whose covered entries are not dropped: they come to their soft end at once, and to their hard end
`stale_s` later, at the time `until`. From then on it is a barrier like any other. It has a position as barriers have,
and lies in a log of its own, for an entry that a removal covers too is dropped.

Nobody but the nodes that were told knows when an expiry was: whoever learns of it later, from the shared store or
another node, takes it for a removal. So does everybody once the log folds. That removes more than must be, never less.

Interleavings, each forced by a test of the same name in ``tests/core/test_expiries.py``:

1. ``removal_beside_an_expiry``: an entry that both cover is removed, whichever came first.
2. ``repeated_expiry_keeps_the_first_end``: a selector that is expired again before `until` keeps that end: else what
   is expired all the time would be served for ever. An entry from in between ends a little earlier than it might.
3. ``expiry_after_the_first_has_ended``: what the first one covers is gone for good, what came later gets its time.
4. ``overflow_removes``: a full log drops its oldest expiries, which become the removals' floor.
5. ``expiry_of_the_whole_namespace``: every key begins with the empty prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.barriers import BarrierLog
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind

__all__ = ["Expiries"]

_WHOLE = Selector(SelectorKind.NAMESPACE, EVERYTHING)
_EVERY_KEY = Selector(SelectorKind.PREFIX, b"")
"""A whole namespace as the log has it: there a barrier of that kind would raise the floor, which removes."""


class Expiries:
    """The expiries of one namespace.

    Args:
        removals: Its barriers; they take over what the log of expiries cannot hold.
        limit: Most expiries remembered one by one.
        globs: Most patterns among them.
    """

    __slots__ = ("_log", "_removals", "_until")

    def __init__(self, removals: BarrierLog, *, limit: int = 1_000, globs: int = 100) -> None:
        self._removals = removals
        self._log = BarrierLog(limit=limit, globs=globs)
        self._until: dict[Selector, float] = {}

    def note(self, position: int, selector: Selector, until: float, now: float) -> bool:
        """Take an expiry. Return False if there is nothing to do: one of no lower position covers all that it does.

        Args:
            position: Above which everything is spared.
            selector: What is covered.
            until: When the covered entries end, if they have not ended before.
            now: The time on the same clock.
        """
        noted = _EVERY_KEY if selector.kind is SelectorKind.NAMESPACE else selector
        former, floor = self._log.position_of(noted), self._log.floor
        if not self._log.note(position, noted):
            return False
        if former and self._until[noted] <= now:
            self._removals.note(former, selector)
            self._until[noted] = until
        else:
            self._until[noted] = min(until, self._until.get(noted, until))
        self._removals.advance(position)
        if self._log.floor > floor or position <= floor:
            self._removals.raise_floor(self._log.floor)
            self._until = {kept: self._until[kept] for _, kept in self._log.barriers()}
        return True

    def knows(self, position: int, selector: Selector) -> bool:
        """Return True if this very expiry is in the log."""
        noted = _EVERY_KEY if selector.kind is SelectorKind.NAMESPACE else selector
        return self._log.position_of(noted) == position

    def until(self, key: bytes, tags: Sequence[bytes], since: int) -> float | None:
        """Return when an entry whose write or load began at this position ends; None if no expiry covers it."""
        if since >= self._log.position:
            return None
        return min((self._until[selector] for selector in self._log.covering(key, tags, since)), default=None)

    def barriers(self) -> list[tuple[int, Selector]]:
        """Return positions and selectors, by position."""
        return [(position, _WHOLE if noted == _EVERY_KEY else noted) for position, noted in self._log.barriers()]

    def __len__(self) -> int:
        return len(self._log)

    def __repr__(self) -> str:
        return f"<Expiries {len(self._log)}>"
