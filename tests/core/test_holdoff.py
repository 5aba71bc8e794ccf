"""Hold-off: which loads are not stored, against a plain list of removals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core import holdoff as module
from cachenode.core.holdoff import Holdoff
from cachenode_api.selectors import SelectorKind, make_selector

KEYS = [b"a1", b"a2", b"b1"]
HOLDOFF_S = 2.0


@given(
    removals=st.lists(st.tuples(st.floats(0, 20), st.sampled_from([*KEYS, b"a*", b"tag"])), max_size=12),
    key=st.sampled_from(KEYS),
    tagged=st.booleans(),
    began=st.floats(0, 25),
)
def test_as_a_list_of_removals(removals: list[tuple[float, bytes]], key: bytes, tagged: bool, began: float) -> None:
    """A load is held off if it began within the time after a removal of its key, its prefix or its tag."""
    holdoff = Holdoff(HOLDOFF_S)
    expected = False
    for at, what in sorted(removals):
        if what == b"a*":
            holdoff.note_barrier(make_selector(SelectorKind.PREFIX, b"a"), at)
            covered = key.startswith(b"a")
        elif what == b"tag":
            holdoff.note_barrier(make_selector(SelectorKind.TAG, b"tag"), at)
            covered = tagged
        else:
            holdoff.note(what, at)
            covered = what == key
        expected |= covered and began < at + HOLDOFF_S
    assert holdoff.covers(key, [b"tag"] if tagged else [], began) is expected


def test_off() -> None:
    """Without a time nothing is remembered and nothing held off."""
    holdoff = Holdoff(0)
    holdoff.note(b"k", 1.0)
    holdoff.note_barrier(make_selector(SelectorKind.PREFIX, b"k"), 1.0)
    holdoff.note_all(1.0)
    assert not holdoff.covers(b"k", (), 1.0)
    assert "0 keys, 0 selectors" in repr(holdoff)


def test_too_many_hold_everything_off() -> None:
    """What cannot be remembered one by one is remembered as all: never less than must be."""
    holdoff = Holdoff(HOLDOFF_S, limit=2)
    for n in range(4):
        holdoff.note(b"%d" % n, float(n))
    assert holdoff.covers(b"never removed", (), 2.9)
    assert not holdoff.covers(b"never removed", (), 3.1)
    assert holdoff.covers(b"3", (), 4.9)
    for n in range(module._MOST_SELECTORS + 1):
        holdoff.note_barrier(make_selector(SelectorKind.PREFIX, b"%d" % n), 10.0)
    assert holdoff.covers(b"never removed", (), 11.9)


def test_old_removals_are_forgotten() -> None:
    """Memory holds what a load under way may still be judged by, and no more."""
    holdoff = Holdoff(HOLDOFF_S)
    holdoff.note(b"k", 0.0)
    holdoff.note_barrier(make_selector(SelectorKind.PREFIX, b"k"), 0.0)
    holdoff.note(b"other", 100.0)
    holdoff.note_barrier(make_selector(SelectorKind.PREFIX, b"o"), 100.0)
    assert "1 keys, 1 selectors" in repr(holdoff)
    assert holdoff.covers(b"k", (), 1.0)


def test_after_a_change_of_view() -> None:
    """Nobody told what was removed before."""
    holdoff = Holdoff(HOLDOFF_S)
    holdoff.note_all(5.0)
    assert [holdoff.covers(b"k", (), began) for began in (4.0, 6.9, 7.0)] == [True, True, False]
