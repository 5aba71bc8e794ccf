"""`soft_timeout_s` of both clients: how long a caller waits for its load where there is a value past its TTL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_client import ABSENT, CacheClient, InvalidArgument
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.support.eventually import eventually
from tests.support.server import running_server

TTL_S = 0.05
LONG_S = 20.0
SHORT_S = 0.01


@pytest.fixture
async def node() -> AsyncIterator[Server]:
    """A node that serves values for a minute past their TTL."""
    async with running_server(namespaces__default__stale_s=60.0) as started:
        yield started


async def stale(node: Server, client: Any) -> None:
    """Have a value loaded, and wait until its TTL is over."""
    assert await client.get_or_load("k", lambda: "old", ttl_s=TTL_S) == "old"
    space = node.node.namespaces.get("default")
    version = (await client.lookup("k")).version
    await eventually(lambda: space.renewals.ends(b"k", version)[1] <= node.node.clock.now())


@pytest.fixture
async def client(node: Server) -> AsyncIterator[CacheClient]:
    async with CacheClient(node.address, near_cache=None) as made:
        yield made


async def test_new_value_in_time(node: Server, client: CacheClient) -> None:
    """The caller that loads gets it, and so do those who ask meanwhile."""
    await stale(node, client)
    go = asyncio.Event()

    async def load() -> str:
        await go.wait()
        return "new"

    asked = [asyncio.ensure_future(client.get_or_load("k", load, soft_timeout_s=8.0, timeout_s=LONG_S)) for _ in "abc"]
    await eventually(lambda: node.node.namespaces.get("default").load_waits == 2)
    go.set()
    assert await asyncio.gather(*asked) == ["new"] * 3


async def test_slow_load_goes_on(node: Server, client: CacheClient) -> None:
    """The old value is returned, and the new one is there when it has come."""
    await stale(node, client)
    go = asyncio.Event()

    async def load() -> str:
        await go.wait()
        return "new"

    assert await client.get_or_load("k", load, soft_timeout_s=SHORT_S) == "old"
    assert await client.get_or_load("k", load, soft_timeout_s=SHORT_S) == "old"
    go.set()
    await eventually(lambda: not len(node.node.namespaces.get("default").flights))
    assert await client.get("k") == "new"
    assert node.node.namespaces.get("default").observed.soft_timeouts == 1


async def test_load_that_fails_or_finds_nothing(node: Server, client: CacheClient) -> None:
    """A failure leaves the old value; that there is none any more is believed."""
    await stale(node, client)

    async def fail() -> str:
        raise OSError

    assert await client.get_or_load("k", fail, soft_timeout_s=8.0) == "old"
    node.node.namespaces.get("default").load_backoff.succeeded(b"k")
    assert await client.get_or_load("k", lambda: ABSENT, soft_timeout_s=8.0, default="none") == "none"


async def test_fresh_value_is_not_waited_for(node: Server, client: CacheClient) -> None:
    """Nor is anybody's load without a soft timeout."""
    assert await client.get_or_load("k", lambda: "v", soft_timeout_s=8.0) == "v"
    assert await client.get_or_load("k", lambda: "other", soft_timeout_s=8.0) == "v"
    with pytest.raises(InvalidArgument, match="soft_timeout_s"):
        await client.get_or_load("k", lambda: "v", soft_timeout_s=-1)


async def test_decorated_function(node: Server, client: CacheClient) -> None:
    """It has the argument too."""
    calls = 0

    @client.cached("k", ttl_s=TTL_S, soft_timeout_s=8.0)
    async def load() -> int:
        nonlocal calls
        calls += 1
        return calls

    assert await load() == 1
    version = (await client.lookup("k")).version
    space = node.node.namespaces.get("default")
    await eventually(lambda: space.renewals.ends(b"k", version)[1] <= node.node.clock.now())
    assert await load() == 2


async def test_threads(node: Server, client: CacheClient) -> None:
    """The blocking client waits in the calling thread while another loads."""
    await stale(node, client)
    go = threading.Event()

    def slow() -> str:
        go.wait(LONG_S)
        return "new"

    def fail() -> str:
        raise OSError

    with BlockingCacheClient(node.address, near_cache=None) as blocking:

        def work(loader: Any, soft_timeout_s: float) -> Any:
            return blocking.get_or_load("k", loader, soft_timeout_s=soft_timeout_s)

        assert await asyncio.to_thread(work, fail, 8.0) == "old"
        node.node.namespaces.get("default").load_backoff.succeeded(b"k")
        assert await asyncio.to_thread(work, slow, SHORT_S) == "old"
        go.set()
        await eventually(lambda: not len(node.node.namespaces.get("default").flights))
        assert await client.get("k") == "new"
        await stale_again(node, client)
        assert await asyncio.to_thread(work, lambda: "newest", 8.0) == "newest"


async def stale_again(node: Server, client: CacheClient) -> None:
    await client.delete("k")
    await stale(node, client)


async def test_many_keys(node: Server, client: CacheClient) -> None:
    """Those of a batch that have old values are waited for together, those that have none are loaded beside them."""
    await stale(node, client)

    async def load(keys: list[str]) -> dict[str, str]:
        return {key: f"new {key}" for key in keys}

    async def slow(keys: list[str]) -> dict[str, str]:
        await go.wait()
        return dict.fromkeys(keys, "newest")

    found = await client.get_or_load_many(["k", "other"], load, ttl_s=TTL_S, soft_timeout_s=8.0, timeout_s=LONG_S)
    assert found == {"k": "new k", "other": "new other"}
    await stale_again(node, client)
    go = asyncio.Event()
    assert await client.get_or_load_many(["k"], slow, soft_timeout_s=SHORT_S) == {"k": "old"}
    go.set()
    await eventually(lambda: not len(node.node.namespaces.get("default").flights))
    assert await client.get("k") == "newest"


async def test_many_keys_of_which_the_origin_has_none_any_more(node: Server, client: CacheClient) -> None:
    """What is not there any more is not returned; a load that fails leaves the old value."""
    await stale(node, client)

    async def fail(keys: list[str]) -> dict[str, str]:
        raise RuntimeError("the origin is away")

    assert await client.get_or_load_many(["k"], fail, soft_timeout_s=8.0, timeout_s=LONG_S) == {"k": "old"}
    node.node.namespaces.get("default").load_backoff.succeeded(b"k")
    assert await client.get_or_load_many(["k"], lambda _: {}, soft_timeout_s=8.0, timeout_s=LONG_S) == {}


async def test_many_keys_of_threads(node: Server, client: CacheClient) -> None:
    """The blocking client waits the same way."""
    await stale(node, client)
    with BlockingCacheClient(node.address, near_cache=None) as blocking:

        def ask() -> dict[str, Any]:
            return blocking.get_or_load_many(
                ["k", "other"], lambda keys: dict.fromkeys(keys, "new"), soft_timeout_s=8.0, timeout_s=LONG_S
            )

        assert await asyncio.to_thread(ask) == {"k": "new", "other": "new"}
