"""``ring``, ``snapshot`` and ``loglevel`` against a real node."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenode.adapters.logs import levels
from cachenode.server import Server
from tests.cli.conftest import Invoke


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Levels are the process's: what a test says is taken back."""
    yield
    for name in levels.said(0):
        levels.reset(name)


async def test_ring(server: Server, invoke: Invoke) -> None:
    """Shares of the members, and where a key belongs, for people and for programs."""
    result = await asyncio.to_thread(invoke, "ring", "-a", server.address)
    assert result.exit_code == 0
    assert "node-0" in result.output
    assert "100.0%" in result.output
    result = await asyncio.to_thread(invoke, "ring", "k", "-a", server.address)
    assert "owner  node-0" in result.output
    result = await asyncio.to_thread(invoke, "ring", "-a", server.address, "--sample", "10", "-o", "json")
    document = json.loads(result.output)
    assert (document["sample"], document["members"][0]["ideal"], document["members"][0]["entries"]) == (10, 1.0, 0)
    result = await asyncio.to_thread(invoke, "ring", "k", "-a", server.address, "-o", "json")
    assert json.loads(result.output)["owners"] == ["node-0"]


def fill(server: Server, *keys: bytes) -> None:
    [namespace] = server.node.namespaces
    store, now = namespace.store, server.node.clock.now()
    for key in keys:
        store.put(key, b"secret", flags=0, version=1, deadline=now + 60, now=now)


def lines_of(file: Path) -> list[bytes]:
    """Return the lines of a file that only its owner may read."""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file.read_bytes().splitlines()


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_snapshot(server: Server, invoke: Invoke, tmp_path: Path) -> None:
    """A line a key on standard output or in a file that only its owner reads, and never a value."""
    fill(server, b"user:1", b"page", b"\xff")
    words = ("snapshot", "-a", server.address)
    result = await asyncio.to_thread(invoke, *words)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 3
    assert {"user:1", "page"} == {line["key"] for line in lines if isinstance(line["key"], str)}
    assert {"base64": "/w=="} in [line["key"] for line in lines]
    assert "secret" not in result.stdout
    file = tmp_path / "keys.jsonl"
    result = await asyncio.to_thread(invoke, *words, "--file", str(file), "--prefix", "user:", "--node", "node-0")
    assert result.exit_code == 0
    assert len(lines_of(file)) == 1
    assert names(tmp_path) == [file.name]


async def test_keys_for_warming(server: Server, invoke: Invoke, tmp_path: Path) -> None:
    """Keys alone are what `warm --keys` reads; a key with a line end in it cannot be among them, which is said."""
    fill(server, b"a", b"\xff", b"two\nlines")
    file = tmp_path / "keys.txt"
    words = ("snapshot", "-a", server.address, "-n", "default", "--keys-only", "--file", str(file))
    result = await asyncio.to_thread(invoke, *words)
    assert sorted(lines_of(file)) == [b"a", b"\xff"]
    assert "1 keys with line ends" in result.stderr


async def test_snapshot_that_cannot_be(server: Server, invoke: Invoke, tmp_path: Path) -> None:
    """Each mistake has its exit code, and leaves no file."""
    words = ("snapshot", "-a", server.address)
    for more, code in (
        (("--keys-only",), 2),
        (("--node", "nobody"), 3),
        (("--file", str(tmp_path / "no" / "file")), 2),
        (("--file", str(tmp_path / "file"), "-n", "u" * 300), 2),
    ):
        assert (await asyncio.to_thread(invoke, *words, *more)).exit_code == code, more
    assert names(tmp_path) == []


async def test_loglevel(server: Server, invoke: Invoke) -> None:
    """Shown, changed for a time, and taken back."""
    words = ("loglevel", "-a", server.address)
    assert "info" in (await asyncio.to_thread(invoke, *words)).output
    result = await asyncio.to_thread(
        invoke, "loglevel", "debug", "-a", server.address, "--for", "10m", "--logger", "cachenode.node.drain"
    )
    assert result.exit_code == 0
    result = await asyncio.to_thread(invoke, *words, "-o", "json")
    [node] = json.loads(result.output)["nodes"]
    assert node["loggers"][0]["logger"] == "cachenode.node.drain"
    assert 500 < node["loggers"][0]["seconds"] <= 600
    result = await asyncio.to_thread(invoke, "loglevel", "reset", *words[1:], "--logger", "cachenode.node.drain")
    assert result.exit_code == 0
    assert levels.said(0) == {}


async def test_wrong_levels(server: Server, invoke: Invoke) -> None:
    """What makes no sense is wrong usage; what the node does not know, too."""
    for words in (["loud"], ["--for", "10m"], ["debug", "--for", "soon"], ["debug", "--logger", "grpc"]):
        assert (await asyncio.to_thread(invoke, "loglevel", *words, "-a", server.address)).exit_code == 2, words
    words = ["loglevel", "debug", "--node", "nobody", "-a", server.address]
    assert (await asyncio.to_thread(invoke, *words)).exit_code == 3
