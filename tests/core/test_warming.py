"""How fast a job goes, what it counts, and what it remembers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.warming import (
    LEAST_JITTER,
    Pace,
    Warmed,
    WarmJob,
    hottest,
    pack_hot,
    portion_size,
    stagger,
    unpack_hot,
)


def test_pace_is_kept() -> None:
    """Portions leave as the rate says, whatever their size; time that nobody used is not made up for."""
    pace = Pace(100.0, 10.0)
    assert pace.wait_s(20, 10.0) == 0.0
    assert pace.wait_s(20, 10.0) == pytest.approx(0.2)
    assert pace.wait_s(10, 10.2) == pytest.approx(0.2)
    assert pace.wait_s(50, 20.0) == 0.0
    assert pace.wait_s(1, 20.0) == pytest.approx(0.5)


@given(st.floats(1, 10_000), st.lists(st.integers(1, 200), min_size=1, max_size=50))
def test_rate_is_never_passed(rate: float, portions: list[int]) -> None:
    """Counted from the beginning, all but the last portion has had its time."""
    pace, now = Pace(rate, 0.0), 0.0
    for at, count in enumerate(portions):
        now += pace.wait_s(count, now)
        assert sum(portions[:at]) <= rate * now + 1e-6 * rate


@pytest.mark.parametrize(("rate", "size"), [(0.5, 1), (1.0, 1), (500.0, 100), (1e6, 200)])
def test_portions(rate: float, size: int) -> None:
    """Several a second, and none so large that its tail waits long."""
    assert portion_size(rate) == size


def test_lives_are_staggered() -> None:
    """By a tenth at least; the namespace's own jitter is left to it if it does more."""
    assert stagger(100.0, 0.0, 0.5) == pytest.approx(95.0)
    assert stagger(100.0, LEAST_JITTER, 0.5) == 100.0
    assert math.isinf(stagger(math.inf, 0.0, 0.5))


def test_job_counts_and_is_saved() -> None:
    """Another node reads it as it was."""
    job = WarmJob("j", "n", "origin", 50.0, node_id="a")
    job.note([Warmed.LOADED, Warmed.FRESH, Warmed.ABSENT, 0, Warmed.LOADED], 1)
    assert (job.done, job.loaded, job.fresh, job.absent, job.failed) == (5, 2, 1, 1, 1)
    assert WarmJob.read(job.save()) == job


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"x",
        b"[]",
        b'{"id": "j"}',
        b'{"unknown": 1}',
        b'{"id":"j","namespace":"n","source":"hot","rate_per_s":1,"done":"x"}',
    ],
)
def test_damaged_job(saved: bytes) -> None:
    """It is none."""
    assert WarmJob.read(saved) is None


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=20)), max_size=20))
def test_hot_keys_there_and_back(keys: list[tuple[int, bytes]]) -> None:
    """A list that was cut off ends where it was."""
    packed = pack_hot(keys)
    assert unpack_hot(packed) == keys
    assert unpack_hot(packed[:-1]) == keys[: max(0, len(keys) - 1)]


def test_hot_keys_are_bounded() -> None:
    """What would not fit in a value is left out."""
    assert len(pack_hot((7, b"%01024d" % number) for number in range(2_000))) < 1 << 20


def test_hottest_come_first() -> None:
    """Of several lists, each key once."""
    assert hottest([[(1, b"a"), (3, b"b")], [(2, b"a"), (0, b"c")]], 2) == [b"b", b"a"]
