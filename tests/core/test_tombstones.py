"""Tombstones: what they refuse, for how long, and what happens when there are too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.tombstones import Tombstones


def test_refuses_what_is_as_old_and_nothing_else() -> None:
    """Versions up to the removal's are refused, higher ones and other keys are not."""
    tombstones = Tombstones()
    tombstones.note(b"k", 5, 0.0)
    assert [tombstones.covers(b"k", version, 1.0) for version in (4, 5, 6)] == [True, True, False]
    assert not tombstones.covers(b"other", 4, 1.0)


def test_the_higher_of_two_removals_counts() -> None:
    """Removals noted out of order leave the newest."""
    tombstones = Tombstones()
    tombstones.note(b"k", 9, 0.0)
    tombstones.note(b"k", 5, 1.0)
    assert tombstones.covers(b"k", 8, 2.0)


def test_old_ones_are_forgotten() -> None:
    """After their time tombstones go when others come, and raise no floor."""
    tombstones = Tombstones(keep_s=10)
    tombstones.note(b"old", 5, 0.0)
    tombstones.note(b"new", 6, 10.0)
    assert len(tombstones) == 1
    assert not tombstones.covers(b"old", 5, 10.0)


def test_overflow_becomes_a_floor_for_as_long_as_needed() -> None:
    """Of too many the oldest refuse everything up to their version, for every key, until their time is over."""
    tombstones = Tombstones(keep_s=10, limit=2)
    for version, key in enumerate((b"a", b"b", b"c"), 1):
        tombstones.note(key, version, float(version))
    assert len(tombstones) == 2
    assert tombstones.covers(b"a", 1, 5.0)
    assert tombstones.covers(b"never removed", 1, 5.0)
    assert not tombstones.covers(b"never removed", 2, 5.0)
    assert not tombstones.covers(b"a", 1, 11.0)


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 3)), max_size=40),
    st.integers(1, 4),
)
def test_never_forgets_too_early(removals: list[tuple[bytes, int]], limit: int) -> None:
    """Whatever the limit, a removal younger than its time refuses all that is as old. Scenario 18."""
    tombstones, now, noted = Tombstones(keep_s=5, limit=limit), 0.0, list[tuple[bytes, int, float]]()
    for version, (key, wait) in enumerate(removals, 1):
        now += wait
        tombstones.note(key, version, now)
        noted.append((key, version, now))
        for other, removed, at in noted:
            if now < at + 5:
                assert tombstones.covers(other, removed, now)


def test_version_of_a_removal() -> None:
    """The version of a removal is known for as long as it is remembered."""
    tombstones = Tombstones(keep_s=10)
    tombstones.note(b"k", 5, now=0)
    assert [tombstones.version_of(b"k", now) for now in (0, 9.9, 10)] == [5, 5, 0]
    assert tombstones.version_of(b"other", 0) == 0
