"""``writebehind``, against a node that serves the admin calls about its queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import aio
from typer.testing import CliRunner

from cachenode.cli.main import app
from cachenode.core.stats import NamespaceCounters
from cachenode.core.write_behind import WriteBehindLimits
from cachenode.errors import OriginError
from cachenode.node.service import Node
from cachenode.rpc.admin import AdminService
from cachenode_api.v1 import admin_pb2_grpc
from cachenode_api.view import Member, View
from tests.support.behind import BEHIND, Site
from tests.support.cluster import SEED, fetch, put

VALUE = b"secret-value"
_COUNTED = [field.name for field in fields(NamespaceCounters) if field.default is MISSING and field.name != "name"]


class Served:
    """A node that writes behind, and the commands against it."""

    def __init__(self, site: Site, node: Node, address: str) -> None:
        self.site = site
        self.node = node
        self.address = address

    async def run(self, *words: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it wrote."""
        arguments = ["writebehind", *words, "--address", self.address]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"COLUMNS": "200"})
        assert VALUE.decode() not in result.output
        return result.exit_code, result.output

    async def json(self, *words: str) -> Any:
        """Run a command and return its document."""
        return json.loads((await self.run(*words, "-o", "json"))[1])

    async def poison(self, *keys: bytes) -> None:
        """Let the origin refuse writes for ever."""
        self.site.sink.refuses = lambda write: OriginError("IntegrityError", again=False) if write.value else None
        for key in keys:
            await put(self.node, key, VALUE, namespace=BEHIND)
        await self.site.drain()
        self.site.sink.refuses = lambda _: None


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A node with its admin service on a free port."""
    server = aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    site = Site()
    node = await site.node(view=View(1, SEED, (Member("a", "1", address),)), limits=WriteBehindLimits(max_backlog=5))

    def stats() -> Any:
        found = site.drains["a"].counters(BEHIND)
        assert found is not None
        zeros: Any = dict.fromkeys(_COUNTED, 0)
        counters = NamespaceCounters(
            name=BEHIND,
            **zeros,
            queue_waiting=found.waiting,
            queue_applied=found.applied,
            queue_dead_letters=found.dead,
        )
        return SimpleNamespace(namespaces=[counters])

    unused: Any = None
    service = AdminService(node, stats, dict, unused, unused)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    await server.start()
    yield Served(site, node, address)
    await server.stop(None)


async def test_status(served: Served) -> None:
    """What waits is shown, with what was written; the exit code says whether somebody has to look."""
    await put(served.node, b"a", VALUE, namespace=BEHIND)
    await served.site.drain()
    await put(served.node, b"b", VALUE, namespace=BEHIND)
    code, text = await served.run("status")
    assert (code, BEHIND in text) == (0, True)
    (queue,) = (await served.json("status", "-n", BEHIND))["queues"]
    assert (queue["waiting"], queue["applied"], queue["dead_letters"], queue["full"]) == (1, 1, 0, False)
    await served.poison(b"c")
    code, text = await served.run("status")
    assert code == 1
    (queue,) = (await served.json("status"))["queues"]
    assert (queue["dead_letters"], queue["given_up"]) == (2, 2)


async def test_dead_letters_are_shown_without_values(served: Served) -> None:
    """Each letter has its key, what was to be done, and why it was refused."""
    assert "no dead letters" in (await served.run("dead", "-n", BEHIND))[1]
    await served.poison(b"a", b"b", b"c")
    code, text = await served.run("dead", "-n", BEHIND, "--limit", "2")
    assert (code, "IntegrityError" in text, "--after" in text) == (0, True, True)
    letters = (await served.json("dead", "-n", BEHIND))["letters"]
    assert {letter["key"] for letter in letters} == {"a", "b", "c"}
    assert {(letter["operation"], letter["size"], letter["reason"]) for letter in letters} == {
        ("set", len(VALUE), "IntegrityError")
    }
    rest = (await served.json("dead", "-n", BEHIND, "--after", letters[0]["id"]))["letters"]
    assert rest == letters[1:]


async def test_dead_letters_are_replayed(served: Served) -> None:
    """A letter that is queued again is written, and what was cached of its key meanwhile goes."""
    await served.poison(b"a", b"b", b"c")
    (first, *_) = (await served.json("dead", "-n", BEHIND))["letters"]
    namespace = served.node.namespaces.get(BEHIND)
    assert namespace is not None
    assert await served.json("replay", "-n", BEHIND, first["id"]) == {"namespace": BEHIND, "queued": 1, "outdated": 0}
    assert await fetch(served.node, first["key"].encode(), BEHIND) is None, "it is invalidated"
    assert served.site.waiting() == {first["key"].encode()}
    code, text = await served.run("replay", "-n", BEHIND, "--all", "--yes")
    assert (code, "Queued 2 again" in text) == (0, True)
    served.site.clock.advance(1.0)
    await served.site.drain()
    assert {served.site.sink.value(key) for key in (b"a", b"b", b"c")} == {VALUE}
    code, text = await served.run("replay", "-n", BEHIND, first["id"])
    assert (code, "not there" in text) == (1, True)


async def test_dead_letters_are_dropped(served: Served) -> None:
    """A letter that is dropped is gone, and makes room."""
    await served.poison(b"a", b"b", b"c")
    (first, *_) = (await served.json("dead", "-n", BEHIND))["letters"]
    assert (await served.json("drop", "-n", BEHIND, first["id"]))["dropped"] == 1
    code, text = await served.run("drop", "-n", BEHIND, "--all", "--yes")
    assert (code, "Dropped 2." in text) == (0, True)
    assert (await served.json("dead", "-n", BEHIND))["letters"] == []
    assert (await served.run("drop", "-n", BEHIND, first["id"]))[0] == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("replay", "-n", BEHIND), 2, "by their ids, or say --all"),
        (("drop", "-n", BEHIND, "1-0", "--all"), 2, "by their ids, or say --all"),
        (("drop", "-n", BEHIND, "secret"), 2, "not one of a dead letter"),
        (("dead", "-n", "default"), 2, "does not write behind"),
        (("status", "-n", "default"), 2, "does not write behind"),
        (("dead", "-n", "no/such/name"), 2, "none of this name"),
    ],
)
async def test_wrong_usage(served: Served, words: tuple[str, ...], code: int, text: str) -> None:
    """What cannot be done is said, with the exit code of wrong usage."""
    found, output = await served.run(*words)
    assert (found, text in " ".join(output.split())) == (code, True), output


async def test_queue_that_is_away(served: Served) -> None:
    """A queue that does not answer is a failure, not an empty queue."""
    served.site.queue.down = True
    assert (await served.run("dead", "-n", BEHIND))[0] == 4
    assert (await served.run("drop", "-n", BEHIND, "--all", "--yes"))[0] == 4
    assert (await served.run("replay", "-n", BEHIND, "--all", "--yes"))[0] == 4
    code, text = await served.run("status")
    assert (code, "no node can tell" in text) == (4, True)
