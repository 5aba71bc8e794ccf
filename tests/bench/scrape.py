"""What a scrape of 50 namespaces costs: how long it takes, and how long at most the loop does nothing else for it.

The node runs in this process, and who scrapes in a thread. One turn of the loop is measured in processor time of its
thread, so that a machine that is busy with others does not count.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from contextlib import suppress

from cachenode.config import load_config
from cachenode.server import Server
from cachenode_client import CacheClient

__all__ = ["scrapes"]

NAMESPACES = 50
_KEYS = 200


async def scrapes(count: int) -> tuple[list[float], list[float]]:
    """Return how long scrapes took, and the longest turn of the loop during each, both in microseconds."""
    flags = {"node.listen": "127.0.0.1:0", "node.http_listen": "127.0.0.1:0"}
    server = Server(load_config(flags=flags, environ={}, file=None))
    await server.start()
    try:
        await server.joined.wait()
        async with CacheClient(server.address, near_cache=None, timeout_s=10.0) as client:
            for number in range(NAMESPACES):
                await client.set_many(dict.fromkeys(map(str, range(_KEYS)), b"x"), namespace=f"n{number}")
        return await _measure(f"http://{server.http_address}/metrics", count)
    finally:
        await server.stop()


async def _measure(url: str, count: int) -> tuple[list[float], list[float]]:
    took, turns = [], []
    for _ in range(count + 1):
        longest = [0.0]
        watching = asyncio.create_task(_watch(longest))
        began = time.perf_counter()
        text = await asyncio.to_thread(_scrape, url)
        took.append((time.perf_counter() - began) * 1e6)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        turns.append(longest[0] * 1e6)
        assert text.count(b'cache_keys_total{namespace="n') == NAMESPACES
    return took[1:], turns[1:]  # the first one has imports and connections to make


async def _watch(longest: list[float]) -> None:
    before = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now = time.thread_time()
        longest[0], before = max(longest[0], now - before), now


def _scrape(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())
