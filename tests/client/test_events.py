"""Publishing events through both clients, the command line and the unary service, against a node with rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from typer.testing import CliRunner, Result

from cachenode.cli.main import app
from cachenode.server import Server
from cachenode_api.selectors import SelectorKind
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc, cache_pb2_grpc
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_client import CacheClient, CacheUnavailable, InvalidArgument, NodeError, Published
from cachenode_client.blocking import CacheClient as BlockingClient
from tests.support.server import free_port, running_server

RULES: list[dict[str, Any]] = [
    {"name": "user.deleted", "invalidates": ["user:{userId}", "user:{userId}:*"]},
    {"name": "prices", "tags": ["prices"], "namespace": "shop", "mode": "expire"},
]
TOML = """
[[event]]
name = "user.deleted"
invalidates = ["user:{userId}", "user:{userId}:*"]
[[event]]
name = "prices"
tags = ["prices"]
namespace = "shop"
mode = "expire"
"""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A node with two rules."""
    async with running_server(event=RULES, namespaces__shop__stale_s=60.0) as started:
        yield started


async def test_publish(server: Server) -> None:
    """What the rules say is untrue once the call has returned, and the answer says what that was."""
    async with CacheClient(server.address, timeout_s=10) as cache:
        for key in ("user:7", "user:7:posts", "user:8"):
            await cache.set(key, 1)
        done = await cache.publish("user.deleted", {"userId": 7}, event_id="a")
        assert (done.known, done.duplicate, done.found) == (True, False, 1)
        (each,) = done.invalidations
        assert (each.namespace, each.mode, each.keys) == ("default", "remove", (b"user:7",))
        assert [(one.kind, one.text) for one in each.selectors] == [(SelectorKind.PREFIX, b"user:7:")]
        assert "user" not in repr(each)
        assert await cache.get_many(["user:7", "user:7:posts", "user:8"]) == {"user:8": 1}
        assert (await cache.publish("user.deleted", {"userId": 7}, event_id="a")).duplicate
        assert await cache.publish("unheard.of") == Published(known=False, duplicate=False, found=0)
        await cache.set("tea", 12, tags=["prices"], namespace="shop")
        assert (await cache.publish("prices")).invalidations[0].mode == "expire"
        assert (await cache.lookup("tea", namespace="shop")).stale


async def test_what_cannot_be_told(server: Server) -> None:
    """Wrong arguments are refused before anything is sent, too broad events by the node."""
    async with CacheClient(server.address, timeout_s=10) as cache:
        calls: list[tuple[Any, Any, Any]] = [
            ("", {}, None),
            (7, {}, None),
            ("e", [1], None),
            ("e", {"a": object()}, None),
            ("e", {"a": float("nan")}, None),
            ("e", {}, ""),
            ("e", {}, "x" * 129),
            ("user.deleted\ud800", {}, None),
        ]
        for name, fields, event_id in calls:
            with pytest.raises(InvalidArgument):
                await cache.publish(name, fields, event_id=event_id)
        done = await cache.publish("user.deleted", {})  # user: has five bytes
        assert [one.text for one in done.invalidations[0].selectors] == [b"user:", b"user:*:*"]
        with pytest.raises(NodeError) as error:
            await cache.publish("no name")
        assert error.value.reason == "invalid_request"


async def test_settings_of_events() -> None:
    """Unknown events can be refused, and how much must be given is a setting."""
    options: dict[str, Any] = {"event": RULES, "events.min_prefix": 6, "events.unknown": "refuse"}
    async with running_server(**options) as server, CacheClient(server.address, timeout_s=10) as cache:
        with pytest.raises(NodeError) as error:
            await cache.publish("unheard.of")
        assert error.value.reason == "unknown_event"
        with pytest.raises(InvalidArgument, match="min_prefix") as broad:
            await cache.publish("user.deleted")
        assert broad.value.reason == "event_too_broad"
        stats = server.stats()
        assert {(each.source, each.outcome): each.count for each in stats.events} == {
            ("api", "unknown"): 1,
            ("api", "refused"): 1,
        }


async def test_nobody_there() -> None:
    """A cluster out of reach is an error, under on_error="miss" too."""
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.3, on_error="miss") as cache:
        with pytest.raises(CacheUnavailable):
            await cache.publish("user.deleted")


async def test_blocking_client(server: Server) -> None:
    """The same for threads."""

    def use() -> None:
        with BlockingClient(server.address, timeout_s=10) as cache:
            cache.set("user:7", 1)
            assert cache.publish("user.deleted", {"userId": 7}).found == 1
            assert cache.get("user:7") is None
            with pytest.raises(InvalidArgument):
                cache.publish("")

    await asyncio.to_thread(use)


async def test_unary_calls(server: Server) -> None:
    """Any language can publish, and see the rules and the counters."""
    async with aio.insecure_channel(server.address) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        answer = await cache.PublishEvent(pb.PublishEventRequest(name="user.deleted", payload=b'{"userId": "*"}'))
        assert list(answer.invalidations[0].keys) == [b"user:*"]
        assert list(answer.invalidations[0].selectors) == [b"user:*:"]
        with pytest.raises(aio.AioRpcError) as error:
            await cache.PublishEvent(pb.PublishEventRequest(name="user.deleted", payload=b"{"))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        listed = await admin.ListEvents(admin_pb2.ListEventsRequest())
        assert [(rule.name, rule.namespace, rule.mode) for rule in listed.rules] == [
            ("user.deleted", "default", 0),
            ("prices", "shop", 1),
        ]
        assert (listed.unknown, listed.min_prefix) == ("ignore", 3)
        stats = await admin.GetStats(admin_pb2.GetStatsRequest())
        assert {(each.source, each.outcome): each.count for each in stats.events} == {
            ("api", "done"): 1,
            ("api", "refused"): 1,
        }
        assert stats.event_invalidations == 2


async def invoke(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["events", *arguments], env={"COLUMNS": "120"})


async def test_command_line(server: Server) -> None:
    """Publish and list, for people and for programs."""
    at = ["--address", server.address]
    result = await invoke("publish", "user.deleted", '{"userId": 7}', "--id", "x", *at)
    assert (result.exit_code, "Invalidated 2 things:" in result.output) == (0, True), result.output
    assert "user:7:" in result.output
    result = await invoke("publish", "user.deleted", '{"userId": 7}', "--id", "x", *at, "-o", "json")
    document = json.loads(result.output)
    assert (document["known"], document["duplicate"], document["invalidations"][0]["keys"]) == (True, True, ["user:7"])
    result = await invoke("publish", "unheard.of", *at)
    assert (result.exit_code, "No rule names this event" in result.output) == (3, True)
    result = await invoke("publish", "user.deleted", "[1]", *at)
    assert result.exit_code == 2
    result = await invoke("list", *at)
    assert (result.exit_code, "user:{userId}:*" in result.output, "tag prices" in result.output) == (0, True, True)
    document = json.loads((await invoke("list", *at, "-o", "json")).output)
    assert [rule["name"] for rule in document["rules"]] == ["user.deleted", "prices"]
    assert (document["differing"], document["unknown"]) == ([], "ignore")


async def test_trying_without_a_node(tmp_path: Path) -> None:
    """`test` says what would go, from a file alone."""
    file = tmp_path / "node.toml"
    file.write_text(TOML, encoding="utf-8")
    config = ["--config", str(file)]
    result = await invoke("test", "user.deleted", '{"userId": 7}', *config)
    assert (result.exit_code, "Would invalidate 2 things:" in result.output) == (0, True), result.output
    document = json.loads((await invoke("test", "prices", *config, "-o", "json")).output)
    assert document == {
        "event": "prices",
        "known": True,
        "invalidations": [
            {
                "namespace": "shop",
                "mode": "expire",
                "keys": [],
                "selectors": [{"kind": "tag", "text": "prices"}],
            }
        ],
    }
    assert (await invoke("test", "unheard.of", *config)).exit_code == 3
    file.write_text(TOML + "[events]\nmin_prefix = 6\n", encoding="utf-8")
    result = await invoke("test", "user.deleted", *config)
    assert (result.exit_code, "min_prefix" in result.output) == (2, True)
