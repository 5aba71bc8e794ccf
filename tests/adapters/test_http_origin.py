"""The origin "http" against a real server: freshness, validators, outages, writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cachenode.adapters.http_origin import HttpOrigin
from cachenode.adapters.plugins import LOADERS, find_plugin
from cachenode.errors import ConfigError
from cachenode.origins import ABSENT, Loaded, OriginError, Write

KEY = "user:a/b ä"


class Service:
    """A service whose next answers a test gives: status, headers, body. It keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.hang_up = False
        self.url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        if self.hang_up:
            assert request.transport is not None
            request.transport.abort()
        status, headers, body = self.answers.pop(0) if self.answers else (200, {}, b"{}")
        return web.Response(status=status, headers=headers, body=body)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service on a free port."""
    service = Service()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", service.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


@pytest.fixture
async def origin(service: Service, tmp_path: Path) -> AsyncIterator[HttpOrigin]:
    """An origin of users there."""
    (tmp_path / "token").write_text("Bearer hunter2\n")
    origin = HttpOrigin(
        url=service.url + "/users/{id}?full=1",
        key="user:{id}",
        headers={"X-From": "cache"},
        header_files={"Authorization": str(tmp_path / "token")},
        max_bytes=1_000,
    )
    yield origin
    await origin.close()


async def refusal(work: Any) -> tuple[str, bool, bool]:
    with pytest.raises(OriginError) as caught:
        await work
    return str(caught.value), caught.value.again, caught.value.maybe_done


async def test_value_at_a_url(service: Service, origin: HttpOrigin) -> None:
    """The key's part is quoted; headers, also from files, go along; what does not fit the pattern is not asked for."""
    service.answers = [(200, {}, b'{"name":"Ada"}'), (404, {}, b""), (410, {}, b"")]
    assert await origin.load(KEY) == Loaded({"name": "Ada"})
    [(method, path, headers, _)] = service.asked
    assert (method, path) == ("GET", "/users/a%2Fb%20%C3%A4?full=1")
    assert (headers["X-From"], headers["Authorization"]) == ("cache", "Bearer hunter2")
    assert [await origin.load("user:1"), await origin.load("user:1")] == [ABSENT, ABSENT]
    assert await origin.load("other") is ABSENT
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    ("headers", "ttl_s", "keep"),
    [
        ({}, None, True),
        ({"Cache-Control": "public, max-age=60"}, 60.0, True),
        ({"Cache-Control": "max-age=60, s-maxage=90"}, 90.0, True),
        ({"Cache-Control": "max-age=60", "Age": "20"}, 40.0, True),
        ({"Cache-Control": "max-age=60", "Age": "60"}, None, False),
        ({"Cache-Control": "max-age=0"}, None, False),
        ({"Cache-Control": "no-store"}, None, False),
        ({"Cache-Control": "No-Cache"}, None, False),
        ({"Cache-Control": "max-age=x"}, None, True),
    ],
)
async def test_freshness(
    service: Service, origin: HttpOrigin, headers: dict[str, str], ttl_s: float | None, keep: bool
) -> None:
    """How long a response may be kept, and whether it may be."""
    service.answers = [(200, headers, b"7")]
    assert await origin.load(KEY) == Loaded(7, ttl_s, keep=keep)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"ETag": '"1"', "Last-Modified": "Mon"}, {"If-None-Match": '"1"'}),
        ({"Last-Modified": formatdate(0, usegmt=True)}, {"If-Modified-Since": formatdate(0, usegmt=True)}),
    ],
)
async def test_value_that_has_not_changed(
    service: Service, origin: HttpOrigin, given: dict[str, str], sent: dict[str, str]
) -> None:
    """A 304 brings the value that is remembered, with the life that it says; what is gone is forgotten."""
    service.answers = [(200, given, b"1"), (304, {"Cache-Control": "max-age=5"}, b""), (404, {}, b""), (200, {}, b"2")]
    found = [await origin.load(KEY) for _ in range(4)]
    assert found == [Loaded(1), Loaded(1, 5.0), ABSENT, Loaded(2)]
    conditions = [
        {name: value for name, value in asked[2].items() if name.startswith("If-")} for asked in service.asked
    ]
    assert conditions == [{}, sent, sent, {}]


async def test_validators_are_bounded(service: Service) -> None:
    """The least recently used go first; what is larger than all room is not remembered."""
    origin = HttpOrigin(url=service.url + "/{key}", format="bytes", remember_bytes=1_000)
    for key, size in (("a", 300), ("b", 300), ("big", 900)):
        service.answers.append((200, {"ETag": f'"{key}"'}, b"x" * size))
        await origin.load(key)
    for key in ("big", "a", "b"):
        await origin.load(key)
    assert [asked[2].get("If-None-Match") for asked in service.asked[3:]] == [None, None, '"b"']
    await origin.close()


@pytest.mark.parametrize(
    ("status", "again", "maybe_done"),
    [
        (400, False, False),
        (409, False, False),
        (302, False, False),
        (429, True, False),
        (503, True, False),
        (500, True, True),
        (502, True, True),
    ],
)
async def test_answers_that_are_none(
    service: Service, origin: HttpOrigin, status: int, again: bool, maybe_done: bool
) -> None:
    """5xx and 429 may be tried again, others not; a write may have been done before the service failed."""
    service.answers = [(status, {}, b"")] * 3
    assert await refusal(origin.load(KEY)) == (f"status {status}", again, False)
    for value in (1, ABSENT):
        assert await refusal(origin.write(Write(KEY, value, 1))) == (f"status {status}", again, maybe_done)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_service_that_asks_to_be_left_alone(service: Service, origin: HttpOrigin, form: str) -> None:
    """Nothing is asked before the time that it says."""
    until = "30" if form == "seconds" else formatdate(4e9, usegmt=True)
    service.answers = [(503, {"Retry-After": until}, b"")]
    assert (await refusal(origin.load(KEY)))[0] == "status 503"
    assert await refusal(origin.load(KEY)) == ("the service has asked to be left alone for a while", True, False)
    assert (await refusal(origin.write(Write(KEY, 1, 1))))[2] is False
    assert len(service.asked) == 1


async def test_writes(service: Service, origin: HttpOrigin) -> None:
    """PUT with the value, DELETE without; each with its version. What is gone already is gone."""
    service.answers = [(204, {}, b""), (404, {}, b"")]
    await origin.write(Write("user:1", {"name": "Ä"}, 7))
    await origin.write(Write("user:1", ABSENT, 8))
    seen = [(method, headers["Cachenode-Version"], body) for method, _, headers, body in service.asked]
    assert seen == [("PUT", "7", '{"name":"Ä"}'.encode()), ("DELETE", "8", b"")]
    assert service.asked[0][2]["Content-Type"] == "application/json"
    assert (await refusal(origin.write(Write("user:1", object(), 9))))[1:] == (False, False)
    assert (await refusal(origin.write(Write("x", 1, 9))))[0].startswith("the key does not fit")


async def test_bytes(service: Service) -> None:
    """Bodies as they are."""
    origin = HttpOrigin(url=service.url + "/{key}", format="bytes")
    service.answers = [(200, {}, b"\xff\x00"), (200, {}, b"")]
    assert await origin.load("k") == Loaded(b"\xff\x00")
    await origin.write(Write("k", b"\x01", 1))
    assert (service.asked[1][3], service.asked[1][2]["Content-Type"]) == (b"\x01", "application/octet-stream")
    assert (await refusal(origin.write(Write("k", "text", 1))))[0] == "the value must be bytes, not str"
    await origin.close()


async def test_bodies_that_cannot_be_used(service: Service, origin: HttpOrigin) -> None:
    """No JSON, or too much of it: the service has a defect, and asking again does not help."""
    service.answers = [(200, {}, b"{"), (200, {}, b"1" * 1_001)]
    assert await refusal(origin.load(KEY)) == ("the value is no JSON", False, False)
    text, again, _ = await refusal(origin.load(KEY))
    assert (text, again) == ("the response exceeds the limit of 1,000 bytes (options.max_bytes)", False)


async def test_connection_that_ends(service: Service, origin: HttpOrigin) -> None:
    """A write may have been done, unless there was no connection."""
    service.hang_up = True
    assert await refusal(origin.load(KEY)) == ("ServerDisconnectedError", True, False)
    assert await refusal(origin.write(Write(KEY, 1, 1))) == ("ServerDisconnectedError", True, True)
    nobody = HttpOrigin(url="http://127.0.0.1:1/{key}")
    assert await refusal(nobody.write(Write("k", 1, 1))) == ("ClientConnectorError", True, False)
    await nobody.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "ftp://hunter2/{key}"}, "options.url: must begin with http:// or https:// and hold {key} once"),
        ({"url": "http://hunter2/"}, "options.url: must begin"),
        ({"url": "http://x/{id}", "key": "hunter2"}, "options.key: must hold one placeholder"),
        ({"url": "http://x/{key}", "format": "hunter2"}, "options.format: must be json or bytes"),
        (
            {"url": "http://x/{key}", "header_files": {"A": "/nonexistent/hunter2"}},
            "options.header_files: FileNotFound",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], text: str) -> None:
    """Each is named, and no value is repeated."""
    with pytest.raises(ConfigError) as caught:
        find_plugin("http", options, LOADERS)
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)
