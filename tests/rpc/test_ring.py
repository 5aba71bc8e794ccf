"""The ring and the snapshot, as a node tells them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.core.access import Grant, Role
from cachenode.rpc.gate import _covers
from cachenode.server import Server
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, cache_pb2
from cachenode_api.view import View
from tests.support.cluster import SEED, member

ADMIN = "/cachenode.v1.AdminService/"


async def test_shares_and_owners(server: Server, admin: Any) -> None:
    """What members have by weight, of the hashes and of made-up keys; and who has a key, and who would next."""
    placement = server.node.placement
    placement.apply(View(placement.epoch + 1, SEED, (placement.me, member("b"))))
    ring = placement.ring
    assert ring is not None
    answer = await admin.Ring(pb.RingRequest(key=b"k", sample=2_000))
    shares = {each.node_id: each for each in answer.members}
    assert [each.ideal for each in answer.members] == [0.5, 0.5]
    assert {name: each.space for name, each in shares.items()} == ring.shares()
    assert sum(each.sample for each in answer.members) == pytest.approx(1)
    assert shares["b"].sample == pytest.approx(shares["b"].space, abs=0.05)
    assert list(answer.owners) == ring.owners(b"k", 2)
    assert answer.position == ring.hash(b"k")
    answer = await admin.Ring(pb.RingRequest())
    assert (answer.sample, answer.position, list(answer.owners)) == (10_000, 0, [])


async def test_what_the_ring_refuses(admin: Any) -> None:
    """Too many made-up keys, and keys that are none."""
    for request in (pb.RingRequest(sample=100_001), pb.RingRequest(key=b""), pb.RingRequest(key=bytes(1_025))):
        with pytest.raises(aio.AioRpcError) as refused:
            await admin.Ring(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_ring_before_the_first_view(start_server: Any) -> None:
    """A node without a view has no ring."""
    server = await start_server()
    server.node.placement.ring = None
    async with aio.insecure_channel(server.address) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await admin_pb2_grpc.AdminServiceStub(channel).Ring(pb.RingRequest())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def snapshot(admin: Any, **fields: Any) -> list[pb.SnapshotPart]:
    return [part async for part in admin.Snapshot(pb.SnapshotRequest(**fields))]


async def test_keys_with_what_is_known_of_them(cache: Any, admin: Any) -> None:
    """Each key once, of all namespaces or of one, by prefix; and no value, wherever one looks."""
    version = (await cache.Set(cache_pb2.SetRequest(key=b"user:1", value=b"secret", ttl_ms=60_000))).version
    await cache.Set(cache_pb2.SetRequest(key=b"page", value=b"secret"))
    await cache.Set(cache_pb2.SetRequest(key=b"user:1", value=b"secret", namespace="other"))
    parts = await snapshot(admin)
    entries = {(each.namespace, each.key) for part in parts for each in part.entries}
    assert entries == {("default", b"user:1"), ("default", b"page"), ("other", b"user:1")}
    assert b"secret" not in b"".join(part.SerializeToString() for part in parts)
    assert (parts[-1].passed, parts[-1].total) == (3, 3)
    [entry] = [each for part in await snapshot(admin, namespace="default", prefix=b"us") for each in part.entries]
    assert (entry.size, entry.version, entry.stale) == (6, version, False)
    assert 50_000 < entry.ttl_ms <= 60_000


async def test_many_keys_come_in_slices(server: Server, admin: Any) -> None:
    """A walk leaves the loop to others after each slice, and goes no faster than was asked."""
    [namespace] = server.node.namespaces
    store, now = namespace.store, server.node.clock.now()
    for number in range(5_000):
        store.put(b"key:%d" % number, b"v", flags=0, version=1, deadline=now + 60, now=now)
    began = time.monotonic()
    parts = await snapshot(admin, namespace="default", rate_per_s=20_000)
    assert time.monotonic() - began >= 0.2
    assert max(len(part.entries) for part in parts) <= 500
    assert len({each.key for part in parts for each in part.entries}) == 5_000


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"namespace": "u" * 300}, grpc.StatusCode.NOT_FOUND),
        ({"rate_per_s": 0.5}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"rate_per_s": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_a_snapshot_refuses(admin: Any, fields: dict[str, Any], code: grpc.StatusCode) -> None:
    """Namespaces that are none, and speeds that are none."""
    with pytest.raises(aio.AioRpcError) as refused:
        await asyncio.wait_for(snapshot(admin, **fields), 10)
    assert refused.value.code() is code


def test_roles() -> None:
    """Who may read may look at the ring; keys are for administrators, those of all namespaces for those of all."""
    reader, limited = Grant("r", Role.READ), Grant("l", Role.ADMIN, frozenset({"users", "default"}))
    assert _covers(reader, Role.READ, ADMIN + "Ring", pb.RingRequest())
    assert _covers(limited, Role.READ, ADMIN + "Ring", pb.RingRequest())
    assert not _covers(reader, Role.ADMIN, ADMIN + "Snapshot", pb.SnapshotRequest(namespace="users"))
    assert _covers(limited, Role.ADMIN, ADMIN + "Snapshot", pb.SnapshotRequest(namespace="users"))
    for method, request in (("Snapshot", pb.SnapshotRequest()), ("HotKeys", pb.HotKeysRequest())):
        assert not _covers(limited, Role.ADMIN, ADMIN + method, request)
    for method, other in (("Drain", pb.DrainRequest()), ("SetLogLevel", pb.SetLogLevelRequest())):
        assert not _covers(limited, Role.ADMIN, ADMIN + method, other)
