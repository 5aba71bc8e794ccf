from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from cachenode.cli import invalidate as module
from cachenode.server import Server
from cachenode_client import CacheClient

Invoke = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "left", "said"),
    [
        (["user:1", "absent", "absent"], {"user:2", "page"}, "2 keys (1 had a value)"),
        (["page"], {"user:1", "user:2"}, "1 key (1 had a value)"),
        (["--prefix", "user:"], {"page"}, "all with prefix user:"),
        (["--pattern", "*:2"], {"user:1", "page"}, "all that match *:2"),
        (["--tag", "red", "--tag", "blue"], {"user:2"}, "all with tag red, all with tag blue"),
        (["page", "--tag", "red", "--ack", "owner"], {"user:2"}, "copies of it for up to two seconds"),
        (["page", "--tag", "red", "--expire"], {"user:2"}, "Expired 1 key (1 had a value), all with tag red"),
        (["--all"], set(), "everything in namespace default"),
    ],
)
async def test_what_is_invalidated(
    server: Server, invoke: Invoke, arguments: list[str], left: set[str], said: str
) -> None:
    """Keys, prefixes, patterns, tags and all go from the cluster, and the command says what went."""
    async with CacheClient(server.address, timeout_s=10, near_cache=None) as cache:
        await cache.set_many({"user:1": 1}, tags=["red"])
        await cache.set_many({"page": 1}, tags=["blue"])
        await cache.set("user:2", 1)
        result = await asyncio.to_thread(invoke, "invalidate", *arguments, "--address", server.address)
        assert (result.exit_code, said in result.output) == (0, True), result.output
        assert set(await cache.get_many(["user:1", "user:2", "page"])) == left


async def test_json_says_what_was_asked_for(server: Server, invoke: Invoke) -> None:
    """Programs get the arguments back with the number of keys that had a value."""
    address = ["--address", server.address, "-o", "json"]
    assert (await asyncio.to_thread(invoke, "set", "k", "v", "--tag", "b", "--tag", "a", *address)).exit_code == 0
    result = await asyncio.to_thread(invoke, "invalidate", "k", "--tag", "a", "-n", "default", *address)
    assert json.loads(result.output) == {
        "namespace": "default",
        "keys": ["k"],
        "found": 1,
        "prefix": None,
        "pattern": None,
        "tags": ["a"],
        "all": False,
        "expire": False,
        "ack": "all",
    }


@pytest.mark.parametrize(
    ("arguments", "answer", "asks", "called"), [([], "n", True, 0), ([], "y", True, 1), (["-y"], "", False, 1)]
)
def test_all_is_asked_for_on_a_terminal(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], answer: str, asks: bool, called: int
) -> None:
    """A person is asked before a whole namespace goes; no is no failure of the cluster, and nothing is sent."""
    calls = []
    monkeypatch.setattr(module, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))

    def call(function: object, **where: Any) -> int:
        calls.append(where)
        return 0

    monkeypatch.setattr(module, "call", call)
    result = invoke("invalidate", "--all", "-n", "sessions", *arguments, stdin=f"{answer}\n")
    assert ("Invalidate everything in namespace sessions?" in result.output) == asks
    assert len(calls) == called
    assert result.exit_code == (0 if called else 1)


def test_what_moves_the_cursor_is_written_out() -> None:
    """The text of the arguments is shown, not obeyed."""
    found: Any = module._described([], "a\x1b[2J", None, [], whole=False, found=0)
    assert found == "all with prefix a\\x1b[2J"
