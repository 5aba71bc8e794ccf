"""Whether caching pays, which TTL and which pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.advise import Advice, Measured, Pattern, Thresholds, Wishes, advise
from cachenode_client import advise as offered

GOOD = Measured(seconds=3_600, reads=90_000, hits=81_000, writes=0, invalidations=120, keys=2_000, loads=9_000)
DEAR = replace(GOOD, load_seconds=9_000 * 0.15, bytes=2_000 * 500)

_counts = st.floats(0, 1e9)
MEASURED = st.builds(
    Measured,
    seconds=st.floats(0, 1e7),
    reads=_counts,
    hits=_counts,
    writes=_counts,
    invalidations=_counts,
    keys=_counts,
    bytes=_counts,
    stale_reads=_counts,
    loads=_counts,
    load_seconds=_counts,
    reads_through=st.booleans(),
).map(lambda each: replace(each, hits=min(each.hits, each.reads), stale_reads=min(each.stale_reads, each.hits)))
WISHES = st.builds(
    Wishes,
    staleness_s=st.none() | st.floats(0.001, 1e6),
    consistent=st.booleans(),
    load_s=st.none() | st.floats(0, 100),
)


def given_by(measured: Measured = DEAR, thresholds: Thresholds | None = None, **wishes: Any) -> Advice:
    return advise(measured, Wishes(**wishes), thresholds)


@given(measured=MEASURED, wishes=WISHES)
def test_advice_is_whole(measured: Measured, wishes: Wishes) -> None:
    """It says yes with a TTL and a pattern, or no with a reason, or what is missing; and never two of these."""
    advice = advise(measured, wishes)
    assert (advice.cache is None) == bool(advice.missing)
    assert bool(advice.numbers) == (advice.cache is not None)
    assert (advice.ttl_s is not None) == (advice.pattern is not None) == (advice.cache is True)
    assert bool(advice.reasons) == (advice.cache is not None)
    if advice.ttl_s is not None and wishes.staleness_s is not None:
        assert 0 < advice.ttl_s <= wishes.staleness_s


@given(measured=MEASURED, wishes=WISHES, dearer=st.floats(1, 1_000))
def test_dearer_loads_are_never_a_reason_against(measured: Measured, wishes: Wishes, dearer: float) -> None:
    """What is worth caching stays so when its loads take longer."""
    load_s = None if wishes.load_s is None else wishes.load_s * dearer
    more = replace(measured, load_seconds=measured.load_seconds * dearer)
    if advise(measured, wishes).cache:
        assert advise(more, replace(wishes, load_s=load_s)).cache


@given(measured=MEASURED, wishes=WISHES, more=st.floats(1, 1e6))
def test_more_changes_never_lengthen_the_ttl(measured: Measured, wishes: Wishes, more: float) -> None:
    """Nor do they make worth caching what was not."""
    before = advise(measured, wishes)
    after = advise(replace(measured, invalidations=max(3.0, measured.invalidations) + more), wishes)
    if before.cache is not None and after.cache:
        assert before.cache
        assert (after.ttl_s or 0) <= (before.ttl_s or 0)


@given(one=MEASURED, other=MEASURED)
def test_sums_do_not_depend_on_the_order(one: Measured, other: Measured) -> None:
    """What two nodes have counted is one measurement."""
    assert one.plus(other) == other.plus(one)


def test_what_is_dear_busy_and_static() -> None:
    """Each rule is told with its number; loads and reads are as measured."""
    advice = given_by()
    assert advice.cache
    assert (advice.ttl_s, advice.pattern, advice.refresh) == (86_400.0 / 24, Pattern.REFRESH_AHEAD, True)
    assert [reason.partition(" ")[0] for reason in advice.reasons] == ["a", "25", "a"]
    assert "a load takes 150 ms, expensive from 100 ms" in advice.reasons[0]
    assert "a key changes every 16.7 h, static from 1 h" in advice.reasons[2]
    assert advice.numbers["saved_s_per_s"] == pytest.approx(22.5 * 0.15 - 25 * 0.002)
    assert advice.numbers["entry_bytes"] == 500


def test_what_changes_as_often_as_it_is_read() -> None:
    """It is not worth caching however dear it is: the document's first rule alone would say yes."""
    advice = given_by(replace(DEAR, writes=60_000.0, load_seconds=9_000 * 5.0))
    assert advice.cache is False
    assert "reads between two changes" in advice.reasons[0]


def test_what_is_hardly_ever_found() -> None:
    """Nor is what is asked for once."""
    advice = given_by(replace(DEAR, hits=100.0))
    assert advice.cache is False
    assert advice.reasons[0].startswith("hit ratio 0.1%")


def test_what_is_as_quick_as_the_cache() -> None:
    """Hits must save more than reads of the cache cost."""
    advice = given_by(load_s=0.002)
    assert advice.cache is False
    assert "a read of the cache costs 2 ms" in advice.reasons[0]


def test_what_is_missing_is_said() -> None:
    """No guess: time, reads, loads and keys each; the cost of a load may be said instead."""
    nothing = Measured(seconds=5, reads=3, hits=0, writes=0, invalidations=0, keys=0)
    assert [each.partition(":")[0] for each in advise(nothing).missing] == ["time", "reads", "load cost", "keys"]
    unseen = replace(GOOD, loads=0.0)
    assert advise(unseen).missing == ("load cost: 0 loads timed, needs 5; or say what a load takes",)
    assert advise(unseen, Wishes(load_s=0.15)).cache


@pytest.mark.parametrize(
    ("changes", "ttl_s"), [(1.0, 86_400.0), (100.0, 3_600.0), (15_000.0, 1_800.0), (40_000.0, 300.0)]
)
def test_ttl_follows_the_rate_of_changes(changes: float, ttl_s: float) -> None:
    """Of a key: these are 2,000 keys, watched for an hour."""
    measured = replace(DEAR, invalidations=changes)
    assert given_by(measured).ttl_s == ttl_s
    assert given_by(measured, staleness_s=30.0).ttl_s == 30.0


def test_no_change_seen_is_no_proof() -> None:
    """Few keys that were watched for a short time may change more often than was seen."""
    short = replace(DEAR, invalidations=0.0, seconds=600.0, keys=10.0)
    assert given_by(short).ttl_s == 1_800.0
    assert given_by(replace(short, keys=100_000.0)).ttl_s == 86_400.0
    assert "nobody tells the cache" in given_by(short).notes[0]


def test_patterns() -> None:
    """Write-heavy groups go behind, or through where that must not be; the others aside, through or ahead."""
    writes = Thresholds(reads_per_update=0.1, dear_load_s=1.0)
    heavy = replace(DEAR, reads=1_000.0, hits=900.0, writes=3_000.0)
    assert given_by(heavy, writes, staleness_s=5.0).pattern is Pattern.WRITE_BEHIND
    assert given_by(heavy, writes, staleness_s=5.0, consistent=True).pattern is Pattern.WRITE_THROUGH
    assert given_by(replace(DEAR, writes=10.0), consistent=True).pattern is Pattern.WRITE_THROUGH
    quick = replace(DEAR, load_seconds=9_000 * 0.05)
    assert given_by(quick).pattern is Pattern.CACHE_ASIDE
    through = given_by(replace(DEAR, reads_through=True))
    assert (through.pattern, through.refresh) == (Pattern.READ_THROUGH, True)
    assert given_by(replace(quick, reads_through=True)).refresh is False


def test_thresholds_can_be_changed() -> None:
    """Each of them is a number that a caller may set."""
    strict = Thresholds(min_hit_ratio=0.95)
    assert given_by(DEAR, strict).cache is False
    assert given_by(replace(DEAR, hits=60_000.0)).notes
    idle = Thresholds(dear_load_s=1.0, busy_reads_per_s=1e6, static_updates_per_s=0.0)
    assert given_by(DEAR, idle).reasons == ("no rule speaks for it",)


def test_offered_by_the_client() -> None:
    """Applications import it from there."""
    assert offered.advise is advise
    assert set(offered.__all__) >= {"Advice", "Measured", "Pattern", "Thresholds", "Wishes", "advise"}
