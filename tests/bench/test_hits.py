"""The benchmark's load of near hits, and what is told of invalidations."""

from __future__ import annotations

import asyncio
from itertools import cycle

from tests.bench.invalidations import Measured
from tests.bench.load import drive_hits, drive_hits_blocking
from tests.bench.rows import INVALIDATIONS, P99_SUFFIX, known_names


async def test_hits_are_counted_and_the_loop_turns() -> None:
    """Calls that never suspend do not keep the loop from its other work, and what had no value is a miss."""
    turns = 0

    async def call(item: bytes) -> bytes:
        return item

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    measured = await drive_hits(call, cycle([b"v", b""]), seconds=0.01)
    task.cancel()
    assert measured.calls == 2 * measured.misses > 0
    assert turns >= measured.calls // 1_000


def test_blocking_hits_are_counted() -> None:
    """What had no value is a miss."""
    measured = drive_hits_blocking(lambda item: item, cycle([b"v", b""]), seconds=0.01)
    assert measured.calls == 2 * measured.misses > 0


def test_p99_is_that_of_all_rounds() -> None:
    """One slow call in a hundred does not count, two do."""
    assert Measured(calls_us=[1.0] * 399 + [9.0]).p99_us == 1.0
    assert Measured(calls_us=[1.0] * 392 + [9.0] * 8).p99_us == 9.0


def test_every_comparison_can_be_selected() -> None:
    """Names are unique, and the p99 comes with the row that it belongs to."""
    names = known_names()
    assert len(names) == len(set(names))
    assert all(aim.name.removesuffix(P99_SUFFIX) in names for aim in INVALIDATIONS)
