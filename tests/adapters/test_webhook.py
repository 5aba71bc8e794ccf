"""POST /events: what it takes, what it refuses, and that nothing is done without a signature."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cachenode.adapters.webhook import SIGNATURE_HEADER, SecretFile
from cachenode.core.signatures import signed
from cachenode.errors import ConfigError
from cachenode.server import Server
from cachenode_client import CacheClient
from tests.support.server import running_server

SECRET = b"a secret of 24 bytes...."
RULES = [{"name": "user.deleted", "invalidates": ["user:{userId}", "user:{userId}:*"]}]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    return file


@pytest.fixture
async def server(secret: Path) -> AsyncIterator[Server]:
    """A node that takes events over HTTP."""
    options: dict[str, Any] = {"event": RULES, "events.webhook_secret_file": str(secret), "events.unknown": "refuse"}
    async with running_server(**options) as started:
        yield started


async def send(
    server: Server, body: bytes, *, key: bytes = SECRET, at: int | None = None, header: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Post a signed body; return status and document."""
    sign = signed(key, round(time.time()) if at is None else at, body) if header is None else header
    async with (
        ClientSession() as session,
        session.post(
            f"http://{server.http_address}/events", data=body, headers={SIGNATURE_HEADER: sign} if sign else {}
        ) as answer,
    ):
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


def replace(file: Path, content: bytes, changed_at: int) -> None:
    """Write a file that has surely changed."""
    file.write_bytes(content)
    os.utime(file, ns=(changed_at, changed_at))


def event(**more: Any) -> bytes:
    return json.dumps({"event": "user.deleted", "fields": {"userId": 7}} | more).encode()


async def test_event_is_done(server: Server) -> None:
    """The answer comes when the values are gone; the same id is done once, however often it is sent."""
    async with CacheClient(server.address, timeout_s=10) as cache:
        await cache.set("user:7", 1)
        assert await cache.get("user:7") == 1
        now = round(time.time())
        status, document = await send(server, event(id="a"), at=now)
        assert (status, document) == (
            202,
            {
                "event": "user.deleted",
                "known": True,
                "duplicate": False,
                "found": 1,
                "invalidations": [{"namespace": "default", "keys": 1, "selectors": 1}],
            },
        )
        assert await cache.get("user:7") is None
    status, document = await send(server, event(id="a"), at=now - 1)
    assert (status, document["duplicate"]) == (202, True)
    assert {(each.source, each.outcome) for each in server.stats().events} == {
        ("webhook", "done"),
        ("webhook", "duplicate"),
    }


async def test_nothing_without_a_signature(server: Server) -> None:
    """Who does not know the secret, or repeats what somebody has sent, is refused, and nothing is done."""
    now = round(time.time())
    good = signed(SECRET, now, event())
    async with CacheClient(server.address, timeout_s=10, near_cache=None) as cache:
        await cache.set("user:7", 1)
        for header, expected in (
            ("", 401),
            ("t=1", 401),
            (signed(b"another secret..........", now, event()), 401),
            (signed(SECRET, now - 301, event()), 403),
            (signed(SECRET, now + 400, event()), 403),
        ):
            status, document = await send(server, event(), header=header)
            assert (status, SIGNATURE_HEADER in document["error"]) == (expected, True)
            assert SECRET.decode() not in document["error"]
        assert await cache.get("user:7") == 1
        assert (await send(server, event(), header=good))[0] == 202
        assert (await send(server, event(), header=good))[0] == 403
        assert await cache.get("user:7") is None
    assert server.stats().event_invalidations == 2


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"[" * 50_000, 400, None),
        (event(fields=[1]), 400, None),
        (event(event=7), 400, None),
        (event(id=7), 400, None),
        (event(key="x"), 400, None),
        (event(event="a b"), 400, "invalid_request"),
        (event(event="unheard.of"), 400, "unknown_event"),
        (b'{"event": "user.deleted", "fields": {"userId": NaN}}', 400, "invalid_request"),
        (event(id="x" * 129), 400, "invalid_request"),
        (b" " * 100_000, 413, None),
    ],
)
async def test_what_cannot_be_used(server: Server, body: bytes, status: int, reason: str | None) -> None:
    """Each refusal says why, as JSON."""
    found, document = await send(server, body)
    assert (found, document.get("reason")) == (status, reason)


async def test_large_body_without_a_length(server: Server) -> None:
    """A body that does not say its length is read to the limit and no further."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1_000

    async with (
        ClientSession() as session,
        session.post(f"http://{server.http_address}/events", data=parts()) as answer,
    ):
        assert answer.status == 413


async def test_off_unless_there_is_a_secret() -> None:
    """Without a secret there is no such path."""
    async with running_server(event=RULES) as server, ClientSession() as session:
        async with session.post(f"http://{server.http_address}/events", data=event()) as answer:
            assert answer.status == 404


async def test_what_could_not_be_done_may_come_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that cannot reach the owners says 503; the same request is good again then."""
    events = server._events
    monkeypatch.setattr(events, "_timeout_s", 0.05)
    gone = asyncio.Event()
    monkeypatch.setattr(events, "_until_done", lambda *_: gone.wait())
    header = signed(SECRET, round(time.time()), event(id="b"))
    status, document = await send(server, event(id="b"), header=header)
    assert (status, document["reason"]) == (503, "deadline_exceeded")
    monkeypatch.undo()
    assert (await send(server, event(id="b"), header=header))[0] == 202


async def test_secret_is_replaced_without_a_restart(server: Server, secret: Path) -> None:
    """While both are in the file both are good; a file that is bad for a moment changes nothing."""
    later, now = b"the secret that is to come", round(time.time())
    replace(secret, SECRET + b"\n" + later + b"\n", 1)
    assert [(await send(server, event(), key=key, at=now))[0] for key in (SECRET, later)] == [202, 202]
    replace(secret, b"short", 2)
    assert (await send(server, event(), key=later, at=now - 1))[0] == 202
    replace(secret, later, 3)
    assert (await send(server, event(), at=now - 2))[0] == 401


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"too short\n"])
def test_bad_secret_files_are_told_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    """A node that cannot check signatures does not start; the secret is not repeated."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        SecretFile(file)
    assert error.value.problems[0].startswith("events.webhook_secret_file: ")
    assert "too short" not in str(error.value)
