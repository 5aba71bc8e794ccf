"""The filter itself, and when its rebuilds are due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.bloom import Base, Bloom, KeyFilter, Source
from cachenode.core.rebuilds import Rebuilds
from cachenode.core.schedule import Schedule, parse_schedule


def base_of(listed: int, *, epoch: int = 1, position: int = 0) -> Base:
    """Return what a list of so many keys is good for."""
    return Base(1, epoch, position, False, 1_000, 0.01, listed, 5.0)


def test_error_is_about_what_was_asked_for() -> None:
    """Full as expected, one in a hundred absent keys passes, and half the bits are set."""
    keys = KeyFilter(10_000, 0.01)
    for number in range(10_000):
        keys.add(b"in:%d" % number)
    assert all(b"in:%d" % number in keys for number in range(10_000))
    passed = sum(b"out:%d" % number in keys for number in range(10_000))
    assert 50 < passed < 200
    assert 0.45 < keys.fill() < 0.55
    assert 11_000 < keys.size_bytes < 13_000


@given(st.sets(st.binary(min_size=1, max_size=8)), st.sets(st.binary(min_size=1, max_size=8)))
def test_united_filters_have_both(ours: set[bytes], theirs: set[bytes]) -> None:
    """Saved and read by another process, whose hash is the same."""
    first, second = KeyFilter(1_000, 0.01), KeyFilter(1_000, 0.01)
    for key in ours:
        first.add(key)
    for key in theirs:
        second.add(key)
    assert first.unite(second.save())
    assert all(key in first for key in ours | theirs)


def test_hash_is_stable() -> None:
    """Nodes of different releases must agree about the bits of a key."""
    keys = KeyFilter(8, 0.1)
    keys.add(b"key")
    assert keys.save().hex() == "03000000000000000000000218"


def test_filters_of_other_sizes_stay_apart() -> None:
    """A node that is configured otherwise consults none."""
    assert not KeyFilter(1_000, 0.01).unite(KeyFilter(100_000, 0.01).save())
    bloom = Bloom(1_000, 0.01)
    assert bloom.begin(1, 1_000, 0.01, 1, 0)
    assert not bloom.take(1, 0, 1, KeyFilter(100_000, 0.01).save(), base_of(0), Source.BUILT)
    assert bloom.counters(0.0, 1).state == "none"


def test_parts_come_in_any_order_and_twice() -> None:
    """Nothing is in use until all are there."""
    bloom, keys = Bloom(1_000, 0.01), KeyFilter(1_000, 0.01)
    keys.add(b"k")
    saved = keys.save()
    bloom.begin(1, 1_000, 0.01, 1, 0)
    assert bloom.begin(1, 1_000, 0.01, 2, 0)  # the order was sent again
    for part in (1, 1, 0):
        assert bloom.rebuilds == 0
        assert bloom.take(1, part, 2, saved[:100] if part == 0 else saved[100:], base_of(9), Source.BUILT)
    assert (bloom.rebuilds, bloom.epoch) == (1, 1)
    assert bloom.take(1, 0, 2, saved[:100], base_of(9), Source.BUILT)
    assert not bloom.take(2, 0, 2, saved[:100], base_of(9), Source.BUILT)
    assert bloom.absent(b"x", lambda _key, _since: True, lambda *_: False)
    assert not bloom.absent(b"k", lambda _key, _since: True, lambda *_: False)


def test_room_grows_with_the_origin() -> None:
    """A filter that was too small for what was listed is larger the next time."""
    bloom = Bloom(1_000, 0.01)
    bloom.begin(1, bloom.room, 0.01, 1, 0)
    bloom.take(1, 0, 1, KeyFilter(1_000, 0.01).save(), base_of(4_000), Source.BUILT)
    assert bloom.room == 5_000


def test_rebuild_that_is_given_up() -> None:
    """Its fresh filter goes; one of another number stays."""
    bloom = Bloom(1_000, 0.01)
    bloom.begin(1, 1_000, 0.01, 1, 0)
    bloom.give_up(2)
    assert bloom.counters(0.0, 1).building
    bloom.give_up(1)
    assert not bloom.counters(0.0, 1).building


def test_failures_are_followed_by_pauses() -> None:
    """Five seconds, ten, and so on; success ends that."""
    plan = Rebuilds(Schedule(every_s=1e9))
    plan.due(0.0, 0.0, epoch=1, built=0)
    now = 2.0
    for pause in (5.0, 10.0, 20.0):
        assert plan.due(now, 0.0, epoch=1, built=0)
        plan.begin(now, 0.0)
        plan.end(now, succeeded=False)
        assert not plan.due(now + pause - 0.1, 0.0, epoch=1, built=0)
        now += pause
    plan.begin(now, 0.0)
    plan.end(now + 3.0, succeeded=True)
    assert not plan.due(now + 32.0, 0.0, epoch=2, built=1)
    assert plan.due(now + 35.0, 0.0, epoch=2, built=1), "ten times as long as it took"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        (" 6h ", 21_600.0),
        ("1d", 86_400.0),
        ("*/15 * * * *", 900.0),
        ("0 3 * * *", 10_800.0),
    ],
)
def test_schedules(text: str, after: float) -> None:
    """An interval counts from the time given; a cron expression is in UTC."""
    assert parse_schedule(text).after(0.0) == after


@pytest.mark.parametrize(
    "text", ["", "6", "0s", "400d", "* * * *", "61 * * * *", "0 0 31 2 *", "@daily", "* * * * * *"]
)
def test_bad_schedules(text: str) -> None:
    """The rule is told, the text is not repeated."""
    with pytest.raises(ValueError, match=r"must be an interval"):
        parse_schedule(text)
