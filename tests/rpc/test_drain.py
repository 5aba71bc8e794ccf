"""Drain: a node leaves because somebody asks it to, stays up, and has nothing left to do when it is stopped."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.server import Server
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import cache_pb2
from tests.support.eventually import eventually


async def steps(call: Any) -> list[pb.DrainProgress]:
    return [step async for step in call]


async def drained(admin: Any, **fields: Any) -> list[pb.DrainProgress]:
    return await asyncio.wait_for(steps(admin.Drain(pb.DrainRequest(**fields))), 20)


async def test_node_leaves_and_stays_up(server: Server, admin: Any, cache: Any, sessions: Any) -> None:
    """It is not ready any more, serves nobody, tells its clients, and still answers whoever looks after it."""
    call = sessions.Session()
    await call.read()
    draining = asyncio.create_task(drained(admin, node_id="n0"))
    frame = await asyncio.wait_for(call.read(), 10)
    assert frame.draining
    call.cancel()
    seen = await draining
    assert seen[-1].stage == "done"
    assert (seen[-1].sessions, list(seen[-1].unfinished)) == (0, [])
    assert (server.ready, server.live) == (False, True)
    with pytest.raises(aio.AioRpcError) as refused:
        await cache.Get(cache_pb2.GetRequest(key=b"k"))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await admin.GetStats(pb.GetStatsRequest())).leaving == "done"


async def test_second_drain_sees_the_same(server: Server, admin: Any) -> None:
    """Asking again does not begin anew: who comes later waits for the same steps, or hears that they are done."""
    first, second = await asyncio.gather(drained(admin), drained(admin))
    assert first[-1].seconds == second[-1].seconds
    [again] = await drained(admin)
    assert (again.stage, again.seconds) == ("done", first[-1].seconds)


async def test_stop_after_a_drain_is_quick(server: Server, admin: Any) -> None:
    """SIGTERM finds nothing left to do."""
    await drained(admin)
    began = time.monotonic()
    await server.stop()
    assert time.monotonic() - began < 3.0


async def test_stop_during_a_drain_waits_for_it(server: Server, admin: Any, monkeypatch: Any) -> None:
    """Each step is taken once, whoever asks for it, and even if who asked first has gone."""
    times, may_end, resign = 0, asyncio.Event(), server.node.loads.resign

    async def waits(timeout_s: float) -> None:
        await may_end.wait()

    def counted() -> None:
        nonlocal times
        times += 1
        resign()

    monkeypatch.setattr(server.node.loads, "resign", counted)
    monkeypatch.setattr(server._sessions, "drain", waits)
    call = admin.Drain(pb.DrainRequest())
    await eventually(lambda: times == 1)
    call.cancel()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    may_end.set()
    await asyncio.wait_for(stopping, 20)
    assert times == 1


async def test_step_that_fails_does_not_stop_the_others(server: Server, admin: Any, monkeypatch: Any) -> None:
    """What went wrong is said, and the node leaves all the same."""

    async def fails() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.node.invalidations, "release", fails)
    server._leaving._steps = server._steps()
    seen = await drained(admin)
    assert (seen[-1].stage, list(seen[-1].unfinished)) == ("done", ["releasing"])


async def test_queued_writes_are_waited_for_up_to_a_limit(server: Server, admin: Any, monkeypatch: Any) -> None:
    """The node serves while its share of the queue empties; what waits after the limit is counted."""
    waiting = 3
    monkeypatch.setattr(server._leaving, "unwritten", lambda: waiting)
    draining = asyncio.create_task(drained(admin, flush_s=20))
    await eventually(lambda: server._leaving.stage == "flushing")
    assert server._placement.ready
    waiting = 0
    seen = await draining
    assert (seen[-1].stage, list(seen[-1].unfinished)) == ("done", [])


async def test_limit_of_the_wait_for_queued_writes(server: Server, admin: Any, monkeypatch: Any) -> None:
    """An origin that is away does not keep the node from leaving."""
    monkeypatch.setattr(server._leaving, "unwritten", lambda: 3)
    seen = await drained(admin, flush_s=0.05)
    assert (seen[-1].stage, seen[-1].unwritten, list(seen[-1].unfinished)) == ("done", 3, ["flushing"])


@pytest.mark.parametrize("fields", [{"node_id": "another"}, {"flush_s": -1}, {"flush_s": float("nan")}])
async def test_what_is_refused(server: Server, admin: Any, fields: dict[str, Any]) -> None:
    """A node that was not meant stays, and so does one that is asked for what cannot be."""
    with pytest.raises(aio.AioRpcError) as refused:
        await drained(admin, **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert server.ready
