"""The two workloads, each run on one side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise, repeat

from tests.bench.policies.contenders import HOT, ITEMS, Contender
from tests.bench.policies.drive import Seen, drive, update, warm_up, zipf
from tests.bench.policies.origin import Database

__all__ = ["HotKey", "Mixed", "Plan", "bursts", "run_hot_key", "run_mixed"]

_HOT_KEY = "hot"
_APART_S = 0.6
"""Loads of the hot key that begin within so long belong to one end of its life."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, how often.

    Attributes:
        keys: Of the mixed workload.
        rate: Requests a second.
        updates: Updates a second.
        seconds: Of the mixed workload.
        ttl_s: Of its keys.
        hot_seconds: Of the hot key's workload.
        hot_ttl_s: Of the hot key.
    """

    keys: int
    rate: float
    updates: float
    seconds: float
    ttl_s: int
    hot_seconds: float
    hot_ttl_s: int


@dataclass(frozen=True, slots=True)
class Mixed:
    """What came of the mixed workload."""

    seen: Seen
    loads: int
    updates: int

    @property
    def loads_per_request(self) -> float:
        """Reads of the origin for each request."""
        return self.loads / len(self.seen.latencies_s)


@dataclass(frozen=True, slots=True)
class HotKey:
    """What came of the hot key's workload. `loads_s` says when each of its loads began, from the first."""

    seen: Seen
    loads_s: list[float]

    @property
    def loads_per_end(self) -> float:
        """Loads for each end of its life, on average."""
        found = bursts(self.loads_s)
        return sum(found) / len(found) if found else 0.0


def bursts(times_s: list[float]) -> list[int]:
    """Return how many of these times lie together, for each group of them."""
    if not times_s:
        return []
    ordered = sorted(times_s)
    groups = [1]
    for before, after in pairwise(ordered):
        if after - before > _APART_S:
            groups.append(1)
        else:
            groups[-1] += 1
    return groups


async def run_mixed(contender: Contender, origin: Database, plan: Plan, seed: int) -> Mixed:
    """Read by a Zipf distribution while updates come, after each key has been asked for once."""
    keys = [f"item:{number}" for number in range(plan.keys)]
    await warm_up(contender, ITEMS, keys)
    await origin.reads()
    seen = Seen()
    reading = asyncio.create_task(drive(contender, ITEMS, zipf(keys, seed), seen, rate=plan.rate, seconds=plan.seconds))
    made = await update(contender, ITEMS, zipf(keys, seed + 1), seen, rate=plan.updates, until=reading.done)
    await reading
    return Mixed(seen, len(await origin.reads()), made)


async def run_hot_key(contender: Contender, origin: Database, plan: Plan) -> HotKey:
    """Read one key again and again, across several ends of its life."""
    await contender.get(HOT, _HOT_KEY)
    await origin.reads()
    seen = Seen()
    await drive(contender, HOT, repeat(_HOT_KEY), seen, rate=plan.rate, seconds=plan.hot_seconds)
    times = [at for at, _ in await origin.reads()]
    return HotKey(seen, [at - min(times) for at in times])
