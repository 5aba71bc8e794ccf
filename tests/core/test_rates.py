from __future__ import annotations

import pytest

from cachenode.core.access import Grant, Role
from cachenode.core.rates import Bucket, Rates


def test_bursts_are_taken_and_long_runs_are_not() -> None:
    """Two seconds' worth at once, and from then on the rate; what was refused has taken nothing."""
    bucket = Bucket(10, now=100.0)
    assert sum(bucket.take(1, 100.0) == 0 for _ in range(50)) == 20
    assert bucket.take(1, 100.0) == pytest.approx(0.1)
    taken = sum(bucket.take(1, 100.0 + step / 100) == 0 for step in range(1, 1_001))
    assert taken == pytest.approx(100, abs=1)
    assert sum(bucket.take(1, 500.0) == 0 for _ in range(50)) == 20, "no more is saved up"


def test_the_time_to_wait_is_enough() -> None:
    """Who comes again after it is let in, and a moment before is not."""
    bucket = Bucket(0.5, now=0.0)
    assert bucket.take(1, 0.0) == 0
    bucket.take(5, 0.0)
    wait_s = bucket.take(1, 0.0)
    assert bucket.take(1, wait_s - 0.01) > 0
    assert bucket.take(1, wait_s + 1e-6) == 0


def test_large_batches_are_let_in_and_owed() -> None:
    """One that never fits is taken, and the next wait for it."""
    bucket = Bucket(10, now=0.0)
    assert bucket.take(1_000, 0.0) == 0
    assert bucket.take(1, 0.0) == pytest.approx(98.1)
    assert bucket.take(1_000, 0.0, anyway=True) == 0
    assert bucket.take(0, 0.0) == pytest.approx(198.1)


def test_who_has_a_rate() -> None:
    """An identity's own goes first; peers have none; all grants of a name share one, and a new rate is taken up."""
    rates, shop = Rates(100), Grant("shop", Role.WRITE)
    bucket = rates.of(shop, 0.0)
    assert bucket is not None
    assert bucket.per_s == 100
    assert rates.of(Grant("node", Role.PEER, keys_per_s=5), 0.0) is None
    assert rates.of(Grant("shop", Role.READ, keys_per_s=5), 0.0) is bucket
    assert bucket.per_s == 5
    assert Rates().of(shop, 0.0) is None
