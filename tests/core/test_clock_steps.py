from __future__ import annotations

import math

from cachenode.core.clock_steps import ClockSteps


def test_running_clocks_make_no_steps() -> None:
    """Drift, slewing and pauses of the process are none."""
    clock = ClockSteps()
    assert [clock.look(1_000.0 + at * 1.0005, at) for at in (0.0, 0.05, 0.1, 60.0)] == [0.0] * 4
    assert (clock.steps, clock.last_at) == (0, -math.inf)


def test_steps_are_counted() -> None:
    """Forwards and backwards, each once."""
    clock = ClockSteps()
    assert clock.look(1_000.0, 0.0) == 0.0
    assert clock.look(1_010.05, 0.05) == 10.0
    assert clock.look(1_010.10, 0.10) == 0.0
    assert round(clock.look(1_007.15, 0.15), 6) == -3.0
    assert (clock.steps, round(clock.last_s, 6), clock.last_at) == (2, -3.0, 0.15)
