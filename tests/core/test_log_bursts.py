from __future__ import annotations

from cachenode.core.log_bursts import PERIOD_S, LogBursts


def test_first_lines_of_a_period_are_written() -> None:
    """Those beyond are counted, and told by the next line that is written."""
    bursts = LogBursts(2)
    assert [bursts.admit("e", at) for at in (0.0, 1.0, 2.0, 3.0)] == [0, 0, -1, -1]
    assert bursts.admit("other", 3.0) == 0
    assert bursts.admit("e", PERIOD_S) == 2
    assert [bursts.admit("e", PERIOD_S + at) for at in (1.0, 2.0)] == [0, -1]


def test_rare_events_are_all_written() -> None:
    """One line a period, for ever; and without a limit every line."""
    bursts = LogBursts(1)
    assert {bursts.admit("e", at * PERIOD_S) for at in range(10)} == {0}
    bursts = LogBursts()
    assert {bursts.admit("e", 0.0) for _ in range(100)} == {0}
