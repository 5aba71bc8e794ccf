from __future__ import annotations

from cachenode.core.durations import LIMITS_S, Durations
from cachenode.core.entries import Operation


def test_what_never_came_is_left_out() -> None:
    """A node that has done nothing has no series."""
    assert Durations().counters() == ()


def test_limits_belong_to_what_is_within_them() -> None:
    """A time that is just the limit is within it, and what is longer than all counts in the last only."""
    durations = Durations()
    durations.add(Operation.SET, 2, LIMITS_S[1], waited=False)
    durations.add(Operation.SET, 1, 60.0, waited=False)
    [found] = durations.counters()
    assert (found.operation, found.cache_layer) == ("set", "l1")
    assert found.within == (0, *[2] * (len(LIMITS_S) - 1), 3)
    assert found.seconds == 2 * LIMITS_S[1] + 60


def test_hits_on_the_shortest_way_count_as_quick() -> None:
    """They are not timed, and are reads from memory like the others."""
    durations = Durations()
    durations.hits = 5
    durations.add(Operation.GET, 1, 0.002, waited=False)
    [found] = durations.counters()
    assert found.within[0] == 5
    assert found.within[-1] == 6


def test_orders_between_nodes_are_not_counted() -> None:
    """Only what clients ask for is."""
    assert Durations.counts(Operation.BARRIER)
    assert not Durations.counts(Operation.APPLY)
    assert not Durations.counts(Operation.FULFILL)
