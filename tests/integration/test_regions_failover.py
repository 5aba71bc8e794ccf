"""A region's outbox while the Redis that has it fails over: real sentinels, a real Cluster.

What was appended, and acknowledged by Redis, arrives in the other region, or is covered by a gap that it is told of
afterwards; whatever the failover has lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from cachenode.adapters.redis_client import connect
from cachenode.adapters.regions_redis import RedisRegions
from cachenode.core.regions import Cursor, RegionEntry, intake, next_shipment
from cachenode.errors import L2Unavailable
from tests.integration.load import until
from tests.support.redis_topologies import Process, cluster, sentinel_set

NAME = "east"
FAILOVER_S = 30.0


class Relay:
    """Who appends and who sends, as nodes do; and what the other region makes of it, in memory.

    Attributes:
        acknowledged: Numbers that were appended.
        covered: Those that the other region has acted on.
        gaps: How many it was told of.
        over: True ends it.
    """

    def __init__(self, store: RedisRegions) -> None:
        self.acknowledged: set[int] = set()
        self.covered: set[int] = set()
        self.gaps = 0
        self.over = False
        self._store = store
        self._cursor: Cursor | None = None
        self._begun = 0

    async def append(self) -> None:
        """Append until it is over; what fails may be there all the same."""
        while not self.over:
            number, self._begun = self._begun, self._begun + 1
            with contextlib.suppress(L2Unavailable):
                await self._store.append([RegionEntry("users", (b"%d" % number,))])
                self.acknowledged.add(number)
            await asyncio.sleep(0.002)

    async def send(self) -> None:
        """Send until it is over."""
        while not self.over:
            with contextlib.suppress(L2Unavailable):
                await self.step()
            await asyncio.sleep(0.01)

    async def step(self) -> bool:
        """Send what there is; return whether the other region has everything."""
        found = await self._store.fetch("west", "a", lease_s=5.0, after=self._cursor, most=1_000)
        assert found is not None
        shipment = next_shipment(self._cursor, found)
        if shipment is None:
            return True
        work = intake(self._cursor, shipment)
        if work.gap:
            self.gaps += 1
            self.covered.update(range(self._begun))  # an entry is appended when its change is done
        for entry in work.entries:
            self.covered.update(map(int, entry.texts))
        self._cursor = work.cursor or self._cursor
        return False


@contextmanager
def topology(kind: str, directory: Path) -> Iterator[tuple[str, Callable[[], Process]]]:
    """Run servers; give their URL, and what says which of them has the outbox."""
    if kind == "sentinel":
        with sentinel_set(directory) as sentinels:
            yield sentinels.url, sentinels.master
    else:
        with cluster(directory) as servers:
            slot = key_slot(b"cn:{%s}:regions:outbox" % NAME.encode())
            yield servers.url, lambda: servers.owner_of_slot(slot)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_nothing_acknowledged_is_lost_unsaid(tmp_path: Path, kind: str) -> None:
    """The master dies under load. Its replica has another run id, so the outbox is a new one, which is a gap."""
    with topology(kind, tmp_path) as (url, master):
        store = RedisRegions(connect(url, timeout_s=1.0, connect_timeout_s=1.0), NAME, ["west"])
        relay = Relay(store)
        tasks = [asyncio.create_task(work) for work in (relay.append(), relay.send())]
        try:
            await until(lambda: len(relay.covered) > 50, FAILOVER_S, "entries before the fault")
            assert relay.gaps == 1  # the first word
            had = await asyncio.to_thread(master)
            had.kill()
            acknowledged = len(relay.acknowledged)
            await until(lambda: len(relay.acknowledged) > acknowledged + 50, FAILOVER_S, "entries after it")
            assert await asyncio.to_thread(master) is not had
        finally:
            relay.over = True
            await asyncio.gather(*tasks)

        async def everything() -> bool:
            try:
                return await relay.step()
            except L2Unavailable:
                return False

        await until(everything, FAILOVER_S, "the other region has everything")
        await store.close()
        assert relay.acknowledged <= relay.covered
        assert relay.gaps == 2
