"""Counters over the last minutes."""

from __future__ import annotations

from cachenode.core.observed import Observed, Window


def test_rise_since_the_oldest_note() -> None:
    """Notes are made now and then, go back so far and no further; without any there is nothing to tell."""
    window = Window(every_s=10.0, keep_s=60.0)
    assert window.since(5.0, [7]) == (0.0, [0.0])
    for at in range(0, 200, 5):
        if window.due(float(at)):
            window.note(float(at), [at, 2 * at])
    assert window.since(200.0, [200, 400]) == (70.0, [70, 140])


def test_what_is_counted() -> None:
    """Stale reads, loads, and how long these took."""
    observed = Observed()
    observed.landed, observed.load_seconds, observed.stale_reads = 2, 0.5, 3
    assert observed.counted() == (3, 2, 0.5)
