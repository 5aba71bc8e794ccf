"""Loaders that say more of a value than the value, with both clients, against a real node."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from cachenode.origins import Loaded as LoadedByNodes
from cachenode.server import Server
from cachenode_client import ABSENT, CacheClient, InvalidTtl, Loaded
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.support.eventually import eventually

Run = Callable[..., Any]


@pytest.fixture(params=["asyncio", "blocking"])
def run(request: pytest.FixtureRequest, server: Server) -> Run:
    """Make calls with a client of each kind: of the asyncio one in this loop, of the other in a thread."""
    if request.param == "asyncio":

        async def call(name: str, *arguments: Any, **named: Any) -> Any:
            async with CacheClient(server.address, near_cache=None) as client:
                return await getattr(client, name)(*arguments, **named)

        return call

    async def call_in_thread(name: str, *arguments: Any, **named: Any) -> Any:
        def work() -> Any:
            with BlockingCacheClient(server.address, near_cache=None) as client:
                return getattr(client, name)(*arguments, **named)

        return await asyncio.to_thread(work)

    return call_in_thread


def test_one_class_for_all() -> None:
    """What loaders of nodes return is what loaders of clients return."""
    assert LoadedByNodes is Loaded


async def test_ttl_and_tags(run: Run) -> None:
    """A value's own TTL goes before the call's; its tags come to those of the call."""
    assert await run("get_or_load", "k", lambda: Loaded("v", ttl_s=50, tags=["own"]), ttl_s=9, tags=["call"]) == "v"
    assert 40 < await run("ttl", "k") <= 50
    assert await run("get_or_load", "ever", lambda: Loaded("v", ttl_s=math.inf), ttl_s=9) == "v"
    assert await run("ttl", "ever") == math.inf
    assert await run("get_or_load", "call", lambda: Loaded("v"), ttl_s=9) == "v"
    assert 8 < await run("ttl", "call") <= 9
    for tag in ("own", "call"):
        await run("get_or_load", "k", lambda: Loaded("v", tags=["own"]), tags=["call"])
        await run("invalidate", tags=[tag])
        assert await run("get", "k") is None


async def test_value_that_is_not_kept(run: Run) -> None:
    """It is returned, and the next caller loads again."""
    for _ in range(2):
        assert await run("get_or_load", "k", lambda: Loaded("v", keep=False)) == "v"
    assert await run("get", "k") is None


async def test_batches_mix_them(run: Run) -> None:
    """Values, values with more, and none, each with its own life."""

    def load(keys: list[str]) -> dict[str, Any]:
        return {"a": "plain", "b": Loaded("own", ttl_s=50), "c": Loaded("gone", keep=False), "d": ABSENT}

    found = await run("get_or_load_many", ["a", "b", "c", "d", "e"], load, ttl_s=9)
    assert found == {"a": "plain", "b": "own", "c": "gone"}
    assert await run("get_many", ["a", "b", "c", "d", "e"]) == {"a": "plain", "b": "own"}
    assert 8 < await run("ttl", "a") <= 9
    assert 40 < await run("ttl", "b") <= 50


async def test_wrong_ttl_is_told(server: Server, run: Run) -> None:
    """The caller learns of its loader's mistake; nothing is kept, and nobody waits for it."""
    with pytest.raises(InvalidTtl):
        await run("get_or_load", "k", lambda: Loaded("v", ttl_s=-1))
    assert await run("get", "k") is None
    assert len(server.node.namespaces.get("default").flights) == 0


async def test_those_who_wait_get_what_is_not_kept(server: Server) -> None:
    """Who asks while it is loaded waits for it; who asks when it has come has it loaded again."""
    go, calls = asyncio.Event(), 0

    async def load() -> Loaded:
        nonlocal calls
        calls += 1
        await go.wait()
        return Loaded(f"v{calls}", keep=False)

    async with CacheClient(server.address, near_cache=None) as client:
        asked = asyncio.gather(*(client.get_or_load("k", load) for _ in range(5)))
        await eventually(lambda: server.node.namespaces.get("default").load_waits == 4)
        go.set()
        assert await asked == ["v1"] * 5
        assert await client.get_or_load("k", load) == "v2"


async def test_decorated_function(server: Server) -> None:
    """A function may return it too, and its caller gets the value."""
    async with CacheClient(server.address, near_cache=None) as client:

        @client.cached("user:{number}")
        async def user(number: int) -> object:
            return Loaded({"id": number}, ttl_s=50)

        assert await user(7) == await user(7) == {"id": 7}
        assert 40 < (await client.ttl("user:7") or 0) <= 50


async def test_nobody_answers_and_it_is_loaded_all_the_same() -> None:
    """Under ``on_error="miss"`` the value is returned bare."""
    async with CacheClient("127.0.0.1:1", on_error="miss", timeout_s=0.2) as client:
        assert await client.get_or_load("k", lambda: Loaded("v", ttl_s=5), timeout_s=0.5) == "v"
        assert await client.get_or_load_many(["k"], lambda _: {"k": Loaded("v")}, timeout_s=0.5) == {"k": "v"}
