"""What only a real server shows: when a write counts as queued, and what a server cannot be trusted with."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cachenode.adapters.queue_redis import Durability, RedisQueue
from cachenode.adapters.redis_client import connect
from cachenode.cli.ports import free_ports
from cachenode.core.entries import QueuedWrite
from cachenode.core.queued import Outcome, Put
from cachenode.errors import L2Unavailable
from tests.support.redis_server import RedisServer, server

NS = "orders"


@asynccontextmanager
async def queue_at(url: str, durability: Durability = "fast", put_timeout_s: float = 5.0) -> AsyncIterator[RedisQueue]:
    client = connect(url, timeout_s=10.0, connect_timeout_s=2.0)
    queue = RedisQueue(client, f"t{secrets.token_hex(4)}", durability=durability, put_timeout_s=put_timeout_s)
    try:
        yield queue
    finally:
        await queue.close()


async def put(queue: RedisQueue, key: bytes = b"k", version: int = 1) -> Put:
    (answer,) = await queue.put(NS, [QueuedWrite(key, b"v", 0, version)], 100)
    return answer


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that writes what it is told to its disk."""
    settings = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    with server(tmp_path, "valkey", settings=settings) as running:
        yield running


async def test_fsync_waits_for_the_disk(durable: RedisServer) -> None:
    """A write counts as queued once it is on the disk, and is there after the server was killed at once."""
    async with queue_at(durable.url, "fsync") as queue:
        assert await queue.problems() == []
        assert (await put(queue)).outcome is Outcome.QUEUED
        durable.kill()
        durable.restart()
        (found,) = await queue.newest(NS, [b"k"])
        assert found is not None
        assert found.version == 1


async def test_write_that_is_not_on_the_disk_in_time_is_uncertain(durable: RedisServer) -> None:
    """Where the disk takes longer than a put may, the write is queued, but not acknowledged."""
    async with queue_at(durable.url, "fsync", put_timeout_s=0.05) as queue:
        await queue.problems()
        outcomes = {(await put(queue, b"%d" % number)).outcome for number in range(20)}
        assert Outcome.UNCERTAIN in outcomes
        assert outcomes <= {Outcome.UNCERTAIN, Outcome.QUEUED}


@pytest.mark.parametrize("appendonly", ["yes", "no"])
async def test_replicated_waits_for_a_replica(tmp_path: Path, appendonly: str) -> None:
    """A write counts as queued once a replica has it, on its disk if the servers keep a file; without one it fails."""
    settings = {"appendonly": appendonly, "maxmemory-policy": "noeviction", "repl-diskless-sync-delay": "0"}
    (port,) = free_ports(1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with server(tmp_path / "a", "valkey", settings=settings | {"port": str(port), "bind": "127.0.0.1"}) as first:
        async with queue_at(first.url, "replicated", put_timeout_s=3.0) as queue:
            assert await queue.problems() == []
            alone = await put(queue, b"alone")
            assert (alone.outcome, "no replica" in alone.why) == (Outcome.UNCERTAIN, True)
            with server(tmp_path / "b", "valkey", settings=settings | {"replicaof": f"127.0.0.1 {port}"}) as replica:
                client = connect(replica.url, timeout_s=5.0, connect_timeout_s=5.0)
                while (await client.info("replication"))["master_link_status"] != "up":  # until it has caught up
                    pass
                number = 2
                while (answer := await put(queue, version=number)).outcome is not Outcome.QUEUED:
                    assert answer.outcome is Outcome.UNCERTAIN, answer
                    number += 1
                first.kill()
                assert [await client.hlen(name) for name in await client.keys("*.wb.records:*")] == [2]
                await client.aclose()


async def test_server_without_a_file_is_no_place_for_fsync(tmp_path: Path) -> None:
    """What the server cannot keep is said, with the setting to change; fast asks for less."""
    with server(tmp_path, "valkey") as running:
        async with queue_at(running.url, "fsync") as queue:
            (problem,) = await queue.problems()
            assert "appendonly" in problem
        async with queue_at(running.url) as queue:
            assert await queue.problems() == []


async def test_server_that_hides_its_settings_is_believed(tmp_path: Path) -> None:
    """Where CONFIG is forbidden there is a warning in the log, not a refusal."""
    with server(tmp_path, "valkey") as running:
        client = connect(running.url, timeout_s=5.0, connect_timeout_s=5.0)
        await client.execute_command("ACL", "SETUSER", "default", "-config")  # type: ignore[no-untyped-call]
        await client.aclose()
        async with queue_at(running.url) as queue:
            assert await queue.problems() == []


async def test_server_that_is_away_has_done_nothing(tmp_path: Path) -> None:
    """Without a connection a put is refused rather than uncertain, and all else fails."""
    async with queue_at(f"unix://{tmp_path}/nobody") as queue:
        assert (await put(queue)).outcome is Outcome.REFUSED
        with pytest.raises(L2Unavailable):
            await queue.newest(NS, [b"k"])
        with pytest.raises(L2Unavailable):
            await queue.problems()


async def test_server_without_memory_refuses(tmp_path: Path) -> None:
    """A server that is full refuses writes, and lets the queue drain."""
    settings = {"maxmemory": "4mb", "maxmemory-policy": "noeviction"}
    with server(tmp_path, "valkey", settings=settings) as running:
        async with queue_at(running.url) as queue:
            answers = [
                (await queue.put(NS, [QueuedWrite(b"%d" % number, bytes(100_000), 0, 1)], 1_000))[0]
                for number in range(60)
            ]
            assert answers[0].outcome is Outcome.QUEUED
            assert answers[-1].outcome is Outcome.REFUSED
            assert "OutOfMemory" in answers[-1].why
            for shard in range(16):
                await queue.fetch(NS, shard, "a", lease_s=5.0, most=0, claim=b"0-0")
                found = await queue.fetch(NS, shard, "a", lease_s=5.0, most=100)
                done = [(id_, key, 1) for id_, key, _ in found.entries]
                assert await queue.done(NS, shard, "a", done) == [False] * len(done)
            assert (await queue.status(NS)).waiting == 0
