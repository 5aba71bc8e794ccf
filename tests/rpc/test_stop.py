from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.server import Server
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc, common_pb2, session_pb2, session_pb2_grpc
from tests.support.eventually import eventually

GRACE_S = 0.4
MORE_S = 3.0


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def server(start_server: Any) -> Server:
    """A node with little patience."""
    started: Server = await start_server({"limits.stop_grace_s": GRACE_S})
    return started


async def took(server: Server) -> float:
    began = time.monotonic()
    await asyncio.wait_for(server.stop(), 20)
    return time.monotonic() - began


async def test_stop_with_open_sessions_and_hanging_calls_is_bounded(
    server: Server, sessions: Any, cache: Any, monkeypatch: Any
) -> None:
    """Whatever clients hold open, the node stops within its grace and a few seconds, and tells them first."""
    hung = 0

    def execute(batch: object, reply: object, holder: object = None) -> Awaitable[None]:
        nonlocal hung
        hung += 1
        return hang()

    monkeypatch.setattr(server.node, "execute", execute)
    calls = [sessions.Session() for _ in range(20)]
    for call in calls:
        await call.read()
    batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k"])
    await calls[0].write(session_pb2.ClientFrame(batches=[batch]))
    hanging: asyncio.Task[object] = asyncio.ensure_future(_ended(cache))
    await eventually(lambda: hung == 2)
    stopping = asyncio.create_task(took(server))
    for call in calls:
        frame = await asyncio.wait_for(call.read(), 10)
        assert frame.draining
    assert await stopping < GRACE_S + MORE_S
    assert await asyncio.wait_for(hanging, 10) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert len(server._sessions) == 0


async def _ended(cache: Any) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Get(cache_pb2.GetRequest(key=b"k"))
    code: grpc.StatusCode = failed.value.code()
    return code


async def test_idle_node_stops_at_once(server: Server) -> None:
    """A node with nothing under way does not sit out its grace; a second stop does nothing."""
    assert await took(server) < MORE_S
    assert await took(server) < 0.1


async def test_second_stop_while_the_first_is_at_it(server: Server) -> None:
    """Two stops at the same time end well."""
    await asyncio.wait_for(asyncio.gather(server.stop(), server.stop()), 20)
    assert not server.ready


async def test_hanging_membership_does_not_hold_the_stop(server: Server, monkeypatch: Any) -> None:
    """A registry that does not answer costs a part of the grace, not the stop."""
    monkeypatch.setattr(server._membership, "stop", hang)
    monkeypatch.setattr(server._membership, "close", hang)
    assert await took(server) < GRACE_S + MORE_S


async def test_work_under_way_is_delivered(server: Server, sessions: Any, monkeypatch: Any) -> None:
    """A reply that comes within the grace still reaches its client."""
    go, execute = asyncio.Event(), server.node.execute

    def later(batch: Any, reply: Any, holder: object = None) -> Any:
        async def rest() -> None:
            await go.wait()
            execute(batch, reply)

        return rest()

    monkeypatch.setattr(server.node, "execute", later)
    call = sessions.Session()
    batch = common_pb2.Batch(id=7, operation=common_pb2.OPERATION_GET, keys=[b"k"])
    await call.read()
    await call.write(session_pb2.ClientFrame(batches=[batch]))
    await eventually(lambda: any(session.tasks for session in server._sessions._sessions))
    stopping = asyncio.create_task(took(server))
    assert (await asyncio.wait_for(call.read(), 10)).draining
    go.set()
    frame = await asyncio.wait_for(call.read(), 10)
    assert [reply.id for reply in frame.replies] == [7]
    await stopping


async def test_stopping_node_takes_no_new_session(server: Server, sessions: Any, monkeypatch: Any) -> None:
    """A client that comes during the drain is sent elsewhere."""
    may_end, drain = asyncio.Event(), server._sessions.drain

    async def slow(timeout_s: float) -> None:
        await drain(timeout_s)
        await may_end.wait()

    monkeypatch.setattr(server._sessions, "drain", slow)
    stopping = asyncio.create_task(server.stop())
    await eventually(lambda: server._sessions._draining)
    call = sessions.Session()
    with pytest.raises(aio.AioRpcError, match="use another") as failed:
        await asyncio.wait_for(call.read(), 10)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    may_end.set()
    await stopping


async def test_nothing_listens_afterwards(server: Server) -> None:
    """After the stop both ports are closed, and no task of the node is left."""
    await server.stop()
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = cache_pb2_grpc.CacheServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.Get(cache_pb2.GetRequest(key=b"k"), timeout=5)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    host, _, port = server.http_address.rpartition(":")
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection(host, int(port))


async def test_client_that_does_not_read_cannot_hold_the_stop(server: Server) -> None:
    """A session whose replies nobody reads is cut off in time."""
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        call = stub.Session()
        await call.read()
        value = b"v" * 1_000_000
        batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_SET, keys=[b"k"], values=[value])
        await call.write(session_pb2.ClientFrame(batches=[batch]))
        get = common_pb2.Batch(id=2, operation=common_pb2.OPERATION_GET, keys=[b"k"] * 100)
        await call.write(session_pb2.ClientFrame(batches=[get]))
        await eventually(lambda: any(session._outbox.writing for session in server._sessions._sessions))
        assert await took(server) < GRACE_S + MORE_S
        call.cancel()
