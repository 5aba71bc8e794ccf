"""Real nodes in the test's own loop, and raw stubs to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from grpc import aio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cachenode.config import load_config
from cachenode.server import Server
from cachenode_api.v1 import admin_pb2_grpc, cache_pb2_grpc, session_pb2_grpc
from cachenode_client import tracing

StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Starts nodes on ports of their own; options by dotted path. They are stopped after the test."""
    servers: list[Server] = []

    async def start(options: dict[str, Any] | None = None, *, joined: bool = True) -> Server:
        flags: dict[str, Any] = {"node.listen": "127.0.0.1:0", "node.http_listen": "127.0.0.1:0", "node.id": "n0"}
        flags |= {"limits.stop_grace_s": 1.0} | (options or {})
        server = Server(load_config(flags=flags, environ={}, file=None))
        await server.start()
        servers.append(server)
        if joined:
            await asyncio.wait_for(server.joined.wait(), 10)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def server(start_server: StartServer) -> Server:
    """A node of its own, joined."""
    return await start_server()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[aio.Channel]:
    """A channel to the node."""
    async with aio.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def cache(channel: aio.Channel) -> Any:
    """The unary stub."""
    return cache_pb2_grpc.CacheServiceStub(channel)


@pytest.fixture
def sessions(channel: aio.Channel) -> Any:
    """The stub of sessions."""
    return session_pb2_grpc.SessionServiceStub(channel)


@pytest.fixture
def admin(channel: aio.Channel) -> Any:
    """The stub of admin calls."""
    return admin_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Gets all spans of the process: the client's, and those of its nodes."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.enable(provider)
    yield exporter
    tracing.disable()
