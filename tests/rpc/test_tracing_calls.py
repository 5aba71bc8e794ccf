"""Which calls are spans: those of the SDK inside a recorded trace, and unary ones that bring a parent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from aiohttp import web
from grpc import aio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cachenode.server import Server
from cachenode_api.tracing import carried, span, switch
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_client import CacheClient, tracing
from cachenode_client._session import Session
from cachenode_client.blocking import CacheClient as Blocking
from tests.rpc.conftest import StartServer
from tests.support.spans import name_of, tree

KEY = "a secret key"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@contextmanager
def request() -> Iterator[None]:
    """The span of an application that calls the cache."""
    with span("request", "internal", {}):
        yield


CALLS: dict[str, Callable[[CacheClient], Awaitable[Any]]] = {
    "get": lambda client: client.get(KEY),
    "get_and_touch": lambda client: client.get_and_touch(KEY),
    "lookup": lambda client: client.lookup(key=KEY),
    "contains": lambda client: client.contains(KEY),
    "ttl": lambda client: client.ttl(KEY),
    "get_many": lambda client: client.get_many([KEY, "other"]),
    "set": lambda client: client.set(KEY, KEY),
    "add": lambda client: client.add(KEY, KEY),
    "replace": lambda client: client.replace(KEY, KEY),
    "incr": lambda client: client.incr("count"),
    "set_many": lambda client: client.set_many({KEY: KEY}),
    "delete": lambda client: client.delete(KEY),
    "invalidate": lambda client: client.invalidate(prefix=KEY),
    "touch": lambda client: client.touch(KEY),
    "publish": lambda client: client.publish("changed", {"id": KEY}),
    "get_or_load": lambda client: client.get_or_load(KEY, lambda: KEY),
    "get_or_load_many": lambda client: client.get_or_load_many([KEY], lambda keys: dict.fromkeys(keys, KEY)),
}


@pytest.mark.parametrize("name", CALLS)
async def test_calls_are_spans(server: Server, exporter: InMemorySpanExporter, name: str) -> None:
    """Each call of the SDK is a span below the caller's, and what the node does for it is below that."""
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
        with request():
            await CALLS[name](client)
    found = tree(exporter, KEY)
    assert found["request"] == [f"cachenode.{name}"]
    assert found[f"cachenode.{name}"][0].endswith(" at n0")
    attributes = next(each.attributes for each in exporter.get_finished_spans() if name_of(each) == f"cachenode.{name}")
    assert dict(attributes or {}) == {
        "db.system.name": "cachenode",
        "db.namespace": "default",
        "db.operation.name": name,
    }


async def test_no_spans_outside_of_traces(server: Server, exporter: InMemorySpanExporter) -> None:
    """Only what loads may begin a trace: a get on its own is none."""
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
        await client.set("k", "v")
        await client.get("k")
        assert exporter.get_finished_spans() == ()
        await client.get_or_load_many(["k"], lambda keys: dict.fromkeys(keys, "v"))
    assert tree(exporter, KEY)[""] == ["cachenode.get_or_load_many"]


async def test_near_hits_are_none(server: Server, exporter: InMemorySpanExporter) -> None:
    """What the near cache answers takes less time than a span would."""
    async with CacheClient(server.address, timeout_s=20) as client:
        await client.set("k", "v")
        assert await client.get("k") == "v"
        with request():
            assert await client.get("k") == "v"
            assert await client.get_or_load("k", lambda: "w") == "v"
    assert tree(exporter, KEY) == {"": ["request"]}


async def test_each_caller_has_its_part(server: Server, exporter: InMemorySpanExporter) -> None:
    """Reads and writes of one moment, some in traces and some not, do not mix: a batch has one parent."""
    async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
        await client.get("warm-up")

        async def traced(key: str) -> None:
            with request():
                await asyncio.gather(client.get(key), client.set(key, "v"))

        await asyncio.gather(*(traced(f"k{at}") for at in range(5)), *(client.get(f"k{at}") for at in range(5)))
    trees = traces_of(exporter)
    assert len(trees) == 5
    for spans in trees:
        assert sorted(map(name_of, spans)) == [
            "cachenode.get",
            "cachenode.get at n0",
            "cachenode.set",
            "cachenode.set at n0",
            "request",
        ]
        assert {(each.attributes or {}).get("db.operation.batch.size", 1) for each in spans} == {1}


def traces_of(exporter: InMemorySpanExporter) -> list[list[ReadableSpan]]:
    """Return the spans of each trace."""
    found: dict[int, list[ReadableSpan]] = {}
    for each in exporter.get_finished_spans():
        assert each.context is not None
        found.setdefault(each.context.trace_id, []).append(each)
    return list(found.values())


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
async def test_many_loads_are_one_tree(server: Server, exporter: InMemorySpanExporter, kind: str) -> None:
    """The keys of a get_or_load_many are asked for in one batch, loaded in one go, and stored in one batch."""
    keys = [f"{KEY} {at}" for at in range(20)]

    def loader(asked: list[str]) -> dict[str, str]:
        return dict.fromkeys(asked, "v")

    def use() -> None:
        with Blocking(server.address, near_cache=None, timeout_s=20) as client:
            assert len(client.get_or_load_many(keys, loader)) == 20

    if kind == "blocking":
        await asyncio.to_thread(use)
    else:
        async with CacheClient(server.address, near_cache=None, timeout_s=20) as client:
            await client.get("warm-up")
            assert len(await client.get_or_load_many(keys, loader)) == 20
    found = tree(exporter, KEY)
    assert found["cachenode.get_or_load_many"] == [
        "cachenode.lease at n0",
        "cachenode.loader",
        "cachenode.fulfill at n0",
    ]
    sizes = {
        each.name: (each.attributes or {}).get("db.operation.batch.size") for each in exporter.get_finished_spans()
    }
    assert sizes["cachenode.lease"] == sizes["cachenode.fulfill"] == 20


async def test_threads_have_their_own_trees(server: Server, exporter: InMemorySpanExporter) -> None:
    """Calls of several threads share the client's loop, and not each other's spans."""
    with Blocking(server.address, near_cache=None, timeout_s=20) as client:
        await asyncio.to_thread(client.get, "warm-up")

        def use(number: int) -> None:
            for at in range(5):
                with request():
                    client.set(f"k{number}.{at}", "v")
                    client.get(f"k{number}.{at}")

        await asyncio.gather(*(asyncio.to_thread(use, number) for number in range(4)))
    trees = traces_of(exporter)
    assert len(trees) == 20
    names = ["cachenode.get", "cachenode.get at n0", "cachenode.set", "cachenode.set at n0", "request"]
    assert all(sorted(map(name_of, spans)) == names for spans in trees)


async def test_enabling_leaves_nothing_behind(exporter: InMemorySpanExporter) -> None:
    """Enabled twice is enabled once; once disabled the very methods run that ran before: so tracing costs nothing."""
    owners = (CacheClient, Blocking, Session)
    tracing.disable()
    former = [dict(vars(owner)) for owner in owners]
    tracing.enable()
    tracing.enable()
    assert vars(CacheClient)["get"].__wrapped__ is former[0]["get"]
    assert vars(CacheClient)["get"].__doc__ == former[0]["get"].__doc__
    tracing.disable()
    assert [dict(vars(owner)) for owner in owners] == former
    assert switch.tracer is None
    assert carried() == {}


# Unary calls.

UNARY: dict[str, tuple[str, Callable[[Any, Any], Awaitable[Any]]]] = {
    "Get": ("get", lambda stub, metadata: stub.Get(pb.GetRequest(key=KEY.encode()), metadata=metadata, timeout=20)),
    "GetMany": (
        "get",
        lambda stub, metadata: stub.GetMany(pb.GetManyRequest(keys=[KEY.encode()]), metadata=metadata, timeout=20),
    ),
    "Set": (
        "set",
        lambda stub, metadata: stub.Set(pb.SetRequest(key=KEY.encode(), value=b"v"), metadata=metadata, timeout=20),
    ),
    "Invalidate": (
        "barrier",
        lambda stub, metadata: stub.Invalidate(
            pb.InvalidateRequest(prefixes=[KEY.encode()]), metadata=metadata, timeout=20
        ),
    ),
    "GetOrLease": (
        "lease",
        lambda stub, metadata: stub.GetOrLease(
            pb.GetOrLeaseRequest(key=KEY.encode(), lease_ms=1_000), metadata=metadata, timeout=20
        ),
    ),
    "PublishEvent": (
        "publish",
        lambda stub, metadata: stub.PublishEvent(pb.PublishEventRequest(name="x"), metadata=metadata, timeout=20),
    ),
}


@pytest.mark.parametrize("name", UNARY)
async def test_unary_calls(cache: Any, exporter: InMemorySpanExporter, name: str) -> None:
    """A call from any language that brings a recorded parent has a span below it, also for what memory answers."""
    operation, call = UNARY[name]
    await cache.Set(pb.SetRequest(key=KEY.encode(), value=b"v"), timeout=20)
    assert exporter.get_finished_spans() == ()
    await call(cache, (("traceparent", PARENT),))
    [found] = exporter.get_finished_spans()
    assert found.name == f"cachenode.{operation}"
    assert found.context is not None
    assert f"{found.context.trace_id:032x}" == TRACE
    assert found.parent is not None
    assert f"{found.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert KEY not in found.to_json()


@pytest.mark.parametrize("parent", ["", "x", PARENT[:-2] + "00", PARENT[:-2] + "zz", PARENT + "-more"])
async def test_unary_calls_outside_of_traces(cache: Any, exporter: InMemorySpanExporter, parent: str) -> None:
    """What is not recorded, or no parent at all, is answered without a span."""
    metadata = (("traceparent", parent),) if parent else ()
    for _, call in UNARY.values():
        await call(cache, metadata)
    assert exporter.get_finished_spans() == ()


async def test_unary_failures(cache: Any, exporter: InMemorySpanExporter) -> None:
    """The span of a call that fails has the reason."""
    too_long = pb.SetRequest(key=b"k" * 2_000, value=b"v")
    with pytest.raises(aio.AioRpcError) as caught:
        await cache.Set(too_long, metadata=(("traceparent", PARENT),), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    [found] = exporter.get_finished_spans()
    assert dict(found.attributes or {})["error.type"] == "invalid_key"


async def test_origin_goes_on_with_the_trace(start_server: StartServer, exporter: InMemorySpanExporter) -> None:
    """A service that values come from gets the load's span as its parent, so its own spans are in the tree."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent", ""))
        return web.json_response({"name": "Ada"})

    service = web.Application()
    service.router.add_route("*", "/{key}", answer)
    runner = web.AppRunner(service)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    options = {
        "origins.names.loader": "http",
        "origins.names.sink": "http",
        "origins.names.options": {"url": f"http://127.0.0.1:{port}/{{key}}"},
        "namespaces.through.origin": "names",
        "namespaces.through.write": "through",
    }
    try:
        server = await start_server(options)
        async with CacheClient(server.address, near_cache=None, namespace="through", timeout_s=20) as client:
            with request():
                assert await client.get("k") == {"name": "Ada"}
                await client.set("k", {"name": "Bob"})
            await client.get("another")
    finally:
        await runner.cleanup()
    spans = {each.name: each for each in exporter.get_finished_spans()}
    parents = [f"{spans[name].context.span_id:016x}" for name in ("origin load", "origin write")]
    assert [each.split("-")[2] for each in seen if each] == parents
    assert seen[2:] == [""]
