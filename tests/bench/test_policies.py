"""The policies' benchmark: what it makes of what it has seen."""

from __future__ import annotations

import asyncio
from itertools import islice, repeat

from tests.bench.policies.contenders import ITEMS
from tests.bench.policies.drive import Seen, drive, zipf
from tests.bench.policies.report import Round, missed, rows
from tests.bench.policies.runs import HotKey, Mixed, bursts


class Scripted:
    """A cache whose answers are the versions given, in turn."""

    def __init__(self, *versions: int) -> None:
        self.versions = list(versions)

    async def get(self, group: str, key: str) -> int:
        await asyncio.sleep(0)
        return self.versions.pop(0)

    async def update(self, group: str, key: str) -> int:
        raise NotImplementedError


def one(latencies_s: list[float], *, stale: int = 0, loads: int = 0, hot_loads_s: tuple[float, ...] = (0.0,)) -> Round:
    return Round(Mixed(Seen(latencies_s, stale), loads, 0), HotKey(Seen([0.001]), list(hot_loads_s)))


def test_loads_that_lie_together_are_one_end() -> None:
    """A stampede is one group, and the next end of the key's life another."""
    assert bursts([]) == []
    assert bursts([3.0, 0.0, 0.01, 0.02]) == [3, 1]


def test_ranks_are_drawn_in_proportion() -> None:
    """The first key comes twice as often as the second, within what chance allows."""
    drawn = list(islice(zipf(["a", "b", "c"], seed=1), 20_000))
    assert 1.8 < drawn.count("a") / drawn.count("b") < 2.2
    assert 2.7 < drawn.count("a") / drawn.count("c") < 3.3


async def test_stale_answers_are_counted() -> None:
    """An answer older than an update that was done before the request is stale; a failure is no answer."""
    seen = Seen(current={"k": 2})
    await drive(Scripted(1, 2, 3), ITEMS, repeat("k"), seen, rate=1_000, seconds=0.02)
    assert len(seen.latencies_s) <= 3
    assert seen.stale == min(1, len(seen.latencies_s))


def test_figures_that_are_missed_are_named() -> None:
    """What is worse than what is to be reached is a miss; the other side's figures are no matter."""
    good = one([0.001] * 100, loads=2)
    assert missed(rows([good], [one([0.2] * 100, stale=5)])) == []
    bad = one([0.001] * 90 + [0.2] * 10, stale=1, loads=50, hot_loads_s=(0.0, 0.1))
    assert missed(rows([bad], [good])) == ["hit_ratio", "origin_calls", "p99_ms", "stale_reads", "hot_loads"]
