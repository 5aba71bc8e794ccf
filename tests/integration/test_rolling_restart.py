"""Every node is restarted in good order, one after the other, while clients go on."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, CacheError
from tests.integration.load import until

KEYS = 400
_WINDOW_S = 1.0


class Reader:
    """Callers that read keys which are all there, set some anew, and count what goes wrong."""

    def __init__(self, client: CacheClient) -> None:
        self.client = client
        self.errors: list[tuple[float, str]] = []
        self.stale = 0
        self.reads: list[tuple[float, bool]] = []
        self.written = dict.fromkeys(range(KEYS), 0)
        self._rng = random.Random(7)

    async def fill(self) -> None:
        await self.client.set_many({f"k{key}": 0 for key in range(KEYS)})

    async def read_forever(self) -> None:
        while True:
            key = self._rng.randrange(KEYS)
            at_least = self.written[key]
            try:
                value = await self.client.get(f"k{key}", -1)
            except CacheError as error:
                self.errors.append((time.monotonic(), repr(error)))
                continue
            self.reads.append((time.monotonic(), value >= 0))
            self.stale += 0 <= value < at_least
            await asyncio.sleep(0.001)

    async def write_forever(self, part: int, parts: int) -> None:
        value = 0
        while True:
            value += 1
            for key in range(part, KEYS, 7 * parts):
                try:
                    await self.client.set(f"k{key}", value)
                except CacheError as error:
                    self.errors.append((time.monotonic(), repr(error)))
                else:
                    self.written[key] = value
                await asyncio.sleep(0.005)

    def worst_hit_ratio(self, since: float) -> float:
        """Return the lowest part of reads that found their value, of all windows of a second."""
        windows: dict[int, list[bool]] = {}
        for at, hit in self.reads:
            if at >= since:
                windows.setdefault(int((at - since) / _WINDOW_S), []).append(hit)
        return min(sum(hits) / len(hits) for hits in windows.values() if len(hits) > 20)


@pytest.mark.parametrize("near_cache", [None, 8 << 20])
async def test_rolling_restart_costs_no_call(
    tmp_path: Path, near_cache: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failed call, no stale read, and never a second in which less than 80 % of the reads find their value.

    Scenario 30.
    """
    monkeypatch.setenv("CACHENODE_L2__TIMEOUT_S", "1.0")  # two busy cores; this is not about a slow L2
    async with (
        LocalCluster(nodes=3, directory=tmp_path, memory="64MiB") as cluster,
        CacheClient(cluster.address, near_cache=near_cache, timeout_s=5) as client,
    ):
        load = Reader(client)
        await load.fill()
        jobs = [asyncio.create_task(load.read_forever()) for _ in range(4)]
        jobs += [asyncio.create_task(load.write_forever(part, 2)) for part in range(2)]
        await until(lambda: len(load.reads) > 500, 20, "the load has begun")
        began = time.monotonic()
        for node in list(cluster.nodes):
            await cluster.restart(node.id)
            await asyncio.sleep(1.0)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    assert [(round(at - began, 2), text) for at, text in load.errors] == []
    assert load.stale == 0
    assert load.worst_hit_ratio(began) >= 0.8
