"""The benchmark's pure statistics."""

from __future__ import annotations

import pytest

from tests.bench.stats import judge, ratio_of, round_order, summarise


def test_rounds_alternate_direction() -> None:
    """Every second round runs backwards, so that whoever is first in one is last in the next."""
    assert round_order(2, 3) == [[0, 1], [1, 0], [0, 1]]
    assert round_order(3, 2) == [[0, 1, 2], [2, 1, 0]]


def test_summary_is_the_median_and_the_extremes() -> None:
    """A single outlier moves the spread but not the median."""
    summary = summarise([3.0, 1.0, 2.0, 100.0, 2.5])
    assert (summary.median, summary.low, summary.high) == (2.5, 1.0, 100.0)


@pytest.mark.parametrize("rounds", [[], [1.0, 0.0], [1.0, -1.0], [float("inf")], [float("nan")]])
def test_rounds_that_cannot_be_real_are_refused(rounds: list[float]) -> None:
    """No rounds, zero, negative, infinite and not-a-number are errors rather than results."""
    with pytest.raises(ValueError, match="not positive"):
        summarise(rounds)


def test_ratio_above_one_means_ahead_in_both_directions() -> None:
    """Twice the throughput and half the latency are both a ratio of 2."""
    assert ratio_of(20.0, 10.0, "higher") == 2.0
    assert ratio_of(10.0, 20.0, "lower") == 2.0


def test_ratio_is_of_the_medians_and_spread_of_paired_rounds() -> None:
    """The verdict rests on the medians; the spread pairs rounds of the same number."""
    outcome = judge([10.0, 20.0, 30.0], [10.0, 5.0, 20.0], "higher", target=2.0)
    assert outcome.ratio == 2.0
    assert (outcome.low, outcome.high) == (1.0, 4.0)
    assert outcome.met is True


def test_target_is_missed_just_below_and_met_at_equality() -> None:
    """The ratio to reach is inclusive."""
    assert judge([0.99], [1.0], "higher", target=1.0).met is False
    assert judge([1.0], [1.0], "higher", target=1.0).met is True
    assert judge([1.0], [1.0], "lower", target=None).met is None


def test_unequal_numbers_of_rounds_are_refused() -> None:
    """A contender that lost a round is not compared."""
    with pytest.raises(ValueError, match="argument 2"):
        judge([1.0, 2.0], [1.0], "higher", target=None)
