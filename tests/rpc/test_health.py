from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cachenode.server import Server
from tests.support.cluster import member
from tests.support.eventually import eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NEVER_JOINS = {"cluster.discovery": "static", "cluster.seeds": "127.0.0.1:1", "cluster.bootstrap_wait_s": 600}


async def states(channel: aio.Channel) -> dict[str, int]:
    """Return what the health service says of each of its names."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    names = ("", "readiness", "startup", "liveness")
    return {name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names}


async def probe(server: Server, path: str) -> int:
    async with ClientSession() as http, http.get(f"http://{server.http_address}{path}") as answer:
        return answer.status


async def test_serving_in_a_view(server: Server, channel: aio.Channel) -> None:
    """A node that is in a view is ready by gRPC and by HTTP."""
    assert set((await states(channel)).values()) == {SERVING}
    assert (await probe(server, "/readyz"), await probe(server, "/livez")) == (200, 200)


async def test_not_ready_before_a_view(start_server: Any) -> None:
    """Until the node is in a view it lives but is not ready, under the name that load balancers ask for too."""
    server = await start_server(NEVER_JOINS, joined=False)
    async with aio.insecure_channel(server.address) as channel:
        found = await states(channel)
    assert found == {"": NOT_SERVING, "readiness": NOT_SERVING, "startup": NOT_SERVING, "liveness": SERVING}
    assert (await probe(server, "/readyz"), await probe(server, "/livez")) == (503, 200)


async def test_not_ready_when_a_view_leaves_the_node_out(server: Server, channel: aio.Channel) -> None:
    """A view without this node takes its readiness; one with it gives it back."""
    placement = server.node.placement
    view = placement.view
    assert view is not None
    placement.apply(type(view)(view.epoch + 1, view.ring_seed, (member("other"),)))
    assert not server.ready
    assert await probe(server, "/readyz") == 503
    assert (await states(channel))["readiness"] == NOT_SERVING
    placement.apply(type(view)(view.epoch + 2, view.ring_seed, (placement.me,)))
    assert (await states(channel))["readiness"] == SERVING


async def test_watchers_are_told_of_the_stop(start_server: Any, monkeypatch: Any) -> None:
    """A balancer that watches hears NOT_SERVING while the node still lets its clients finish."""
    server = await start_server()
    may_end = asyncio.Event()

    async def leave() -> None:
        await may_end.wait()

    monkeypatch.setattr(server._membership, "stop", leave)
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
        assert not stopping.done()
        assert await probe(server, "/readyz") == 503
        assert await probe(server, "/livez") == 200
        may_end.set()
        watch.cancel()
        await asyncio.wait_for(stopping, 10)


async def test_not_live_when_the_loop_does_not_come_round(server: Server, monkeypatch: Any) -> None:
    """A loop that has not come round for ten seconds fails the liveness probe."""
    await server._loops.stop()
    monkeypatch.setattr(server._loops, "ticked_at", server.node.clock.now() - 10.5)
    assert await probe(server, "/livez") == 503


async def test_joined_is_set_by_the_first_view(start_server: Any) -> None:
    """Who waits for the node to join is woken by its first view, not before."""
    server = await start_server(NEVER_JOINS, joined=False)
    assert not server.joined.is_set()
    from cachenode_api.view import View
    from tests.support.cluster import SEED

    server.node.placement.apply(View(1, SEED, (server.node.placement.me,)))
    await eventually(server.joined.is_set)


@pytest.mark.parametrize("listen", ["node.listen", "node.http_listen"])
async def test_port_in_use_is_said(server: Server, start_server: Any, listen: str) -> None:
    """A node that cannot bind says which address is in the way."""
    taken = server.address if listen == "node.listen" else server.http_address
    with pytest.raises(OSError, match=f"cannot listen on {taken}"):
        await start_server({listen: taken})


async def test_a_listener_on_all_interfaces_is_named_as_others_reach_it(start_server: Any) -> None:
    """The HTTP address of a member names the host of its gRPC address, not the wildcard."""
    server = await start_server(
        {"node.http_listen": "0.0.0.0:0", "node.advertise": "127.0.0.1:0", "node.insecure": True}
    )
    assert server.http_address.startswith("127.0.0.1:")
    assert await probe(server, "/livez") == 200
