"""Two nodes whose calls are traced, and the trees that their spans make."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cachenode import server as server_module
from cachenode.adapters.clock import BootClock
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.cli.ports import free_ports
from cachenode.server import Server
from tests.support.eventually import eventually

StartServer = Callable[..., Awaitable[Server]]


async def two_nodes(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Two nodes in one view, with an L2 in this process, and a namespace that they load from an origin."""
    shared = MemoryL2(BootClock())
    monkeypatch.setattr(server_module, "make_l2", lambda _config: shared)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    servers = []
    for number, address in enumerate(addresses):
        options = {
            "node.id": f"n{number}",
            "node.listen": address,
            "node.http_listen": "",
            "cluster.discovery": "static",
            "cluster.seeds": addresses,
            "cluster.bootstrap_wait_s": 0.0,
            "origins.names.loader": "tests.support.loaders:load",
            "namespaces.through.origin": "names",
        }
        servers.append(await start_server(options, joined=False))
    for each in servers:
        await asyncio.wait_for(each.joined.wait(), 20)
    await eventually(lambda: all(len(each.node.placement.view.members) == 2 for each in servers))
    await eventually(lambda: not any(each.node.placement.unsettled for each in servers))
    return servers


def tree(exporter: InMemorySpanExporter, key: str) -> dict[str, list[str]]:
    """Return the names of the spans with those of their children; all must be of one trace, and hold no such text."""
    spans = exporter.get_finished_spans()
    assert len({each.context.trace_id for each in spans if each.context}) == 1
    names = {each.context.span_id: name_of(each) for each in spans if each.context}
    children: dict[str, list[str]] = {}
    for each in sorted(spans, key=lambda each: each.start_time or 0):
        children.setdefault(names[each.parent.span_id] if each.parent else "", []).append(name_of(each))
        assert key not in each.to_json()
    return children


def name_of(span: ReadableSpan) -> str:
    """Return a span's name, and the node that made it."""
    node = (span.attributes or {}).get("service.instance.id", "")
    return f"{span.name} at {node}" if node else span.name
