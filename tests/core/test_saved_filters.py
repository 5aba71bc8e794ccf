"""When a merge of saved filters may be believed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.bloom import Base, KeyFilter
from cachenode.core.saved_filters import (
    FOR_EVER,
    BadRecord,
    Head,
    Index,
    Life,
    Merge,
    Record,
    Refused,
    lives_of,
    plan_merge,
)

A, B, C, A2 = ("a", "1"), ("b", "1"), ("c", "1"), ("a", "2")
BASE = Base(7, 3, 5, False, 1_000, 0.01, 10, 99.0)


def bits(*keys: bytes, room: int = 1_000) -> bytes:
    """Return a filter of some keys."""
    held = KeyFilter(room, 0.01)
    for key in keys:
        held.add(key)
    return held.save()


def record(life: Life, through: int, views: dict[int, tuple[Life, ...]], *keys: bytes, base: Base = BASE) -> Record:
    """Return what a node with a filter saves."""
    return Record(life, through, views, 5, base, bits(*keys))


def early(life: Life, through: int, views: dict[int, tuple[Life, ...]], *keys: bytes) -> Record:
    """Return what a node saves that has no filter yet."""
    return Record(life, through, views, 5, keys=keys)


def plan(*records: Record, epoch: int, members: tuple[Life, ...], position: int = 5) -> Merge:
    """Plan a merge."""
    return plan_merge(records, epoch=epoch, members=members, position=position)


def whole(record: Record) -> Record:
    """Save and read a record."""
    body = record.body()
    return Head.parse(record.head(body)).with_body(body)


VIEWS: dict[int, tuple[Life, ...]] = {3: (A, B)}


def test_newcomer() -> None:
    """Those who were there have saved what they wrote until then; what the newcomer wrote is put in as well."""
    records = (record(A, 3, VIEWS, b"a"), record(B, 3, VIEWS, b"b"), early(C, 3, {4: (A, B, C)}, b"c"))
    found = plan(*records, epoch=4, members=(A, B, C))
    assert found.base == BASE
    assert found.life in (A, B)
    assert found.needed == {A, B, C}
    united = found.unite(map(whole, records))
    assert all(key in united for key in (b"a", b"b", b"c"))
    assert b"d" not in united


def test_member_that_was_killed() -> None:
    """It has claimed nothing for its last view."""
    left = (record(A, 4, VIEWS | {4: (A, B)}), record(B, 3, VIEWS))
    with pytest.raises(Refused, match="gone without saving"):
        plan(*left, epoch=5, members=(A,))
    with pytest.raises(Refused, match="gone without saving"):
        plan(left[0], epoch=5, members=(A,))
    with pytest.raises(Refused, match="gone without saving"):  # not even a member that is there
        plan(record(A, 3, VIEWS), record(B, 3, VIEWS), epoch=4, members=(A, B, C))


def test_all_have_left() -> None:
    """Each has learned from the registry the view without itself, and the lives are told apart."""
    records = (
        record(A, FOR_EVER, {3: (A, B), 5: ()}),
        record(B, FOR_EVER, {3: (A, B), 4: (A,)}),
        early(A2, 5, {6: (A2,)}),
    )
    found = plan(*records, epoch=6, members=(A2,))
    assert found.needed == {A, B, A2}
    assert found.life in (A, B)


def test_view_that_nobody_knows() -> None:
    """Somebody may have joined, written and gone."""
    with pytest.raises(Refused, match="not known"):
        plan(record(A, FOR_EVER, {3: (A,), 5: ()}), early(A2, 5, {6: (A2,)}), epoch=6, members=(A2,))


def test_epoch_that_was_given_twice() -> None:
    """A life that nobody has heard of has acted under it."""
    with pytest.raises(Refused, match="the same epoch"):
        plan(record(A, FOR_EVER, {3: (A,)}), early(A2, 2, {3: (A2,)}), epoch=3, members=(A2,))


def test_epochs_that_have_gone_back() -> None:
    """A base of a later view than this one is of another count of epochs."""
    with pytest.raises(Refused, match="nobody has a filter"):
        plan(record(A, FOR_EVER, VIEWS), early(A2, 1, {2: (A2,)}), epoch=2, members=(A2,))


def test_newest_base_is_taken() -> None:
    """The fewer views come after it the less has to be known; who has an older one still says what it wrote."""
    newer = replace(BASE, number=9, epoch=4)
    records = (record(A, 4, {4: (A, B)}, b"a", base=newer), record(B, 4, VIEWS, b"b"))
    found = plan(*records, epoch=5, members=(A, B))
    assert found.base is newer
    assert b"b" in found.unite(records)


def test_barrier_that_is_known_no_more() -> None:
    """The store has lost it: the origin may have changed under it."""
    with pytest.raises(Refused, match="lost invalidations"):
        plan(record(A, FOR_EVER, VIEWS), epoch=4, members=(A,), position=4)


def test_suspended_base() -> None:
    """A tag was invalidated since: any key may have a value."""
    with pytest.raises(Refused, match="a tag"):
        plan(record(A, 3, VIEWS, base=replace(BASE, suspended=True)), epoch=4, members=(A,))


def test_sizes_that_differ() -> None:
    """They cannot be put together."""
    records = (record(A, 3, VIEWS), replace(record(B, 3, VIEWS), bits=bits(room=9_000)))
    found = plan(*records, epoch=4, members=(A, B))
    with pytest.raises(Refused, match="another size"):
        found.unite(records)
    with pytest.raises(Refused, match="damaged"):
        found.unite(records[:1])


@given(
    st.lists(st.binary(max_size=20)),
    st.dictionaries(st.integers(1, 99), st.lists(st.sampled_from([A, B, C])), max_size=9),
)
def test_record_is_read_as_it_was_saved(keys: list[bytes], views: dict[int, list[Life]]) -> None:
    """With bits, with keys, and with both."""
    seen = {epoch: tuple(lives) for epoch, lives in views.items()}
    for saved in (
        early(A, 7, seen, *keys),
        record(B, FOR_EVER, seen, *keys),
        replace(record(C, 1, seen), keys=(b"k",)),
    ):
        assert whole(saved) == saved
        assert lives_of([saved]) == {saved.life, *(life for lives in seen.values() for life in lives)}


def test_old_views_are_left_out() -> None:
    """A record has the newest thirty-two."""
    saved = whole(early(A, 1, dict.fromkeys(range(100), (A,))))
    assert sorted(saved.views) == list(range(68, 100))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"hash": "md5"},
        {"life": None},
        {"life": []},
        {"views": []},
        {"base": {"number": 1}},
        {"base": asdict(BASE) | {"error": 1}},
        {"base": asdict(BASE) | {"error": 0}},
        {"base": asdict(BASE) | {"room": 0}},
        {"base": asdict(BASE) | {"room": 10**12}},
        {"base": asdict(BASE) | {"epoch": "x"}},
        {"through": "x"},
    ],
)
def test_record_that_does_not_fit(change: dict[str, object]) -> None:
    """Of a later format, of another hash, or damaged."""
    saved = record(A, 3, VIEWS, b"k")
    body = saved.body()
    head = json.loads(saved.head(body))
    with pytest.raises(BadRecord):
        Head.parse(json.dumps(head | change).encode())


def test_damaged_record() -> None:
    """Not even one bit may be other than it was."""
    saved = record(A, 3, VIEWS, b"k")
    body = saved.body()
    head = Head.parse(saved.head(body))
    for damaged in (b"", body[:-1], body + b"x", bytes([body[0] ^ 1]) + body[1:]):
        with pytest.raises(BadRecord, match="damaged"):
            head.with_body(damaged)
    for text in (b"", b"[]", b"{}", b"\xff"):
        with pytest.raises(BadRecord):
            Head.parse(text)


def test_index() -> None:
    """It says where to begin, or is refused."""
    index = Index(1_000, 0.01, (A, B))
    assert Index.parse(index.save()) == index
    found = json.loads(index.save())
    changes: list[dict[str, object]] = [{"format": 2}, {"lives": 1}, {"error": 1.0}, {"room": -1}]
    for text in (b"", b"[]", *(json.dumps(found | change).encode() for change in changes)):
        with pytest.raises(BadRecord):
            Index.parse(text)
