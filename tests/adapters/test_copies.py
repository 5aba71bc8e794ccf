"""Copies of other nodes' hot keys: how they come, who drops them, how they fade."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import aio

from cachenode.adapters import copies as module
from cachenode.adapters.copies import PeerCopies
from cachenode.core.hot_keys import KEEP_S
from cachenode.server import Server
from cachenode.wire import view_from_wire
from cachenode_api.records import HEADER_BYTES
from cachenode_api.ring import Ring
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc, common_pb2
from cachenode_client._near import boot_clock
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, scripted_node, view_message
from tests.support.server import free_port, running_server

KEY = b"hot"


@asynccontextmanager
async def copying(owner: ScriptedNode) -> AsyncIterator[PeerCopies]:
    """Copies of a scripted owner's key, with a live lease."""
    owner.lease_ms = 60_000
    copies = PeerCopies("me", 1 << 20)
    copies.view_changed(None, view_from_wire(view_message(1, (owner.name, owner.address))))
    copies.want(owner.name, "default", [KEY])
    await eventually(lambda: (session := copies._sessions.get(owner.name)) and session.ready)
    copies.want(owner.name, "default", [KEY])
    await owner.answer([b"value"], near=True)
    await eventually(lambda: copies.find("default", KEY)[HEADER_BYTES:] == b"value")
    try:
        yield copies
    finally:
        await copies.stop()


async def test_copy_is_served_until_the_owner_says_otherwise() -> None:
    """A word of the owner drops the copy, and is acknowledged."""
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        assert (len(copies), copies.find("default", b"other"), copies.find("other", KEY)) == (1, b"", b"")
        await owner.send(invalidations=[common_pb2.Invalidation(namespace="default", keys=[KEY])], sequence=1)
        await eventually(lambda: owner.acknowledged == [1])
        assert copies.find("default", KEY) == b""


async def test_copies_of_moved_keys_are_not_served() -> None:
    """A view in the owner's stream, in which another owns the key, ends the copy before it is acknowledged."""
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        view = view_message(2, (owner.name, owner.address), ("node-2", "127.0.0.1:1"))
        names = iter(range(3, 1_000))
        while Ring(view_from_wire(view)).owner(KEY) == owner.name:
            view = view_message(2, (owner.name, owner.address), (f"node-{next(names)}", "127.0.0.1:1"))
        await owner.send(view=view, sequence=1, invalidations=[common_pb2.Invalidation()])
        await eventually(lambda: owner.acknowledged == [1])
        assert copies.find("default", KEY) == b""


async def test_lost_stream_ends_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its stream nothing is served; the next hot read opens another, after a moment."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        owner.hang_up()
        await eventually(lambda: copies.find("default", KEY) == b"")
        await eventually(lambda: not copies._tasks)
        copies.want(owner.name, "default", [KEY])
        await eventually(lambda: owner.sessions == 2)


async def test_copy_fades(monkeypatch: pytest.MonkeyPatch) -> None:
    """A while after the owner last called the key hot, its copy is gone and the reads are forwarded."""
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        now = boot_clock()
        monkeypatch.setattr(module, "boot_clock", lambda: now + KEEP_S + 1)
        assert copies.find("default", KEY) == b""
        monkeypatch.undo()
        assert copies.find("default", KEY) == b""
        assert len(copies) == 0


async def test_only_so_many_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More hot keys than there is room for are forwarded as all others."""
    monkeypatch.setattr(module, "_MOST_WANTED", 1)
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        copies.want(owner.name, "default", [b"one more"])
        assert list(copies._wanted) == [("default", KEY)]


async def test_former_members_are_left() -> None:
    """Who is no member any more loses its session, and nothing of it is served."""
    async with scripted_node("node-1") as owner, copying(owner) as copies:
        copies.view_changed(None, view_from_wire(view_message(2, ("node-2", "127.0.0.1:1"))))
        await eventually(lambda: owner.goodbyes == 1)
        assert copies.find("default", KEY) == b""
        copies.want(owner.name, "default", [KEY])
        assert not copies._tasks


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Server, Server]]:
    """Two real nodes, for which three forwarded reads a second are many."""
    seeds = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    options: dict[str, Any] = {
        "cluster.discovery": "static",
        "cluster.seeds": seeds,
        "cluster.bootstrap_wait_s": 5.0,
        "cluster.hot_reads_per_s": 3,
    }
    first = running_server(**options, node__id="node-0", node__listen=seeds[0])
    second = running_server(**options, node__id="node-1", node__listen=seeds[1])
    async with asyncio.TaskGroup() as starting:
        entering = [starting.create_task(node.__aenter__()) for node in (first, second)]
    try:
        yield entering[0].result(), entering[1].result()
    finally:
        await asyncio.gather(*(node.__aexit__(None, None, None) for node in (first, second)))


async def test_hot_key_of_another_node_is_answered_here_and_never_stale() -> None:
    """Unary reads at the wrong node are soon answered from a copy; a write at the owner is seen by the next read."""
    async with two_nodes() as (one, other), aio.insecure_channel(one.address) as near_by:
        await eventually(lambda: one._placement.epoch == other._placement.epoch)
        cache: Any = cache_pb2_grpc.CacheServiceStub(near_by)
        key = next(key for n in range(1_000) if other._placement.owns(key := b"k%d" % n))
        async with aio.insecure_channel(other.address) as far:
            owner: Any = cache_pb2_grpc.CacheServiceStub(far)
            for value in (b"first", b"second"):
                await owner.Set(pb.SetRequest(key=key, value=value))
                hits = one.node.copy_hits
                while one.node.copy_hits < hits + 5:
                    assert (await cache.Get(pb.GetRequest(key=key))).entry.value == value
            assert other.stats().near_holders == 1
            assert one.stats().copies == 1
            await owner.Delete(pb.DeleteRequest(key=key))
            assert not (await cache.Get(pb.GetRequest(key=key))).entry.found
