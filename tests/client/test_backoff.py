"""The retry schedule and the retry budget."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_client._backoff import RetryBudget, Schedule


class Highest(Random):
    """Draws the top of every range."""

    def random(self) -> float:
        return 1.0


def test_limits_double_up_to_the_maximum() -> None:
    """Each delay's limit is twice the former's, and never above the maximum."""
    schedule = Schedule(first_s=0.1, max_s=1.0, retries=None)
    assert [schedule.limit_s(retry) for retry in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_client_that_reconnects_for_days_does_not_overflow() -> None:
    """The limit stays finite for any number of retries."""
    schedule = Schedule(retries=None)
    assert schedule.limit_s(10**9) == 5.0
    assert schedule.delay_s(10**9, Highest(), now=0.0, deadline=math.inf) == 5.0


@given(retry=st.integers(0, 100), seed=st.integers(), left=st.floats(0, 100))
def test_a_delay_lies_between_zero_and_its_limit_and_before_the_deadline(retry: int, seed: int, left: float) -> None:
    """Full jitter: every delay is within its limit, and ends before the deadline or is not made."""
    schedule = Schedule(retries=None)
    delay = schedule.delay_s(retry, Random(seed), now=7.0, deadline=7.0 + left)
    drawn = Random(seed).random() * schedule.limit_s(retry)
    assert 0.0 <= drawn <= schedule.limit_s(retry)
    assert delay == (drawn if 7.0 + drawn < 7.0 + left else None)


def test_jitter_is_full() -> None:
    """Delays fill the whole range from zero, so that clients that failed together do not come back together.

    Scenario 11.
    """
    rng = Random(1)
    schedule = Schedule(first_s=1.0)
    delays = [schedule.delay_s(0, rng, now=0.0, deadline=math.inf) for _ in range(1000)]
    shares = [sum(at / 4 <= (delay or 0.0) < (at + 1) / 4 for delay in delays) / 1000 for at in range(4)]
    assert all(0.2 < share < 0.3 for share in shares)


def test_retries_end() -> None:
    """After the allowed number of retries there is no delay but None."""
    schedule = Schedule(retries=2)
    found = [schedule.delay_s(retry, Random(1), now=0.0, deadline=math.inf) is None for retry in range(4)]
    assert found == [False, False, True, True]


def test_no_retry_at_or_after_the_deadline() -> None:
    """A delay that would end exactly at the deadline is not made."""
    schedule = Schedule(first_s=1.0)
    assert schedule.delay_s(0, Highest(), now=0.0, deadline=1.0) is None
    assert schedule.delay_s(0, Highest(), now=0.0, deadline=1.001) == 1.0


def test_a_budget_lets_a_tenth_of_the_calls_be_retried() -> None:
    """When every call fails, one in ten is tried again once the savings are used up."""
    budget = RetryBudget(per_s=0.0)
    paid = 0
    for _ in range(1000):
        budget.record_call()
        paid += budget.try_spend(0.0)
    assert 100 <= paid <= 110


def test_a_budget_lets_a_quiet_client_retry() -> None:
    """A client with hardly any calls earns retries by time alone."""
    budget = RetryBudget(tokens=0.0, per_s=2.0)
    assert [budget.try_spend(now) for now in (0.0, 0.4, 0.5, 0.6, 1.0)] == [False, False, True, False, True]


def test_a_budget_saves_no_more_than_its_maximum() -> None:
    """Neither time nor calls fill the bucket above its size."""
    budget = RetryBudget(tokens=0.0, max_tokens=3.0)
    for _ in range(1000):
        budget.record_call()
    assert budget.tokens == 3.0
    assert sum(budget.try_spend(1e6) for _ in range(100)) == 3


def test_a_clock_that_goes_back_earns_and_costs_nothing() -> None:
    """Time that is seen twice is paid once, and savings stay."""
    assert RetryBudget(tokens=1.0, at=5.0).try_spend(0.0)
    budget = RetryBudget(tokens=0.0, per_s=1.0)
    assert budget.try_spend(1.0)
    assert not budget.try_spend(0.0)
    assert not budget.try_spend(1.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=200))
def test_retries_never_exceed_the_promise(steps: list[tuple[bool, float]]) -> None:
    """At any moment, retries ≤ max_tokens + ratio * calls + per_s * seconds."""
    budget, now, calls, paid = RetryBudget(), 0.0, 0, 0
    for is_call, pause in steps:
        now += pause
        if is_call:
            calls += 1
            budget.record_call()
        else:
            paid += budget.try_spend(now)
        assert paid <= 10 + 0.1 * calls + 3 * now + 1e-6
