"""``cachenode advise``, against a real node."""

from __future__ import annotations

import asyncio
import json

from cachenode.server import Server
from cachenode_client import CacheClient
from tests.cli.conftest import Invoke


async def test_advice_and_its_numbers(server: Server, invoke: Invoke) -> None:
    """Too little is told as such; with enough, whether, how long and by which pattern, as text and as JSON."""

    async def run(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(invoke, "advise", *arguments, "-a", server.address)
        return result.exit_code, result.output

    async with CacheClient(server.address, namespace="users", near_cache=None) as client:
        await client.set("k", 1)
        for _ in range(150):
            await client.get("k")
    code, text = await run("-n", "users")
    assert code == 0
    assert "not known" in text
    assert "users: missing time" in text
    space = server.node.namespaces.get("users")
    _, noted = space.observed.window._notes[0]
    space.observed.window._notes[0] = (server.node.clock.now() - 200.0, [0.0] * len(noted))
    code, text = await run("-n", "users", "--load-cost", "200ms", "--staleness", "30s")
    row = next((line for line in text.splitlines() if line.strip().startswith("users ")), text)
    assert ("yes" in row, "30.0s" in row, "100.0%" in row) == (True, True, True)
    assert "users: because a load takes 200 ms, expensive from 100 ms" in text
    code, text = await run("--load-cost", "200ms", "-o", "json")
    documents = {each["name"]: each for each in json.loads(text.splitlines()[-1])["namespaces"]}
    assert documents["users"]["cache"] is True
    assert documents["users"]["measured"]["reads"] == 150
    assert documents["default"]["cache"] is None
    code, text = await run("-n", "users", "--load-cost", "200ms", "--threshold", "min_hit_ratio=1.1")
    assert "not worth it: hit ratio 100.0%, worth it from 110%" in text


def test_wrong_usage(invoke: Invoke) -> None:
    """Options say what they take."""
    assert invoke("advise", "--staleness", "soon").exit_code == 2
    assert "must be one of" in invoke("advise", "--threshold", "hits=1").output
    assert "must be a number" in invoke("advise", "--threshold", "min_reads=x").output
    assert invoke("advise", "-a", "127.0.0.1:1").exit_code == 4
