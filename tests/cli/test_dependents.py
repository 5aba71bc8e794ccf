"""``dependents``: the graph of what goes with a key, for people, programs and graphviz."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from typer.testing import Result

from cachenode.server import Server
from cachenode_client import CacheClient, Parent

Invoke = Callable[..., Result]


async def fill(server: Server) -> None:
    """Store a graph with a cycle over two namespaces."""
    async with (
        CacheClient(server.address, timeout_s=10, near_cache=None) as cache,
        CacheClient(server.address, timeout_s=10, near_cache=None, namespace="pages") as pages,
    ):
        await cache.set("posts", 1, ttl_s=60, depends_on=["user"])
        await pages.set('a "page"', 1, depends_on=[Parent("default", "posts")])
        await pages.set("index", 1, depends_on=['a "page"', "index"])
        await cache.set("stats", 1, depends_on=["user", Parent("pages", "index")])


async def test_graph_of_a_key(server: Server, invoke: Invoke) -> None:
    """Those that name the key, and those that name these, each with how far that is."""
    await fill(server)
    result = await asyncio.to_thread(invoke, "dependents", "user", "--address", server.address)
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines() if line[:1].isdigit() or " default/" in line]
    assert [line for line in lines if "default/posts" in line], result.output
    result = await asyncio.to_thread(invoke, "dependents", "user", "--address", server.address, "-o", "json")
    document = json.loads(result.output)
    found = [(each["depth"], each["namespace"], each["key"], each["parent"]["key"]) for each in document["dependents"]]
    assert found == [
        (1, "default", "posts", "user"),
        (1, "default", "stats", "user"),
        (2, "pages", 'a "page"', "posts"),
        (3, "pages", "index", 'a "page"'),
        (4, "default", "stats", "index"),
    ]
    assert 50 < document["dependents"][0]["ttl_s"] <= 66.1
    assert (document["more"], document["silent"]) == (False, [])
    result = await asyncio.to_thread(
        invoke, "dependents", "user", "--address", server.address, "-o", "json", "--depth", "1"
    )
    assert {each["key"] for each in json.loads(result.output)["dependents"]} == {"posts", "stats"}


async def test_dot_graph(server: Server, invoke: Invoke) -> None:
    """Whatever is in a key: the text is one that graphviz accepts."""
    await fill(server)
    result = await asyncio.to_thread(invoke, "dependents", "user", "--address", server.address, "-o", "dot")
    assert '  "default/posts" -> "pages/a \\"page\\"";' in result.output.splitlines()
    node = r'"(?:[^"\\]|\\.)*"'
    statement = rf"  (?:rankdir=LR|{node} \[shape=box\]|{node} -> {node});"
    first, *statements, last = result.output.splitlines()
    assert (first, last) == ("digraph dependents {", "}")
    assert all(re.fullmatch(statement, line) for line in statements)
    if (dot := shutil.which("dot")) is not None:
        await asyncio.to_thread(subprocess.run, [dot, "-Tsvg"], input=result.output.encode(), check=True)


async def test_key_without_dependents(server: Server, invoke: Invoke) -> None:
    """That is said, and is no failure."""
    result = await asyncio.to_thread(invoke, "dependents", "user", "--address", server.address)
    assert (result.exit_code, result.output) == (0, "Nothing depends on default/user.\n")


async def test_set_and_explain_know_dependencies(server: Server, invoke: Invoke) -> None:
    """`set` makes them, `explain` shows what a key depends on and how much depends on it."""
    address = ("--address", server.address)
    result = await asyncio.to_thread(invoke, "set", "posts", "x", "--depends-on", "user", *address)
    assert result.exit_code == 0
    await asyncio.to_thread(invoke, "set", "page", "x", "--depends-on", "posts", *address)
    result = await asyncio.to_thread(invoke, "explain", "page", *address)
    assert "Depends on default/posts." in result.output
    assert "Depends, over those, on default/user." in result.output
    result = await asyncio.to_thread(invoke, "explain", "user", *address)
    assert "2 entries depend on it" in result.output
    result = await asyncio.to_thread(invoke, "explain", "posts", "-o", "json", *address)
    (node,) = json.loads(result.output)["nodes"]
    assert node["depends_on"] == [{"namespace": "default", "key": "user", "direct": True}]
    assert node["dependents"] == 1


async def test_stats_count_cascades(server: Server, invoke: Invoke) -> None:
    """Changes of parents, what went with them, and what still depends on something."""
    async with CacheClient(server.address, timeout_s=10) as cache:
        await cache.set_many({"a": 1, "b": 1}, depends_on=["p"])
        await cache.set("c", 1, depends_on=["q"])
        await cache.set("p", 2)
    result = await asyncio.to_thread(invoke, "stats", "-o", "json", "--address", server.address)
    (space,) = [each for each in json.loads(result.output)["nodes"][0]["namespaces"] if each["name"] == "default"]
    assert (space["cascades"], space["cascaded_entries"], space["dependents"]) == (1, 2, 3)


async def test_silent_node_is_told(server: Server, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its keys have is missing: the command fails after it has shown the rest."""
    await fill(server)

    async def silent(*_: object) -> dict[str, None]:
        await asyncio.sleep(0)
        return {"node-9": None}

    monkeypatch.setattr("cachenode.cli.admin.ask_dependents", silent)
    result = await asyncio.to_thread(invoke, "dependents", "user", "--address", server.address)
    assert result.exit_code == 1
    assert "no answer from node-9" in result.output
