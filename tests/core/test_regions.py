"""What is sent to a region, what it makes of that, and what is owed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.regions import (
    Cursor,
    Intake,
    Outgoing,
    Owed,
    RegionEntry,
    Shipment,
    intake,
    next_shipment,
    split_entry,
)
from cachenode_api.selectors import EVERYTHING, SelectorKind

BOX = "run:1"


def entry(number: int) -> RegionEntry:
    return RegionEntry("users", (b"%d" % number,))


def outgoing(first: int, last: int, *, head: int, outbox: str = BOX) -> Outgoing:
    return Outgoing(outbox, head, first - 1, tuple((number, entry(number)) for number in range(first, last + 1)))


def shipment(first: int, last: int) -> Shipment:
    return Shipment(BOX, first - 1, last, tuple(map(entry, range(first, last + 1))))


def test_what_follows_the_cursor_is_sent() -> None:
    """As much as was found."""
    sent = next_shipment(Cursor(BOX, 3), outgoing(4, 6, head=9))
    assert sent == Shipment(BOX, 3, 9, (entry(4), entry(5), entry(6)))


def test_nothing_is_sent_to_who_has_all() -> None:
    """The cursor is at the head."""
    assert next_shipment(Cursor(BOX, 9), outgoing(10, 9, head=9)) is None


@pytest.mark.parametrize(
    ("cursor", "found"),
    [
        (None, outgoing(1, 3, head=3)),
        (None, outgoing(1, 0, head=0)),
        (Cursor("run:0", 2), outgoing(3, 3, head=3)),
        (Cursor(BOX, 1), outgoing(3, 3, head=3)),
        (Cursor(BOX, 1), outgoing(2, 1, head=3)),
        (Cursor(BOX, 5), outgoing(4, 3, head=3)),
    ],
    ids=["new", "new-and-empty", "lost-outbox", "trimmed", "evicted", "fewer-than-told"],
)
def test_what_cannot_be_told_is_a_gap(cursor: Cursor | None, found: Outgoing) -> None:
    """Up to the head: and whoever is told that once is there."""
    sent = next_shipment(cursor, found)
    assert sent is not None
    assert sent.gap
    done = intake(cursor, sent)
    assert done == Intake(gap=True, cursor=Cursor(BOX, found.head))
    if sent.after <= sent.head:
        assert intake(done.cursor, sent) == Intake(known=1)


def test_what_was_acted_on_is_known() -> None:
    """What comes again, whole or in part, has no effect."""
    assert intake(Cursor(BOX, 3), shipment(4, 6)) == Intake(
        (entry(4), entry(5), entry(6)), cursor=Cursor(BOX, 6), known=0
    )
    assert intake(Cursor(BOX, 5), shipment(4, 6)) == Intake((entry(6),), cursor=Cursor(BOX, 6), known=2)
    for reached in (6, 7, 99):
        assert intake(Cursor(BOX, reached), shipment(4, 6)) == Intake(known=3)


@pytest.mark.parametrize("cursor", [None, Cursor(BOX, 2), Cursor("run:0", 3)])
def test_nothing_is_acted_on_past_a_hole(cursor: Cursor | None) -> None:
    """What is missing in between must be told first."""
    assert intake(cursor, shipment(4, 6)) == Intake()


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), max_size=30))
def test_however_it_comes_all_is_acted_on_once_and_in_order(arrivals: list[tuple[int, int]]) -> None:
    """Shipments that come twice, late and in any order: each entry once, none left out."""
    cursor, acted = Cursor(BOX, 0), list[RegionEntry]()
    for first, more in [*arrivals, (1, 16)]:
        work = intake(cursor, shipment(first, first + more))
        acted += work.entries
        cursor = work.cursor or cursor
    assert acted == list(map(entry, range(1, cursor.sequence + 1)))
    assert cursor.sequence >= 16


def test_large_entries_are_split() -> None:
    """By keys and by bytes; texts keep their kinds, and nothing is lost."""
    keys = RegionEntry("users", tuple(b"%d" % number for number in range(600)), expire=True)
    parts = list(split_entry(keys))
    assert [len(part.texts) for part in parts] == [256, 256, 88]
    assert all(part.expire and part.kinds == () for part in parts)
    tags = RegionEntry("users", tuple(b"%d" % number + b"x" * 1_000 for number in range(40)), tuple(range(40)))
    parts = list(split_entry(tags))
    assert all(sum(map(len, part.texts)) <= 16 * 1_024 for part in parts)
    assert sum((part.texts for part in parts), ()) == tags.texts
    assert sum((part.kinds for part in parts), ()) == tags.kinds


def test_what_is_owed_is_taken_in_order() -> None:
    """As much as is asked for, and once."""
    owed = Owed()
    owed.add([entry(1), entry(2)])
    owed.add([entry(3)])
    assert len(owed) == 3
    assert owed.take(2) == [entry(1), entry(2)]
    assert owed.take(2) == [entry(3)]
    assert owed.take(2) == []


def test_too_much_owed_becomes_everything() -> None:
    """Over-invalidated, never forgotten; later entries of that namespace say nothing new until it is taken."""
    owed = Owed(limit=2)
    owed.add([entry(1), RegionEntry("pages", (b"p",)), entry(2)])
    owed.add([entry(3), RegionEntry("carts", (b"c",))])
    whole = [RegionEntry(name, (EVERYTHING,), (SelectorKind.NAMESPACE.value,)) for name in ("users", "pages")]
    assert owed.take(10) == [*whole, RegionEntry("carts", (b"c",))]
    owed.add([entry(4)])
    assert owed.take(10) == [entry(4)]
