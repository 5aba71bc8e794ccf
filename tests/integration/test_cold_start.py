"""A cluster that starts with nothing while its clients go on asking: the database is spared, the cache recovers."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, CacheError
from tests.integration.slow_origin import calls_at_once, calls_in
from tests.support.eventually import assert_within

USERS = 3_000
CALL_S = 0.1
BATCH = 10
CALLS_PER_NODE = 2
NODES = 3
RATE_PER_S = 400.0
READ_KEYS, READ_EVERY_S = 100, 0.05  # two thousand reads a second
CONFIG = """
[origins.users]
loader = "tests.integration.slow_origin:SlowOrigin"
options = {{ log = "{log}", users = {users}, call_s = {call_s} }}
batch_keys = {batch}
concurrency = {calls}
[namespaces.users]
origin = "users"
ttl_s = 600
l2 = false
"""


class Readers:
    """Reads two thousand keys a second, the most wanted far more often than others."""

    def __init__(self, client: CacheClient) -> None:
        self._client = client
        self._random = random.Random(50)
        self._weights = [1 / (number + 1) for number in range(USERS)]
        self.failed = 0
        self.reads: list[tuple[float, float]] = []
        """When each batch ended, and how long it took."""

    async def run(self, until: asyncio.Event) -> None:
        """Read until told to stop; a batch that takes long does not hold up the next one."""
        batches: set[asyncio.Task[None]] = set()
        while not until.is_set():
            batches.add(asyncio.create_task(self._read()))
            batches = {batch for batch in batches if not batch.done()}
            await asyncio.sleep(READ_EVERY_S)
        await asyncio.gather(*batches)

    async def _read(self) -> None:
        numbers = self._random.choices(range(USERS), self._weights, k=READ_KEYS)
        began = time.monotonic()
        try:
            await self._client.get_many({f"user:{number}" for number in numbers})
        except CacheError:
            self.failed += 1
        else:
            self.reads.append((time.monotonic(), time.monotonic() - began))


async def ratio(client: CacheClient, cluster: LocalCluster, seconds: float) -> float:
    """Return the hit ratio of all nodes over the next seconds."""
    before = await _counted(cluster)
    await asyncio.sleep(seconds)
    after = await _counted(cluster)
    hits, misses = after[0] - before[0], after[1] - before[1]
    return hits / (hits + misses)


async def _counted(cluster: LocalCluster) -> tuple[int, int]:
    from cachenode.cli.admin import ask_stats

    _, answers = await ask_stats(cluster.address, 5.0)
    spaces = [space for answer in answers.values() if answer for space in answer.namespaces if space.name == "users"]
    return sum(space.l1_hits + space.l2_hits for space in spaces), sum(space.misses for space in spaces)


@pytest.mark.timeout(180)
async def test_cold_start_of_everything(tmp_path: Path) -> None:
    """Scenario 50. All nodes are killed and start with nothing, while two thousand reads a second go on.

    The database never has more calls at once than its limits say. Warming brings the hit ratio back to nine tenths of
    what it was within the time that the rate says, and nothing keeps it down when the rush is over.
    """
    log = tmp_path / "log"
    config = CONFIG.format(log=log, users=USERS, call_s=CALL_S, batch=BATCH, calls=CALLS_PER_NODE)
    (tmp_path / "node.toml").write_text(config)
    arguments = ["--config", str(tmp_path / "node.toml")]
    async with LocalCluster(nodes=NODES, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = ",".join(node.address for node in cluster.nodes)
        async with CacheClient(addresses, namespace="users", timeout_s=5.0, near_cache=None) as client:
            async for step in client.warm(origin=True, rate_per_s=5_000):
                assert not step.failed
            until, readers = asyncio.Event(), Readers(client)
            reading = asyncio.create_task(readers.run(until))
            await asyncio.sleep(1.0)
            steady = await ratio(client, cluster, 2.0)

            await asyncio.gather(*(cluster.kill(node.id) for node in cluster.nodes))
            await asyncio.gather(*(cluster.restart(node.id) for node in cluster.nodes))
            began = time.monotonic()
            async for step in client.warm(origin=True, rate_per_s=RATE_PER_S):
                last = step
            took = time.monotonic() - began
            recovered = await ratio(client, cluster, 2.0)
            until.set()
            await reading
    calls = calls_in(log)
    print(f"steady {steady:.3f}, after {took:.1f} s {recovered:.3f}; at most {calls_at_once(calls)} calls at once")
    assert (last.state, last.failed, last.done) == ("done", 0, USERS)
    assert calls_at_once(calls) <= NODES * CALLS_PER_NODE
    assert_within(took, 2 * USERS / RATE_PER_S + 10.0, "warming, which shares with readers what the origin can do")
    assert recovered >= 0.9 * steady
    ended = [seconds for at, seconds in readers.reads if at > began + took]
    assert ended
    assert sorted(ended)[len(ended) // 2] < CALL_S, "reads are answered from memory again"
