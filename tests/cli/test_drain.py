"""``cachenode drain`` against a real node."""

from __future__ import annotations

import asyncio
import json

from cachenode.server import Server
from tests.cli.conftest import Invoke


async def test_node_at_an_address(server: Server, invoke: Invoke) -> None:
    """It leaves; a second call says the same, as JSON too, and by its id it is not found any more."""
    words = ("drain", "-a", server.address)
    result = await asyncio.to_thread(invoke, *words)
    assert result.exit_code == 0
    assert "node-0 has left in" in result.output
    assert not server.ready
    result = await asyncio.to_thread(invoke, *words, "-o", "json")
    step = json.loads(result.output.splitlines()[-1])
    assert (step["node"], step["stage"], step["unfinished"]) == ("node-0", "done", [])


async def test_node_by_its_id(server: Server, invoke: Invoke) -> None:
    """A member is found by its id, and one that is none has an exit code of its own."""
    words = ("drain", "-a", server.address, "--node")
    assert (await asyncio.to_thread(invoke, *words, "nobody")).exit_code == 3
    assert server.ready
    result = await asyncio.to_thread(invoke, *words, "node-0", "--no-wait", "--flush", "0")
    assert (result.exit_code, server.ready) == (0, False)


def test_usage(invoke: Invoke) -> None:
    """Which node must be clear, and the wait a duration; nobody there is another exit code."""
    assert invoke("drain", "-a", "127.0.0.1:1,127.0.0.1:2").exit_code == 2
    assert invoke("drain", "-a", "127.0.0.1:1", "--flush", "soon").exit_code == 2
    assert invoke("drain", "-a", "127.0.0.1:1").exit_code == 4
