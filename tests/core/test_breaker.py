from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.breaker import Breaker, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(failures=1, retry_s=1.0)
    breaker.failed(now)
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """The third failure in a row opens it, not an earlier one."""
    breaker = Breaker(failures=3, retry_s=1.0)
    for expected in (CLOSED, CLOSED, OPEN):
        assert breaker.allow(0.0)
        breaker.failed(0.0)
        assert breaker.state is expected
    assert not breaker.allow(0.5)


def test_a_success_starts_the_count_anew() -> None:
    """Failures with successes between them do not add up."""
    breaker = Breaker(failures=2, retry_s=1.0)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.succeeded(0.0)
    assert breaker.state is CLOSED


def test_one_probe_after_the_retry_interval() -> None:
    """When the interval has passed one call goes through and all others wait for its outcome."""
    breaker = opened()
    assert not breaker.allow(0.99)
    assert breaker.allow(1.0)
    assert breaker.state is HALF_OPEN
    assert not breaker.allow(1.0)
    assert not breaker.allow(1.9)


def test_probe_success_closes() -> None:
    """A probe that works closes the breaker, and the count of failures begins at zero."""
    breaker = Breaker(failures=2, retry_s=1.0)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.allow(1.0)
    breaker.succeeded(1.1)
    assert breaker.state is CLOSED
    breaker.failed(1.2)
    assert breaker.state is CLOSED


def test_probe_failure_opens_for_another_interval() -> None:
    """A probe that fails starts the interval again, from its failure."""
    breaker = opened()
    assert breaker.allow(1.0)
    breaker.failed(1.5)
    assert breaker.state is OPEN
    assert not breaker.allow(2.4)
    assert breaker.allow(2.5)


def test_lost_probe_is_replaced() -> None:
    """A probe that never reports does not keep the breaker shut for ever."""
    breaker = opened()
    assert breaker.allow(1.0)
    assert breaker.allow(2.0)
    assert not breaker.allow(2.5)


def test_late_outcomes_do_not_count_while_open() -> None:
    """A call from before does not close the breaker by working, nor put off the probe by failing."""
    breaker = opened()
    breaker.succeeded(0.1)
    breaker.failed(0.9)
    assert breaker.state is OPEN
    assert breaker.allow(1.0)


@pytest.mark.parametrize(("failures", "retry_s"), [(0, 1.0), (1, -0.1)])
def test_refuses_settings_that_make_no_sense(failures: int, retry_s: float) -> None:
    """It needs at least one failure and a time that does not run backwards."""
    with pytest.raises(ValueError, match="breaker"):
        Breaker(failures=failures, retry_s=retry_s)


@given(
    failures=st.integers(1, 4),
    events=st.lists(st.tuples(st.sampled_from(["allow", "succeeded", "failed"]), st.floats(0, 1.5)), max_size=60),
)
def test_what_holds_whatever_happens(failures: int, events: list[tuple[str, float]]) -> None:
    """Closed lets all through; else at most one call per interval passes, and only its success closes."""
    breaker = Breaker(failures=failures, retry_s=1.0)
    now, in_a_row, shut_since = 0.0, 0, 0.0
    for event, wait in events:
        now += wait
        before = breaker.state
        if event == "allow":
            allowed = breaker.allow(now)
            assert allowed == (before is CLOSED or now - shut_since >= 1.0)
            if allowed and before is not CLOSED:
                shut_since = now
                assert breaker.state is HALF_OPEN
            else:
                assert breaker.state is before
        elif event == "succeeded":
            breaker.succeeded(now)
            in_a_row = 0 if before is not OPEN else in_a_row
            assert breaker.state is (OPEN if before is OPEN else CLOSED)
        else:
            breaker.failed(now)
            if before is CLOSED:
                in_a_row += 1
                assert breaker.state is (OPEN if in_a_row >= failures else CLOSED)
            else:
                assert breaker.state is OPEN
            if before is not OPEN and breaker.state is OPEN:
                shut_since = now
