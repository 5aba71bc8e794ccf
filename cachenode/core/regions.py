"""What regions tell each other, and what the two ends of a link make of it: decisions only.

A *region* is a cluster with a shared store of its own. What is written or declared untrue in one is appended to that
region's *outbox* and told to each other region, which declares it untrue too. An outbox is numbered without gaps from 1
and has an id; another id means that an outbox, with what was in it, is lost. A *cursor* says up to where in which
outbox a region has acted; it is kept there, by who acts, so that whatever comes again is recognised.

The only thing that a region says to another is "this is untrue". That can be said twice, late, and in any order with
other such words: versions of two regions are never compared, nor are clocks. Whoever cannot be told everything is told
a *gap*: all is untrue up to the outbox's head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cachenode_api.selectors import EVERYTHING, SelectorKind

__all__ = [
    "Cursor",
    "Intake",
    "Outgoing",
    "Owed",
    "RegionEntry",
    "Shipment",
    "intake",
    "next_shipment",
    "split_entry",
]

_MOST_KEYS = 256
_MOST_BYTES = 16 * 1_024
"""Of an entry: some of them must fit into the smallest frame that a node may be set to take (64 KiB)."""


class Cursor(NamedTuple):
    """A place in an outbox: everything up to the entry of this number, 0 for nothing."""

    outbox: str
    sequence: int


class RegionEntry(NamedTuple):
    """What has become untrue in one namespace.

    Attributes:
        namespace: Its name.
        texts: Keys; or texts of selectors, if there are kinds.
        kinds: The kind of each selector (`cachenode_api.selectors.SelectorKind`).
        expire: Whether the namespace may serve it for a while, marked.
        written: Whether the keys have values now, which another region may ask for.
    """

    namespace: str
    texts: tuple[bytes, ...]
    kinds: tuple[int, ...] = ()
    expire: bool = False
    written: bool = False


class Outgoing(NamedTuple):
    """What an outbox has for one other region, as its sender sees it.

    Attributes:
        outbox: Its id.
        head: Number of the newest entry, 0 if there was none yet.
        after: The entries are those after this number: what was asked for, or the last that is known to have arrived.
        entries: Number and entry, in order; fewer than there are if they are many.
        oldest_s: Age of the first of them; 0 if there is none.
        paused: Whether nothing is to be sent.
    """

    outbox: str
    head: int
    after: int
    entries: tuple[tuple[int, RegionEntry], ...] = ()
    oldest_s: float = 0.0
    paused: bool = False

    @property
    def waiting(self) -> int:
        """Entries that have not arrived."""
        return max(0, self.head - self.after)


class Shipment(NamedTuple):
    """What is sent to another region at a time: the entries after a cursor; or, if `gap`, that some are missing.

    After a gap everything up to the head of the outbox is untrue.
    """

    outbox: str
    after: int
    head: int
    entries: tuple[RegionEntry, ...] = ()
    gap: bool = False


def next_shipment(cursor: Cursor | None, found: Outgoing) -> Shipment | None:
    """Return what to send to a region whose cursor is known, None if there is nothing.

    Args:
        cursor: As the region has told it; None if it has none, being new or having lost it.
        found: What was asked for after this cursor.
    """
    if cursor is not None and cursor.outbox == found.outbox and cursor.sequence > found.head:
        return Shipment(found.outbox, cursor.sequence, found.head, gap=True)  # entries went without the outbox's id
    if cursor is None or cursor.outbox != found.outbox:
        return Shipment(found.outbox, 0, found.head, gap=True)
    if cursor.sequence == found.head:
        return None
    wanted = range(cursor.sequence + 1, cursor.sequence + 1 + len(found.entries))
    if not found.entries or any(number != at for (number, _), at in zip(found.entries, wanted, strict=True)):
        return Shipment(found.outbox, cursor.sequence, found.head, gap=True)
    return Shipment(found.outbox, cursor.sequence, found.head, tuple(entry for _, entry in found.entries))


class Intake(NamedTuple):
    """What a region does with a shipment.

    Attributes:
        entries: To act on.
        gap: Whether everything is to be declared untrue.
        cursor: Where that leads; None if nothing can be done with the shipment, or nothing needs to be.
        known: How many of its entries had been acted on before.
    """

    entries: tuple[RegionEntry, ...] = ()
    gap: bool = False
    cursor: Cursor | None = None
    known: int = 0


def intake(cursor: Cursor | None, shipment: Shipment) -> Intake:
    """Return what to do with a shipment where the cursor of its origin is known."""
    reached = cursor.sequence if cursor is not None and cursor.outbox == shipment.outbox else -1
    if shipment.gap:
        if shipment.after <= shipment.head <= reached:
            return Intake(known=1)
        return Intake(gap=True, cursor=Cursor(shipment.outbox, shipment.head))
    if reached < shipment.after:
        return Intake()  # there is something missing in between: who sends learns the cursor and tells a gap
    known = min(reached - shipment.after, len(shipment.entries))
    entries, end = shipment.entries[known:], shipment.after + len(shipment.entries)
    return Intake(entries, cursor=Cursor(shipment.outbox, end) if entries else None, known=known)


def split_entry(entry: RegionEntry) -> Iterator[RegionEntry]:
    """Yield the same in entries that are not too large to travel."""
    first, size = 0, 0
    for at, text in enumerate(entry.texts):
        if at > first and (size + len(text) > _MOST_BYTES or at - first >= _MOST_KEYS):
            yield entry._replace(texts=entry.texts[first:at], kinds=entry.kinds[first:at])
            first, size = at, 0
        size += len(text)
    yield entry._replace(texts=entry.texts[first:], kinds=entry.kinds[first:])


class Owed:
    """What could not be appended to the outbox, and must be before the others have heard all.

    Beyond its limit it knows only which namespaces are concerned: everything in them is untrue then.

    Args:
        limit: Entries that it keeps.
    """

    __slots__ = ("_entries", "_limit", "_whole")

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._entries: list[RegionEntry] = []
        self._whole: dict[str, None] = {}

    def add(self, entries: Sequence[RegionEntry]) -> None:
        """Owe these too."""
        self._entries += [entry for entry in entries if entry.namespace not in self._whole]
        if len(self._entries) > self._limit:
            self._whole |= dict.fromkeys(entry.namespace for entry in self._entries)
            self._entries = []

    def take(self, most: int) -> list[RegionEntry]:
        """Take out what is to be appended next, about so much."""
        taken = [RegionEntry(name, (EVERYTHING,), (SelectorKind.NAMESPACE.value,)) for name in self._whole]
        self._whole = {}
        taken += self._entries[:most]
        del self._entries[:most]
        return taken

    def __len__(self) -> int:
        return len(self._entries) + len(self._whole)
