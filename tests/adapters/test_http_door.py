"""The HTTP port's door: who is slow or says nothing takes it from nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cachenode.adapters.http import HttpServer
from cachenode.adapters.http_door import HttpLimits
from cachenode.cli.main import app
from tests.support.eventually import eventually

pytestmark = pytest.mark.both_loops

LONG_S = 600.0
DRIP_S = 0.05
LARGE = bytes(32 << 20)


@asynccontextmanager
async def serving(
    context: ssl.SSLContext | None = None,
    post: Callable[[web.Request], Awaitable[web.Response]] | None = None,
    *,
    connections: int = 4,
    timeout_s: float = LONG_S,
    idle_s: float = LONG_S,
    handshake_s: float = LONG_S,
) -> AsyncIterator[HttpServer]:
    """Run a port whose deadlines are far away, except those that are given."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"tick\n")
            await asyncio.sleep(timeout_s / 10)
        return response

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    def add_routes(site: web.Application) -> None:
        site.router.add_get("/stream", stream)
        site.router.add_get("/large", large)

    server = HttpServer(
        "127.0.0.1:0",
        ready=lambda: True,
        live=lambda: True,
        metrics=CollectorRegistry(),
        info=dict,
        context=context,
        posts={"/post": post} if post is not None else None,
        add_routes=add_routes,
        limits=HttpLimits(connections, 8 * 1024, handshake_s, timeout_s, idle_s),
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Raw:
    """A connection that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: HttpServer, said: bytes = b"") -> Raw:
        host, _, port = server.address.rpartition(":")
        raw = cls(*await asyncio.open_connection(host, int(port)))
        raw.writer.write(said)
        return raw

    async def rest(self) -> bytes:
        """Return what comes until the connection is closed, however that ends."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while piece := await self.reader.read(65_536):
                    found += piece
        self.writer.close()
        return found


async def status(server: HttpServer, path: str = "/livez") -> int:
    """Return what an honest request is answered."""
    async with ClientSession() as session, session.get(f"http://{server.address}{path}") as answer:
        await answer.read()
        return answer.status


async def test_idle_connections_make_room() -> None:
    """However many connect and say nothing, whoever asks is answered, and those that came last are still there."""
    async with serving() as server:
        taken = [await Raw.open(server, b"GET /livez HT" if number % 2 else b"") for number in range(20)]
        assert await status(server) == 200
        await eventually(lambda: len(server.door) == 3)
        for each in taken[:17]:
            assert await each.rest() == b""
        taken[-1].writer.write(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert (await taken[-1].reader.readline()).startswith(b"HTTP/1.1 200")
        assert server.door.refused() == {"http": 17, "http_slow": 0}
        for each in taken[17:]:
            each.writer.close()


async def test_requests_under_way_are_left_alone() -> None:
    """Where requests are under way on all connections the next is turned away; when one ends there is room."""
    go_on = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response(text="late")

    async with serving(post=slow) as server:
        said = b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        taken = [await Raw.open(server, said) for _ in range(4)]
        await eventually(lambda: not server.door._waiting)
        newest = await Raw.open(server, said)
        assert await newest.rest() == b""
        go_on.set()
        for each in taken:
            assert (await each.rest()).endswith(b"late")
        assert await status(server) == 200
        assert server.door.turned_away == 1


@pytest.mark.parametrize(
    "said",
    [b"GET /livez HTTP/1.1\r\nX-A: ", b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n"],
    ids=["headers", "body"],
)
async def test_drops_of_a_request_gain_no_time(said: bytes) -> None:
    """Headers and bodies that come byte by byte are cut off in time."""

    async def reads(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async with serving(post=reads, timeout_s=0.5) as server:
        each = await Raw.open(server, said)

        async def drip() -> None:
            while True:
                each.writer.write(b"x")
                await asyncio.sleep(DRIP_S)

        dripping = asyncio.create_task(drip())
        assert await each.rest() == b""
        dripping.cancel()
        assert server.door.refused() == {"http": 0, "http_slow": 1}
        assert len(server.door) == 0


async def test_who_does_not_read_is_dropped() -> None:
    """An answer that is not read takes no longer than others, and what is left of it is given up."""
    async with serving(timeout_s=0.5, idle_s=0.5) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: len(server.door) == 1)
            await eventually(lambda: len(server.door) == 0, within_s=20)


async def test_streams_go_on() -> None:
    """What is written bit by bit may take longer than a request may."""
    async with serving(timeout_s=0.3) as server, ClientSession() as session:
        async with session.get(f"http://{server.address}/stream") as answer:
            assert (await answer.read()).count(b"tick") == 20
        assert server.door.too_slow == 0


async def test_silence_ends() -> None:
    """A connection is closed after its time without a request, one that was used before, too."""
    async with serving(idle_s=0.3) as server:
        unused, used = await Raw.open(server), await Raw.open(server, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await unused.rest() == b""
        assert (await used.rest()).startswith(b"HTTP/1.1 200")
        assert server.door.refused() == {"http": 0, "http_slow": 0}


@pytest.mark.parametrize(
    "headers",
    [b"X-Secret: " + b"s" * 9_000, b"\r\n".join(b"X-Secret-%d: s" % number for number in range(200))],
    ids=["long", "many"],
)
async def test_oversized_headers(headers: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """They are refused, nothing of them gets into the logs, and others are answered."""
    async with serving() as server:
        each = await Raw.open(server, b"GET /livez HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n")
        assert (await each.rest()).split()[1] == b"400"
        assert await status(server) == 200
    assert [record.name for record in caplog.records if record.name.startswith("aiohttp")] == []


async def test_defects_have_an_id() -> None:
    """What a handler raises stays in the node, under the number that the caller is told."""

    async def broken(_: web.Request) -> web.Response:
        raise RuntimeError("secret-canary")

    with capture_logs() as logs:
        async with serving(post=broken) as server, ClientSession() as session:
            async with session.post(f"http://{server.address}/post") as answer:
                assert answer.status == 500
                text = await answer.text()
            assert await status(server, "/none") == 404
    assert "secret-canary" not in text
    assert [line["request_id"] for line in logs if line["event"] == "request_failed"] == [text.split()[-1]]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    assert CliRunner().invoke(app, ["certs", "--dir", str(tmp_path)]).exit_code == 0
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "node.pem", tmp_path / "node-key.pem")
    return server, ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))


async def test_the_port_over_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Requests, also large answers and several on one connection, and who does not speak TLS is turned away."""
    async with serving(contexts[0]) as server, ClientSession() as session:
        for path, size in (("/livez", 12), ("/large", len(LARGE)), ("/livez", 12)):
            async with session.get(f"https://{server.address}{path}", ssl=contexts[1]) as answer:
                assert len(await answer.read()) == size
        assert len(server.door) == 1
        await (await Raw.open(server, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")).rest()
        await eventually(lambda: len(server.door) == 1)
    assert len(server.door) == 0


async def test_unfinished_handshakes(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """They count, make room for who comes, and end in time."""
    async with serving(contexts[0], handshake_s=1.0) as server, ClientSession() as session:
        taken = [await Raw.open(server, b"\x16\x03\x01" if number % 2 else b"") for number in range(10)]
        async with session.get(f"https://{server.address}/livez", ssl=contexts[1]) as answer:
            assert answer.status == 200
        assert server.door.turned_away == 7
        for each in taken:
            await each.rest()
        assert len(server.door) == 1
        assert server.door.too_slow == 3
