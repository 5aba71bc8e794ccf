from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from cachenode.adapters import exposition
from cachenode.adapters.http import HttpServer


@dataclass
class Node:
    """What the server asks about."""

    ready: bool = True
    live: bool = True
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)

    def serve(self, listen: str = "127.0.0.1:0") -> HttpServer:
        return HttpServer(
            listen,
            ready=lambda: self.ready,
            live=lambda: self.live,
            metrics=self.metrics,
            info=lambda: {"id": "node-0", "version": "9.9.9"},
        )


@pytest.fixture
async def node() -> Node:
    return Node()


@pytest.fixture
async def url(node: Node) -> AsyncIterator[str]:
    """Address of a running server."""
    server = node.serve()
    await server.start()
    yield f"http://{server.address}"
    await server.stop()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def test_probes_follow_the_node(node: Node, url: str, http: ClientSession) -> None:
    """/readyz and /livez answer 200 or 503, each for its own question, at the moment it is asked."""
    for path, name in (("/readyz", "ready"), ("/livez", "live")):
        for good in (True, False):
            setattr(node, name, good)
            async with http.get(url + path) as answer:
                assert answer.status == (200 if good else 503)
                assert json.loads(await answer.text()) == {"ok": good}
        setattr(node, name, True)


async def test_metrics_in_the_format_that_is_asked_for(node: Node, url: str, http: ClientSession) -> None:
    """/metrics is text, or OpenMetrics for a client that accepts it."""
    Counter("things", "Things.", registry=node.metrics).inc(3)
    async with http.get(f"{url}/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert "things_total 3.0" in await answer.text()
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with http.get(f"{url}/metrics", headers=accept) as answer:
        assert answer.content_type == "application/openmetrics-text"
        assert (await answer.text()).endswith("# EOF\n")


async def test_page_lists_the_others(url: str, http: ClientSession) -> None:
    """Who opens the port in a browser finds its way, and which node it is."""
    async with http.get(url) as answer:
        text = await answer.text()
        assert answer.content_type == "text/html"
    assert "node-0" in text
    assert "9.9.9" in text
    assert all(f'href="{path}"' in text for path in ("/metrics", "/readyz", "/livez"))


async def test_unknown_path_is_404(url: str, http: ClientSession) -> None:
    """Nothing else is served."""
    async with http.get(f"{url}/debug") as answer:
        assert answer.status == 404


async def test_port_in_use_is_named(node: Node, url: str) -> None:
    """A taken port is an OSError that says which address and why."""
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+ for HTTP: .*in use"):
        await node.serve(url.removeprefix("http://")).start()


async def test_stop_before_start_and_twice(node: Node) -> None:
    """A server that was never started, or is stopped already, can be stopped."""
    server = node.serve()
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()
    async with ClientSession() as session:
        with pytest.raises(OSError, match="Cannot connect"):
            await session.get(f"http://{server.address}/livez")


async def test_calls_are_answered_between_slices_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many metrics there are, the loop comes round; the text is the one that is written in one go."""
    monkeypatch.setattr(exposition, "_SLICE_S", 0.0)
    registry = CollectorRegistry()
    for number in range(20):
        Counter(f"c{number}", "A counter.", registry=registry).inc(number)
    rounds = 0

    async def turn() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    for accept, encode in (("text/plain", generate_latest), ("application/openmetrics-text", generate_openmetrics)):
        rounds = 0
        turning = asyncio.create_task(turn())
        text, _ = await exposition.Exposition(registry).text(accept)
        turning.cancel()
        assert rounds >= 20
        assert text == encode(registry)


async def test_those_who_ask_at_once_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text is written others wait for the next one, all for the same: it counts what was before they asked."""
    monkeypatch.setattr(exposition, "_SLICE_S", 0.0)
    registry = CollectorRegistry()
    counters = [Counter(f"c{number}", "A counter.", registry=registry) for number in range(20)]
    texts = exposition.Exposition(registry)
    first = asyncio.create_task(texts.text("text/plain"))
    for _ in range(5):  # it has begun
        await asyncio.sleep(0)
    counters[0].inc(7)
    others = [asyncio.create_task(texts.text("text/plain")) for _ in range(50)]
    for _ in range(5):
        await asyncio.sleep(0)
    others.pop().cancel()  # who leaves takes it from nobody
    found = {text for text, _ in await asyncio.gather(*others)}
    assert found == {generate_latest(registry)}
    assert len({id(other.result()[0]) for other in others}) == 1
    assert (await first)[0] != generate_latest(registry)
    assert await texts.text("text/plain") == (generate_latest(registry), choose_encoder("text/plain")[1])
