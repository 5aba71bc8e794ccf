"""Adaptive TTLs: the thresholds, their bounds, and the hit rate that moves them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.adaptive_ttl import DEFAULT_STEPS, AdaptiveTtl, HitRate, parse_step
from cachenode.core.demand import Demand
from cachenode.core.policy import NamespacePolicy

HOUR = 3_600.0
STEPS = [parse_step(text) for text in DEFAULT_STEPS]
RULE = AdaptiveTtl(STEPS, 1.0, 1e6, 0.5)
spans = st.floats(0, 1e6) | st.just(math.inf)


@pytest.mark.parametrize(
    ("accesses", "since_s", "ttl_s"),
    [
        (1_001, math.inf, 24 * HOUR),
        (1_000, math.inf, 4 * HOUR),
        (101, 1e6, 4 * HOUR),
        (100, 1e6, HOUR),
        (11, 1e6, HOUR),
        (10, 59.9, HOUR),
        (10, 60.0, HOUR / 2),
        (0, 299.9, HOUR / 2),
        (0, 300.0, HOUR / 4),
        (1, math.inf, HOUR / 4),
    ],
)
def test_default_thresholds(accesses: int, since_s: float, ttl_s: float) -> None:
    """More than 1,000, 100 and 10 accesses; less than one and five minutes ago; and all others."""
    assert RULE.choose(accesses, since_s, None)[:1] == (ttl_s,)


@given(accesses=st.integers(0, 70_000), since_s=spans, more=st.integers(0, 70_000), rate=st.none() | st.floats(0, 1))
def test_more_demand_never_lives_shorter(accesses: int, since_s: float, more: int, rate: float | None) -> None:
    """Bounds hold for all, and neither more accesses nor a poor hit rate shortens a life."""
    rule = AdaptiveTtl(STEPS, 1_000.0, 20_000.0, 0.5)
    ttl_s = rule.choose(accesses, since_s, rate).ttl_s
    assert 1_000 <= ttl_s <= 20_000
    assert rule.choose(accesses + more, since_s, rate).ttl_s >= ttl_s
    assert rule.choose(accesses, since_s, 0.0).ttl_s >= ttl_s


def test_poor_hit_rate_moves_one_step() -> None:
    """Below the rate each value gets the next longer life, and the longest stays."""
    longer = [
        RULE.choose(accesses, since_s, 0.49) for accesses, since_s in ((0, 1e6), (0, 100.0), (500, 1.0), (9_999, 1.0))
    ]
    assert [choice.ttl_s / HOUR for choice in longer] == [0.5, 1, 24, 24]
    assert all(choice.longer for choice in longer)
    assert RULE.choose(0, 1e6, 0.5) == (HOUR / 4, STEPS[-1], False)


@pytest.mark.parametrize("text", ["", ">5", "x", ">-1: 3", "<0: 5", "0", ">1: 1y", "1e9d", "nan", ">999999: 5"])
def test_what_is_no_step(text: str) -> None:
    """The error says how steps are written."""
    with pytest.raises(ValueError, match="must be steps such as"):
        parse_step(text)


def test_steps_and_bounds_that_leave_a_gap() -> None:
    """Somebody would get no life at all."""
    for steps in ([], STEPS[:-1], [parse_step(">1: 5")]):
        with pytest.raises(ValueError, match="adaptive_steps: the last"):
            AdaptiveTtl(steps, 1.0, 2.0, 0.5)
    with pytest.raises(ValueError, match="adaptive_min_s: must"):
        AdaptiveTtl(STEPS, 3.0, 2.0, 0.5)


def test_hit_rate_is_of_recent_reads() -> None:
    """A few reads tell nothing; what is long ago counts less with each window."""
    rate = HitRate(100.0)
    assert rate.of(0, 99, 0.0) is None
    assert rate.of(90, 100, 1.0) == 0.9
    assert rate.of(90, 100, 100.0) is None  # 50 reads are left
    assert rate.of(90, 200, 101.0) == pytest.approx(45 / 150)
    assert rate.of(90, 200, 201.0) is None


def test_demand_counts_and_gives() -> None:
    """What is noted decides the life, which is counted."""
    demand = Demand(NamespacePolicy("n", 60, 100, l2=False, share=1, adaptive_ttl=True))
    demand.note([b"hot"] * 101, 1_000.0)
    assert demand.lives([b"hot", b"cold"], 0, 0, 1_000.0) == [4 * HOUR, HOUR / 4]
    assert (demand.ttls, demand.ttl_s) == (2, 4.25 * HOUR)
    wanted = demand.of(b"hot", 0, 200, 1_000.0)
    assert (wanted.accesses, wanted.since_s, wanted.hit_rate) == (101, 0.0, 0.0)
    assert wanted.choice is not None
    assert (wanted.choice.ttl_s, wanted.choice.longer) == (24 * HOUR, True)
