"""The sketch of accesses: against exact counts, for whatever is asked in whatever order."""

from __future__ import annotations

import math
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.frequency import Frequency

KEYS = [b"key-%d" % number for number in range(40)]


@given(accesses=st.lists(st.sampled_from(KEYS), max_size=300), cells=st.sampled_from([4, 16, 1024]))
def test_never_too_low(accesses: list[bytes], cells: int) -> None:
    """However many keys share cells, a count is at least the true one, and exact where there is room."""
    sketch, true = Frequency(3_600, most_cells=cells), Counter(accesses)
    for key in accesses:
        sketch.add([key], 5.0)
    assert all(sketch.count(key, 5.0) >= true[key] for key in KEYS)
    if cells == 1024:
        assert sum(sketch.count(key, 5.0) - true[key] for key in KEYS) == 0


@given(gaps=st.lists(st.integers(0, 10_000), min_size=2, max_size=20))
def test_last_access_but_one(gaps: list[int]) -> None:
    """The newest access does not count; the one before is known to a second."""
    sketch, now = Frequency(1e9), 0.0
    for gap in gaps:
        now += gap
        sketch.add([b"k"], now)
    assert sketch.since(b"k", now) == gaps[-1]
    assert math.isinf(sketch.since(b"other", now))
    sketch.add([b"once"], now)
    assert math.isinf(sketch.since(b"once", now))


def test_counts_are_of_this_window_and_the_one_before() -> None:
    """What is not asked for any more is forgotten; several windows may pass at once."""
    sketch = Frequency(100.0)
    sketch.add([b"k"] * 7, 0.0)
    assert [sketch.count(b"k", now) for now in (99.0, 100.0)] == [7, 7]
    sketch.add([b"k"] * 2, 150.0)
    assert [sketch.count(b"k", now) for now in (199.0, 200.0, 300.0)] == [9, 2, 0]
    sketch.add([b"k"], 350.0)
    assert sketch.count(b"k", 1e9) == 0


def test_counts_stop_at_the_top() -> None:
    """A cell that is full stays so."""
    sketch = Frequency(100.0)
    for _ in range(70):
        sketch.add([b"hot"] * 1_000, 0.0)
    sketch.add([b"cold"], 0.0)
    assert (sketch.count(b"hot", 0.0), sketch.count(b"cold", 0.0)) == (65_535, 1)


def test_times_go_over_the_border_of_windows() -> None:
    """The access before the newest may have been in another table."""
    sketch = Frequency(100.0)
    sketch.add([b"k"], 10.0)
    sketch.add([b"k"], 90.0)
    sketch.add([b"k"], 130.0)
    assert sketch.since(b"k", 140.0) == 50
    sketch.add([b"k"], 140.0)
    assert sketch.since(b"k", 145.0) == 15


def test_grows_with_the_keys_and_stays_true() -> None:
    """Larger tables come while there are more keys, up to the limit; the counts of all are summed, and nearly exact."""
    sketch = Frequency(1_000.0, most_cells=4_096)
    true = Counter({b"user:%d" % number: 1 + number % 7 for number in range(3_000)})
    asked = list(true.elements())
    random.Random(1).shuffle(asked)
    for key in asked:
        sketch.add([key], 10.0)
    assert "[256, 1024, 4096]" in repr(sketch)
    excess = [sketch.count(key, 10.0) - count for key, count in true.items()]
    assert min(excess) == 0
    assert sum(excess) < len(true) / 4
    sketch.add([b"more-%d" % number for number in range(20_000)], 10.0)
    assert "[256, 1024, 4096]" in repr(sketch)


def test_shrinks_when_few_keys_are_left() -> None:
    """The next window begins with a table of the size that this one needed."""
    sketch = Frequency(100.0)
    for number in range(2_000):
        sketch.add([b"%d" % number], 0.0)
    assert "[256, 1024, 4096]" in repr(sketch)
    for now in (100.0, 200.0, 300.0):
        sketch.add([b"k"], now)
    assert "[1024, 256]" in repr(sketch)
