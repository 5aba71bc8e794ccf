"""One tree of spans for a call, across the SDK, nodes, L2 and the origin; and none where nobody records."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from cachenode.adapters.logs import _name_trace
from cachenode.server import Server
from cachenode_api.tracing import recording, switch, traceparent
from cachenode_client import CacheClient, LoadFailed, tracing
from cachenode_client.blocking import CacheClient as Blocking
from tests.rpc.conftest import StartServer
from tests.support.eventually import eventually
from tests.support.spans import tree, two_nodes

KEY = "a secret key"


def elsewhere(servers: list[Server]) -> Any:
    """Return a key that the second node owns."""
    keys = (f"{KEY} {number}" for number in range(1_000))
    return next(key for key in keys if servers[1].node.placement.owns(key.encode()))


def over_the_first(client: CacheClient) -> None:
    """Have the client send everything to the first node, as one does that does not know the others yet."""
    router = client._started().router
    router.route = lambda key: router._ready.get("n0")  # type: ignore[method-assign]


async def test_load_at_another_node(
    start_server: StartServer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """get_or_load: the SDK asks a node, that the owner, and that L2; the loader runs, and the value goes back."""
    servers = await two_nodes(start_server, monkeypatch)
    key = elsewhere(servers)
    async with CacheClient(servers[0].address, near_cache=None, timeout_s=20) as client:
        await client.get("warm-up")
        over_the_first(client)
        exporter.clear()
        assert await client.get_or_load(key, lambda: "v") == "v"
    found = tree(exporter, KEY)
    assert found[""] == ["cachenode.get_or_load"]
    assert found["cachenode.get_or_load"] == ["cachenode.lease at n0", "cachenode.loader", "cachenode.fulfill at n0"]
    assert found["cachenode.lease at n0"] == ["cachenode.forward lease"]
    assert found["cachenode.forward lease"] == ["cachenode.lease at n1"]
    assert found["cachenode.lease at n1"] == ["l2 read"]
    assert found["cachenode.fulfill at n0"] == ["cachenode.forward fulfill"]
    assert found["cachenode.fulfill at n1"] == ["l2 write"]


async def test_read_through_past_l2(
    start_server: StartServer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of what neither L1 nor L2 has: the node asks L2, then the origin, all below the caller's own span."""
    servers = await two_nodes(start_server, monkeypatch)
    key = elsewhere(servers)
    async with CacheClient(servers[0].address, near_cache=None, namespace="through", timeout_s=20) as client:
        await client.get("warm-up")
        exporter.clear()
        assert switch.tracer is not None
        with switch.tracer.start_as_current_span("request"):
            assert await client.get(key) == f"value of {key!r}"
    await eventually(lambda: any(each.name == "l2 write" for each in exporter.get_finished_spans()))
    found = tree(exporter, "value of")
    assert found["request"] == ["cachenode.get"]
    assert found["cachenode.get"] == ["cachenode.get at n1"]
    assert found["cachenode.get at n1"][:2] == ["l2 read", "origin load"]


async def test_callers_do_not_share_a_batch(start_server: StartServer, exporter: InMemorySpanExporter) -> None:
    """Calls of one moment have trees of their own, each with its part of the node."""
    server = await start_server()
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
        await client.set_many({f"k{number}": number for number in range(5)})
        exporter.clear()
        await asyncio.gather(*(client.get_or_load(f"k{number}", lambda: 0) for number in range(5)))
    spans = exporter.get_finished_spans()
    assert len({each.context.trace_id for each in spans if each.context}) == 5
    assert sorted(each.name for each in spans) == ["cachenode.get_or_load"] * 5 + ["cachenode.lease"] * 5


async def test_blocking_client(start_server: StartServer, exporter: InMemorySpanExporter) -> None:
    """The same tree, though the call and the session are in different threads."""
    server = await start_server()

    def use() -> None:
        with Blocking(server.address, near_cache=None, timeout_s=20) as client:
            assert client.get_or_load("k", lambda: "v") == "v"

    await asyncio.to_thread(use)
    found = tree(exporter, KEY)
    assert found[""] == ["cachenode.get_or_load"]
    assert found["cachenode.get_or_load"][0] == "cachenode.lease at n0"


async def test_failures_are_told_by_their_kind(start_server: StartServer, exporter: InMemorySpanExporter) -> None:
    """A span that failed says with what kind of error; the text, which may hold a key, is nowhere."""
    server = await start_server()
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:

        def loader() -> str:
            raise ValueError(KEY)

        with pytest.raises(ValueError, match=KEY):
            await client.get_or_load("k", loader)
        with pytest.raises(LoadFailed):
            await client.get_or_load("k", loader)
    spans = {each.name: each for each in exporter.get_finished_spans()}
    assert dict(spans["cachenode.loader"].attributes or {})["error.type"] == "ValueError"
    assert dict(spans["cachenode.lease"].attributes or {})["error.type"] == "load_failed"
    assert not any(KEY in each.to_json() for each in spans.values())


async def test_nothing_is_sent_where_nobody_records(
    start_server: StartServer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace that is not sampled, and a read outside of any, leave no trace at a node either."""
    server = await start_server()
    seen: list[str] = []
    monkeypatch.setattr("cachenode.rpc.session.execute_traced", lambda parent, *_: seen.append(parent))
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
        await client.get("k")
        tracing.enable(TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False))
        assert await client.get_or_load("k", lambda: "v") == "v"
        tracing.disable()
        assert await client.get_or_load("k", lambda: "w") == "v"
    assert seen == []
    assert exporter.get_finished_spans() == ()
    assert (recording(), traceparent()) == (False, "")


@pytest.mark.parametrize("parent", ["x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 55, "00-" + "g" * 52])
async def test_strangers_parents(server: Server, sessions: Any, exporter: InMemorySpanExporter, parent: str) -> None:
    """What is no traceparent is no parent; the batch is answered all the same."""
    from cachenode_api.v1 import common_pb2, session_pb2

    call = sessions.Session()
    batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k"], traceparent=parent)
    await call.write(session_pb2.ClientFrame(batches=[batch]))
    for _ in range(3):
        frame = await asyncio.wait_for(call.read(), 10)
        if frame.replies:
            break
    assert frame.replies[0].id == 1
    assert all(each.parent is None for each in exporter.get_finished_spans())
    call.cancel()


def test_lines_lead_to_the_trace(exporter: InMemorySpanExporter) -> None:
    """A line that is written inside a recorded span has the trace's id, any other has none."""
    assert switch.tracer is not None
    assert _name_trace(None, "info", {"event": "e"}) == {"event": "e"}  # type: ignore[arg-type]
    with switch.tracer.start_as_current_span("request") as request:
        line = _name_trace(None, "info", {"event": "e"})  # type: ignore[arg-type]
    assert line["trace_id"] == f"{request.get_span_context().trace_id:032x}"
