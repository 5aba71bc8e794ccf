"""The keys that are read most, from samples: what is never missed, how wrong a count may be, and how it fades."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.heavy_hitters import HeavyHitters


@given(keys=st.lists(st.integers(0, 30), min_size=1, max_size=400), room=st.integers(1, 12))
def test_bounds_of_space_saving(keys: list[int], room: int) -> None:
    """Whoever has more than one part in `room` is there; a share is too high by its error at most, never too low."""
    hitters: HeavyHitters[int] = HeavyHitters(room)
    true = Counter(keys)
    for key in keys:
        hitters.add(key, 1, 0.0)
    found = {each.key: each for each in hitters.top(room, 0.0)}
    assert len(found) <= room
    for key, count in true.items():
        if count > len(keys) / room:
            assert key in found
    for key, each in found.items():
        assert true[key] / len(keys) - 1e-9 <= each.share <= true[key] / len(keys) + each.error + 1e-9
    shares = [each.share for each in hitters.top(room, 0.0)]
    assert shares == sorted(shares, reverse=True)


def test_rates_of_a_steady_load() -> None:
    """Sampled one read in a hundred, with batches of several sizes, the rates come out right."""
    rng, hitters = random.Random(3), HeavyHitters[str](64, half_life_s=30.0)
    now, since, gap = 0.0, 0, 50
    for _ in range(40_000):  # 200 s of 200 batches a second: single reads of one hot key, and tens of all kinds
        now += 0.005
        keys = ["hot"] if rng.random() < 0.5 else [f"k{rng.randrange(5_000)}" for _ in range(10)]
        since += len(keys)
        if since >= gap:
            hitters.add(rng.choice(keys), since, now)
            since, gap = 0, rng.randrange(200)
    assert hitters.reads_per_s(now) == pytest.approx(1_100, rel=0.1)
    hottest = hitters.top(1, now)[0]
    assert hottest.key == "hot"
    assert hottest.per_s == pytest.approx(100, rel=0.3)


def test_what_was_hot_fades() -> None:
    """After some half-lives another key is the hottest, and nothing is read any more after a pause."""
    hitters: HeavyHitters[str] = HeavyHitters(8, half_life_s=10.0)
    for second in range(100):
        hitters.add("old", 100, float(second))
    for second in range(100, 160):
        hitters.add("new", 100, float(second))
    first, second_ = hitters.top(2, 160.0)
    assert (first.key, second_.key) == ("new", "old")
    assert second_.share < 0.03
    assert first.per_s == pytest.approx(100, rel=0.1)
    assert hitters.reads_per_s(260.0) < 0.2
    assert hitters.reads_per_s(1e9) < 1e-9
    assert "2 of 8" in repr(hitters)


def test_years_do_not_overflow() -> None:
    """The growing weights are brought down in time, and old counts vanish."""
    hitters: HeavyHitters[str] = HeavyHitters(8, half_life_s=1.0)
    hitters.add("old", 1, 0.0)
    hitters.add("new", 1, 900.0)
    hitters.add("new", 1, 1e6)
    assert hitters.top(2, 1e6)[0].share == 1


def test_nothing_was_read() -> None:
    """An idle node has no hot keys."""
    hitters: HeavyHitters[str] = HeavyHitters()
    assert (hitters.top(5, 0.0), hitters.reads_per_s(0.0), len(hitters)) == ([], 0, 0)
