"""Write-behind with real nodes, a real Valkey that keeps what it is told, and a database behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as SyncRedis

from cachenode.adapters.queue_redis import RedisQueue
from cachenode.adapters.redis_client import connect
from cachenode.cli.local_cluster import ClusterError
from cachenode_client import CacheClient, CacheError, CacheUnavailable, Overloaded
from tests.integration.load import until
from tests.integration.write_behind.run import run
from tests.integration.write_behind.site import NAMESPACE, SAFE, Site, Writer, out_of_order, site
from tests.support.eventually import assert_within
from tests.support.redis_server import server
from tests.support.redis_topologies import cluster as redis_cluster

TAKEOVER_S = 12.0
"""A dead member leaves the view within six seconds, and its leases end within five."""


def client_of(here: Site, **options: object) -> CacheClient:
    return CacheClient(here.cluster.address, namespace=NAMESPACE, **({"timeout_s": 5.0} | options))  # type: ignore[arg-type]


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Two nodes killed and the Valkey killed and started again, under writes: none lost, none out of order."""
    report = await run(tmp_path, writes=3_000, keys=200)
    assert report.acknowledged >= 3_000
    assert (report.lost, report.out_of_order) == (0, 0)


async def test_nothing_acknowledged_is_lost_in_a_cluster(tmp_path: Path) -> None:
    """The Cluster's master that keeps the queue is killed, and its replica takes its place; then a node is killed.

    With durability replicated, since ``fsync`` asks the master alone, and its replica may not have what it had.
    """
    with redis_cluster(tmp_path / "servers", settings=SAFE) as servers:
        report = await run(tmp_path, writes=800, keys=100, redis_cluster=servers, short=True)
    assert report.acknowledged >= 800
    assert (report.lost, report.out_of_order) == (0, 0)


async def test_node_that_dies_after_the_commit(tmp_path: Path) -> None:
    """A consumer is killed between the database's commit and its word to the queue: all is written again. Scenario 44.

    Then the database is what the writers were told, and another node has taken over within the time of a lease after
    the view's change.
    """
    async with site(tmp_path, nodes=2) as here, client_of(here) as client:
        writer = Writer(client, [f"k{number}" for number in range(60)])
        here.say("down")
        await writer.write_many(60)
        here.say("die")
        here.say("down", said=False)  # what is sent now is nobody's to overwrite: it is sent twice as it is
        await until(lambda: not (tmp_path / "die").exists(), 10.0, "a node that dies")
        took = await here.drained(TAKEOVER_S + 10)
        assert_within(took, TAKEOVER_S, "another node takes over")
        assert writer.lost(here.rows()) == []
        assert out_of_order(here.done()) == 0
        assert sum(not changed for *_, changed in here.done()) > 0, "it was written twice"


async def test_frozen_node_writes_late(tmp_path: Path) -> None:
    """A consumer is frozen in its call for longer than its lease: its old write does not win. Scenario 45."""
    async with site(tmp_path) as here, client_of(here) as client:
        writer = Writer(client, [f"k{number}" for number in range(60)])
        here.say("slow")
        await writer.write_many(60)
        await asyncio.sleep(0.6)
        here.say("slow", said=False)
        here.cluster.pause("node-0")
        await asyncio.sleep(8.0)
        await writer.write_many(60)
        await here.drained()
        here.cluster.resume("node-0")
        await asyncio.sleep(2.0)
        await here.drained()
        assert writer.lost(here.rows()) == []
        assert out_of_order(here.done()) == 0


async def test_poison_is_moved_aside(tmp_path: Path) -> None:
    """A write that violates a constraint becomes the only dead letter; the others are written. Scenario 46."""
    async with site(tmp_path, nodes=1, attempts=3) as here, client_of(here) as client:
        writer = Writer(client, [f"k{number}" for number in range(50)])
        await client.set("poison", -1)
        began = time.monotonic()
        while time.monotonic() < began + 10.0:
            await writer.write_many(10)
            if await here.waiting() == 0:
                break
            await asyncio.sleep(0.1)
        await here.drained(5.0)
        assert writer.lost(here.rows()) == []
        redis = here.redis()
        assert await redis.xlen(here.name("dead")) == 1
        await redis.aclose()


async def test_backlog_is_bounded(tmp_path: Path) -> None:
    """While the database is down writes wait, then new keys are refused; afterwards all is written. Scenario 47."""
    async with site(tmp_path, nodes=2, max_backlog=100) as here, client_of(here, timeout_s=2.0) as client:
        writer = Writer(client, [f"k{number}" for number in range(100)])
        here.say("down")
        await writer.write_many(100)
        with pytest.raises(Overloaded) as refused:
            await client.set("one more", 1)
        assert (refused.value.reason, refused.value.retryable) == ("backlog_full", True)
        assert await client.get("one more") is None
        await writer.write_many(100)
        assert await here.waiting() == 100
        here.say("down", said=False)
        await here.drained()
        await client.set("one more", 1)
        assert writer.lost(here.rows()) == []
        redis = here.redis()
        streams = [f"{here.name('stream')}:{shard}" for shard in range(16)]
        deleted = [(await redis.xautoclaim(stream, "sink", "nobody", 0))[2] for stream in streams]
        await redis.aclose()
        assert deleted == [[]] * 16


async def test_own_writes_are_read_while_they_wait(tmp_path: Path) -> None:
    """The database is down, the owner dies, and the values have left the cache: reads find what waits. Scenario 48."""
    async with site(tmp_path, nodes=2) as here, client_of(here) as client:
        here.say("down")
        keys = [f"k{number}" for number in range(30)]
        for key in keys:
            await client.set(key, 7)
        await here.cluster.kill("node-0")
        redis = here.redis()
        for name in await redis.keys(f"cn:{here.cluster.name}:{NAMESPACE}:*"):
            await redis.delete(name)
        await redis.aclose()
        await until(lambda: _invalidated(client, keys), 15.0, "a view without the dead node")
        loaded = [await client.get_or_load(key, lambda: 0, timeout_s=15.0) for key in keys]
        assert loaded == [7] * 30


async def _invalidated(client: CacheClient, keys: list[str]) -> bool:
    try:
        await client.invalidate(keys=keys)
    except CacheError:
        return False
    return True


async def test_valkey_that_is_away(tmp_path: Path) -> None:
    """Without the queue's server writes fail within a second, retryably, and nothing is acknowledged from memory."""
    async with site(tmp_path, nodes=1) as here, client_of(here) as client:
        await client.set("k", 1)
        here.valkey.kill()
        reasons = set()
        for _ in range(10):
            began = time.monotonic()
            with pytest.raises(CacheError) as failed:
                await client.set("k", 2, timeout_s=2.0)
            reasons.add(failed.value.reason)
            assert time.monotonic() - began < 2.5
            await asyncio.sleep(0.1)
        assert "queue_unavailable" in reasons
        here.valkey.restart()
        await until(lambda: _succeeds(client), 15.0, "a write that succeeds again")
        await here.drained()
        assert here.rows()["k"] == 3


async def _succeeds(client: CacheClient) -> bool:
    try:
        await client.set("k", 3)
    except CacheUnavailable:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["/bin/umount", "-l", str(disk)], check=False)


async def test_full_disk_stops_acknowledgements(tmp_path: Path, small_disk: Path) -> None:
    """A Valkey whose disk is full ends, or refuses: writes fail, and what was acknowledged is kept. Scenario 41."""
    acknowledged: set[bytes] = set()
    async with (
        site(tmp_path, nodes=1, settings={"dir": str(small_disk)}) as here,
        client_of(here, timeout_s=1.0) as client,
    ):
        here.say("down")
        for number in range(4_000):
            began = time.monotonic()
            try:
                await client.set(f"big{number}", "x" * 2_000)
            except CacheError:
                assert time.monotonic() - began < 2.0
                break
            acknowledged.add(b"big%d" % number)
        assert 10 < len(acknowledged) < 4_000
        with pytest.raises(CacheError):
            await client.set("after", 1)
    assert acknowledged <= kept(small_disk, tmp_path / "again")[0]


def kept(directory: Path, copy: Path) -> tuple[set[bytes], set[bytes]]:
    """Return the keys of the records that a server finds in what another has written, and the keys of the entries."""
    shutil.copytree(directory, copy)
    with server(copy, "valkey", settings={"appendonly": "yes", "aof-load-truncated": "yes"}) as running:
        client: Any = SyncRedis(unix_socket_path=running.url.removeprefix("unix://"))
        records = {key for name in client.keys("*.wb.records:*") for key in client.hkeys(name)}
        streams = [client.xrange(name) for name in client.keys("*.wb.stream:*")]
        client.close()
    return records, {fields[b"k"] for stream in streams for _, fields in stream}


async def test_end_of_the_file_is_lost(tmp_path: Path) -> None:
    """A power loss cuts the end of the file of commands: what is left is whole, key by key. Scenario 42.

    With ``appendfsync always`` all that was acknowledged had been flushed before, so nothing acknowledged is in a part
    that can be cut; a cut of a few bytes anywhere takes whole writes, and never a value without its entry.
    """
    async with site(tmp_path, nodes=1) as here, client_of(here) as client:
        here.say("down")
        for number in range(50):
            await client.set(f"k{number}", number)
        os.kill(here.valkey.pid, signal.SIGKILL)
    (file,) = (tmp_path / "l2/appendonlydir").glob("*.incr.aof")
    whole = file.stat().st_size
    for cut in (1, 40, 400):  # of the same file, each time more
        os.truncate(file, whole - cut)
        records, entries = kept(tmp_path / "l2", tmp_path / f"cut-{cut}")
        assert records == entries
        assert len(records) >= 50 - 1 - cut // 100


@pytest.mark.parametrize(
    ("settings", "durability", "text"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "fast", "maxmemory-policy allkeys-lru"),
        ({"appendonly": "no"}, "fsync", "appendonly"),
    ],
)
async def test_unfit_server_is_refused_at_the_start(
    tmp_path: Path, settings: dict[str, str], durability: str, text: str
) -> None:
    """A node does not start with a queue that cannot keep what it promises, and says what to change."""
    with pytest.raises(ClusterError) as refused:
        async with site(tmp_path, nodes=1, durability=durability, settings=settings):
            pass
    assert text in str(refused.value) + (tmp_path / "c/node-0.log").read_text()


async def test_local_cluster_can_write_behind(tmp_path: Path) -> None:
    """The Valkey of a local cluster evicts values, never what waits: durability fast is fine with it."""
    with server(tmp_path, "valkey") as running:
        queue = RedisQueue(connect(running.url, timeout_s=1.0, connect_timeout_s=1.0), "c")
        assert await queue.problems() == []
        await queue.close()
