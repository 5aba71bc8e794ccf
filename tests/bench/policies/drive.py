"""Requests at a rate, whatever the answers take, and what is seen of them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.policies.contenders import Contender
from tests.bench.policies.origin import LATENCY_S

__all__ = ["Seen", "drive", "update", "warm_up", "zipf"]

_TICK_S = 0.002
_WARM_UP_AT_ONCE = 64


@dataclass(slots=True)
class Seen:
    """What callers have seen.

    Attributes:
        latencies_s: Of each request.
        stale: Requests that were answered with a value older than one whose update had been done before they began.
        failed: Requests that raised.
        current: Per key the newest version whose update is done.
    """

    latencies_s: list[float] = field(default_factory=list)
    stale: int = 0
    failed: int = 0
    current: dict[str, int] = field(default_factory=dict)

    @property
    def hit_ratio(self) -> float:
        """The share of requests that did not wait for the origin: those answered in less than half of its latency."""
        return sum(each < LATENCY_S / 2 for each in self.latencies_s) / len(self.latencies_s)

    def percentile(self, part: float) -> float:
        """Return the latency, in seconds, that this part of the requests did not exceed."""
        return sorted(self.latencies_s)[min(len(self.latencies_s) - 1, int(part * len(self.latencies_s)))]


def zipf(keys: Sequence[str], seed: int) -> Iterator[str]:
    """Return an endless choice of keys, the one of rank n with a probability in proportion to 1/n."""
    drawn = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(keys) + 1)))
    while True:
        yield from drawn.choices(keys, cum_weights=weights, k=4_096)


async def drive(
    contender: Contender, group: str, picks: Iterator[str], seen: Seen, *, rate: float, seconds: float
) -> None:
    """Make so many requests a second, none of which waits for another's answer."""
    under_way: set[asyncio.Task[None]] = set()
    began, made = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(int(passed * rate) - made):
            task = asyncio.create_task(_request(contender, group, next(picks), seen))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            made += 1
        await asyncio.sleep(_TICK_S)
    await asyncio.gather(*under_way)


async def _request(contender: Contender, group: str, key: str, seen: Seen) -> None:
    current, began = seen.current.get(key, 0), time.monotonic()
    try:
        version = await contender.get(group, key)
    except Exception:  # noqa: BLE001 - counted; whichever side it is of
        seen.failed += 1
        return
    seen.latencies_s.append(time.monotonic() - began)
    seen.stale += version < current


async def update(
    contender: Contender, group: str, picks: Iterator[str], seen: Seen, *, rate: float, until: Callable[[], bool]
) -> int:
    """Update keys, so many a second; return how many."""
    made = 0
    while not until():
        key = next(picks)
        version = await contender.update(group, key)
        seen.current[key] = max(version, seen.current.get(key, 0))
        made += 1
        await asyncio.sleep(1 / rate)
    return made


async def warm_up(contender: Contender, group: str, keys: Sequence[str]) -> None:
    """Ask for each key once."""
    gate = asyncio.Semaphore(_WARM_UP_AT_ONCE)

    async def ask(key: str) -> None:
        async with gate:
            await contender.get(group, key)

    await asyncio.gather(*map(ask, keys))
