"""Arithmetic of the time line, percentiles and spark lines."""

from __future__ import annotations

import math

import pytest

from cachenode.demo.timeline import SLICE_S, Timeline, percentile, sparkline


def timeline_of(*hits: int | None, requests: int = 100) -> Timeline:
    """Return a time line with these hits per slice, all from L1; None for a slice without requests."""
    timeline = Timeline()
    for index, count in enumerate(hits):
        if count is not None:
            timeline.add(index * SLICE_S, memory=count, l2=0, requests=requests)
    return timeline


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5], 0.5, 5), ([4, 1, 3, 2], 0.5, 2), (list(range(1, 101)), 0.99, 99), (list(range(1, 101)), 1.0, 100)],
)
def test_percentile_is_the_nearest_rank(values: list[int], share: float, expected: int) -> None:
    """The percentile is a value that occurs, whatever the order."""
    assert percentile(values, share) == expected


def test_percentile_of_nothing_is_not_a_number() -> None:
    """Without values there is no percentile."""
    assert math.isnan(percentile([], 0.5))


def test_sparkline_spans_the_upper_half() -> None:
    """Half and less is the lowest block, all is the highest, and no data is a blank."""
    assert sparkline([0.0, 0.5, 0.75, None, 1.0]) == "▁▁▅ █"


def test_sparkline_without_unicode() -> None:
    """A terminal that cannot show blocks gets plain characters, as many."""
    assert sparkline([0.0, None, 1.0], unicode=False) == "_ #"


def test_ratio_counts_requests_not_slices() -> None:
    """A busy slice weighs more than a quiet one."""
    timeline = Timeline()
    timeline.add(0.1, memory=80, l2=10, requests=100)
    timeline.add(0.6, memory=0, l2=0, requests=20)
    assert timeline.ratio(0, 1) == pytest.approx(90 / 120)
    assert timeline.ratio(0, 1, memory_only=True) == pytest.approx(80 / 120)


def test_ratio_takes_whole_slices_only() -> None:
    """A slice that begins before the time or ends after it is left out."""
    timeline = timeline_of(10, 50, 90)
    assert timeline.ratio(0.2, 1.2) == pytest.approx(0.5)
    assert timeline.ratio(5, 9) is None


def test_rate_is_per_second() -> None:
    """The rate counts the last whole slices, not the one under way."""
    assert timeline_of(1, 1, 1, 1, requests=100).rate(1.6) == pytest.approx(200)
    assert Timeline().rate(3) == 0


def test_ratios_fit_the_columns() -> None:
    """A long run is drawn in fewer, wider columns."""
    timeline = timeline_of(*[100] * 4, *[50] * 4, 0)
    assert timeline.ratios(9) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0]
    assert timeline.column_s(5) == 2 * SLICE_S
    assert timeline.ratios(5) == [1, 1, 0.5, 0.5, 0]


def test_recovery_is_counted_to_the_end_of_the_last_bad_slice() -> None:
    """A second dip counts: recovered means for good."""
    timeline = timeline_of(90, 90, 20, 85, 30, 88, 89, 90)
    assert timeline.recovered_after(1.0, 0.8) == pytest.approx(1.5)
    assert timeline.lowest(1.0) == pytest.approx(0.2)


def test_no_dip_is_recovery_at_once() -> None:
    """A hit ratio that never fell has nothing to recover from, whatever came before."""
    assert timeline_of(10, 90, 90, 90, 90).recovered_after(0.5, 0.8) == 0


def test_a_dip_to_the_end_is_no_recovery() -> None:
    """A run that ends low has not recovered; nor has one without requests afterwards."""
    assert timeline_of(90, 90, 20, 20, 20).recovered_after(1.0, 0.8) is None
    assert timeline_of(90, 90).recovered_after(1.0, 0.8) is None
