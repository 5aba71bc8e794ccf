"""A Cluster whose slots move and whose masters die, as the shared store and the queue see it. Scenario 37."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.queue_redis import RedisQueue
from cachenode.adapters.redis_checks import RedisChecks
from cachenode.adapters.redis_client import connect
from cachenode.adapters.redis_cluster import _fails_over
from cachenode.core.entries import L2Write, QueuedWrite
from cachenode.core.queued import Outcome
from cachenode.errors import L2Unavailable
from tests.support.eventually import eventually
from tests.support.redis_topologies import ClusterSet, Process, cluster

NS = "n"
PATIENT_S = 20.0


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSet]:
    """Three masters with a replica each."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@asynccontextmanager
async def store_at(masters: ClusterSet, name: str) -> AsyncIterator[RedisL2]:
    """Have a store that waits for long: the machine may be busy."""
    client = connect(masters.url, timeout_s=PATIENT_S, connect_timeout_s=PATIENT_S)
    store = RedisL2(client, name, timeout_s=PATIENT_S)
    try:
        yield store
    finally:
        await store.close()


def put(key: bytes, value: bytes = b"v", version: int = 1) -> L2Write:
    return L2Write(key, value, 0, version, math.inf)


async def values(store: RedisL2, keys: list[bytes]) -> list[bytes | None]:
    return [None if entry is None else entry.value for entry in await store.read(NS, keys)]


def other_than(masters: ClusterSet, owner: Process) -> Process:
    return next(node for node in masters.nodes[:3] if node is not owner)


async def test_keys_of_all_masters_in_one_call(masters: ClusterSet) -> None:
    """Reads, writes, drops and walks reach every master, and results are in the order of the call."""
    name = f"t{secrets.token_hex(4)}"
    async with store_at(masters, name) as store:
        keys = [b"%d" % number for number in range(200)]
        assert len({masters.owner(f"cn:{name}:{NS}:{key.decode()}".encode()) for key in keys}) == 3
        assert await store.write(NS, [put(key, b"v" + key) for key in keys]) == [True] * 200
        assert await values(store, [*keys, b"absent", keys[0]]) == [*(b"v" + key for key in keys), None, b"v0"]
        found: list[bytes] = []
        cursor = 0
        while True:
            some, cursor = await store.keys(NS, cursor)
            found += some
            if not cursor:
                break
        assert sorted(found) == sorted(keys)
        assert await store.drop(NS, [(key, 2) for key in keys]) == [True] * 200
        assert await values(store, keys) == [None] * 200
        await store.ping()
        assert store.history == 0


async def test_a_slot_that_moves_is_followed(masters: ClusterSet) -> None:
    """While keys of a slot are on both sides of a move, each is found where it is, and new ones go where they belong.

    The one that gets the slot knows no script of ours. Nothing is forgotten, so the history goes on.
    """
    name = f"t{secrets.token_hex(4)}"
    async with store_at(masters, name) as store:
        keys = [b"{tag}%d" % number for number in range(6)]
        slot = key_slot(b"tag")
        target = other_than(masters, masters.owner_of_slot(slot))
        target.call("SCRIPT", "FLUSH")
        await store.write(NS, [put(key) for key in keys])
        source = masters.begin_move(slot, target)
        masters.move_keys(slot, source, target, most=3)
        assert await values(store, keys) == [b"v"] * 6
        assert await store.write(NS, [put(key, b"w", 2) for key in [*keys, b"{tag}new"]]) == [True] * 7
        assert await store.drop(NS, [(keys[0], 3)]) == [True]
        masters.move_keys(slot, source, target)
        masters.end_move(slot, source, target)
        assert await values(store, [*keys, b"{tag}new"]) == [None, *[b"w"] * 6]
        await store.ping()
        assert store.history == 0


async def test_keys_on_both_sides_are_tried_again(masters: ClusterSet) -> None:
    """A script whose keys are torn apart by a move waits until they are together again."""
    name = f"t{secrets.token_hex(4)}"
    client = connect(masters.url, timeout_s=PATIENT_S, connect_timeout_s=PATIENT_S)
    queue = RedisQueue(client, name, put_timeout_s=PATIENT_S, timeout_s=PATIENT_S)
    slot = key_slot(f"{{{name}:{NS}}}".encode())
    target = other_than(masters, masters.owner_of_slot(slot))
    (first,) = await queue.put(NS, [QueuedWrite(b"k", b"1", 0, 1, math.inf, 0)], 100)
    source = masters.begin_move(slot, target)
    assert masters.move_keys(slot, source, target, most=1) == 1
    second = asyncio.create_task(queue.put(NS, [QueuedWrite(b"k", b"2", 0, 2, math.inf, 0)], 100))

    def refused() -> bool:
        return any("TRYAGAIN" in str(node.call("INFO", "errorstats")) for node in (source, target))

    await eventually(refused, within_s=PATIENT_S)
    assert not second.done()
    masters.move_keys(slot, source, target)
    masters.end_move(slot, source, target)
    assert [first.outcome, (await second)[0].outcome] == [Outcome.QUEUED, Outcome.REPLACED]
    assert not queue.carries_values, "values lie on other masters"
    newest = await queue.newest(NS, [b"k"])
    assert [write and write.value for write in newest] == [b"2"]
    await queue.close()


async def test_a_cluster_whose_failover_takes_too_long(masters: ClusterSet) -> None:
    """The time-out of a Cluster's nodes is held against the length of a lease."""
    for lease_s, expected in ((4.0, ["cluster-node-timeout 2000, cluster.lease_s 4"]), (8.0, [])):
        client = connect(masters.url, timeout_s=10.0, connect_timeout_s=10.0, max_connections=2)
        checks = RedisChecks([(client, ("membership",))], lease_s=lease_s)
        await checks.look()
        assert [each.evidence for each in checks.problems if each.kind == "slow_failover"] == expected
        await checks.stop()


async def test_a_failover_is_history_before_anything_is_read(masters: ClusterSet) -> None:
    """When a replica has taken over, nothing is read before the history counts as ended: it may have missed writes."""
    name = f"t{secrets.token_hex(4)}"
    async with store_at(masters, name) as store:
        await store.write(NS, [put(b"k")])
        master = masters.owner(f"cn:{name}:{NS}:k".encode())
        replica = masters.replica_of(master)
        await eventually(lambda: replica.call("CLUSTER", "COUNTKEYSINSLOT", key_slot(f"cn:{name}:{NS}:k".encode())))
        master.kill()
        answers = 0

        async def answered() -> bool:
            nonlocal answers
            before = store.history
            try:
                found = await values(store, [b"k"])
            except L2Unavailable:
                return False
            answers += 1
            assert found == [b"v"]
            assert store.history > before or before == 1
            return True

        await eventually(answered, within_s=PATIENT_S)
        assert store.history == 1
        assert replica.info()["role"] == "master"


def queue_owner(masters: ClusterSet, name: str) -> Process:
    """Return the master that has a cluster's queue."""
    return masters.owner_of_slot(key_slot(f"{{{name}:{NS}}}".encode()))


async def test_what_a_failover_loses_of_a_queue(masters: ClusterSet) -> None:
    """A replica that lags takes over: what the master alone had is gone, and only ``replicated`` had not said yes."""
    client = connect(masters.url, timeout_s=PATIENT_S, connect_timeout_s=PATIENT_S)
    names = (f"t{secrets.token_hex(4)}" for _ in range(1_000))
    name = next(
        name for name in names if "slave0" in queue_owner(masters, name).info()
    )  # one may have lost its replica
    alone = RedisQueue(client, name, put_timeout_s=PATIENT_S, timeout_s=PATIENT_S)
    both = RedisQueue(client, name, durability="replicated", put_timeout_s=1.0, timeout_s=PATIENT_S)
    assert await both.problems() == []
    master = queue_owner(masters, name)
    replica = masters.replica_of(master)

    async def put(queue: RedisQueue, key: bytes) -> Outcome:
        (done,) = await queue.put(NS, [QueuedWrite(key, b"v", 0, 1, math.inf, 0)], 100)
        return done.outcome

    assert [await put(both, b"safe"), await put(alone, b"told")] == [Outcome.QUEUED] * 2
    await eventually(lambda: master.info()["slave0"]["lag"] == 0, within_s=PATIENT_S)
    replica.freeze()
    master.call("CLIENT", "KILL", "TYPE", "replica")  # or what is written would wait in its socket
    assert [await put(both, b"unsure"), await put(alone, b"lost")] == [Outcome.UNCERTAIN, Outcome.QUEUED]
    master.kill()
    replica.thaw()
    await eventually(lambda: replica.info()["role"] == "master", within_s=PATIENT_S)

    async def newest() -> bool:
        try:
            found = await alone.newest(NS, [b"safe", b"told", b"unsure", b"lost"])
        except L2Unavailable:
            return False
        assert [write is not None for write in found] == [True, True, False, False]
        return True

    await eventually(newest, within_s=PATIENT_S)
    await both.close()
    await alone.close()


A, B, C = ("a", 1), ("b", 2), ("c", 3)


@pytest.mark.parametrize(
    ("before", "after", "ended"),
    [
        ([A, A, B], [A, A, B], False),
        ([A, A, B], [A, B, B], False),  # moved between masters that stay
        ([A, A, B], [C, C, B], True),  # a replica has taken A's place
        ([A, A, B], [A, C, B], True),  # a new master's first slot: it might be a replica that was promoted
        ([A, C, B], [A, B, B], True),  # a master's last slot: it might have died
        ([A, A, B], [B, B, B], True),
        ([None, A, B], [C, A, B], False),  # nobody had it
    ],
)
def test_what_counts_as_a_failover(
    before: list[tuple[str, int] | None], after: list[tuple[str, int] | None], ended: bool
) -> None:
    """A slot that goes from one master to another takes its values along, if both were known and both stay."""
    assert _fails_over(before, after) is ended
