from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from cachenode.cli import watch
from cachenode.cli.options import Format
from cachenode.server import Server
from cachenode_api.selectors import SelectorKind, make_selector
from cachenode_client import CacheClient, Invalidated, Reset
from tests.support.eventually import eventually

NOON = datetime(2024, 5, 17, 12, 0, 3, 45_678, tzinfo=UTC)


@asynccontextmanager
async def watching(server: Server, namespace: str, output: Format) -> AsyncIterator[CacheClient]:
    """Run the command until the block ends; yield a client once it watches."""
    command = asyncio.create_task(watch._watch(server.address, namespace, 10.0, output))
    try:
        await eventually(lambda: server.node.invalidations.log._news)
        async with CacheClient(server.address, timeout_s=10) as cache:
            yield cache
    finally:
        command.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await command


@pytest.mark.parametrize(("namespace", "shown"), [("*", ["one", "two"]), ("other", ["two"])])
async def test_events_are_shown_as_they_come(
    server: Server, capsys: pytest.CaptureFixture[str], namespace: str, shown: list[str]
) -> None:
    """Each event is a line at once; what is watched is said on standard error; without a namespace it is all."""
    async with watching(server, namespace, Format.TABLE) as cache:
        await cache.set("one", 1)
        await cache.set("two", 1, namespace="other")
        lines: list[str] = []

        def all_there() -> bool:
            lines.extend(capsys.readouterr().out.splitlines())
            return len(lines) >= len(shown)

        await eventually(all_there)
    assert [line.split()[-2:] for line in lines] == [["key", key] for key in shown]


async def test_json_is_a_document_a_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read line by line."""
    async with watching(server, "*", Format.JSON) as cache:
        said: list[str] = []

        def it_says_what_it_watches() -> bool:
            said.append(capsys.readouterr().err)
            return "Watching all namespaces on 1 node" in "".join(said)

        await eventually(it_says_what_it_watches)
        await cache.invalidate("k", prefix="user:")
        lines: list[str] = []

        def all_there() -> bool:
            lines.extend(capsys.readouterr().out.splitlines())
            return len(lines) >= 2

        await eventually(all_there)
    first, second = map(json.loads, lines)
    assert first.pop("time") > 1_700_000_000
    assert first == {
        "node": "node-0",
        "event": "invalidated",
        "sequence": 1,
        "namespace": "default",
        "keys": ["k"],
        "selectors": [],
    }
    assert second["selectors"] == [{"kind": "prefix", "text": "user:"}]


def test_lines_for_people() -> None:
    """Many keys are cut short, what would move the cursor is written out, and a reset says what it means."""
    many = Invalidated("node-1", 1, "default", tuple(b"k%d" % number for number in range(1_234)))
    assert watch._line(many, NOON).startswith("12:00:03.045  node-1      default       keys k0, k1, ")
    assert watch._line(many, NOON).endswith("k9, and 1,224 more")
    selectors = tuple(make_selector(kind, b"*") for kind in SelectorKind)
    line = watch._line(Invalidated("node-1", 2, "n", (b"a\x1b\n",), selectors), NOON)
    assert line.endswith("n             key a\\x1b\\x0a, prefix *, pattern *, tag *, everything")
    assert watch._line(Reset("node-2"), NOON).endswith("node-2      reset: events may have been missed")
    assert "unknown" in watch._line(Reset(""), NOON)


def test_documents_for_programs() -> None:
    """Keys that are no text are in base64, and a reset is an event of its own."""
    document = json.loads(watch._document(Invalidated("node-1", 1, "n", (b"\xff",))))
    assert document["keys"] == [{"base64": "/w=="}]
    document = json.loads(watch._document(Reset("node-1")))
    assert (document["event"], document["node"]) == ("reset", "node-1")
