"""The link between regions over gRPC: who is let in, over which address, with which certificate."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.cli.certs import make_certificates
from cachenode.core.access import hash_of
from cachenode.core.entries import Batch, Operation
from cachenode.core.stats import NamespaceCounters
from cachenode.server import Server
from cachenode_api.v1 import region_pb2, region_pb2_grpc
from cachenode_client import CacheClient
from tests.rpc.conftest import StartServer
from tests.support.cluster import fetch, put, run
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, server

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Valkey for all regions of these tests: clusters of different names have nothing in common."""
    with server(tmp_path_factory.mktemp("l2"), "valkey") as running:
        yield running


def options(name: str, redis: RedisServer, peers: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    return {
        "regions.name": name,
        "regions.peers": peers,
        "namespaces.users.regions": True,
        "cluster.name": f"{name}-{folder.name}",
        "l2.url": redis.url,
        "l2.timeout_s": 1.0,
    }


def tokens(folder: Path, role: str) -> dict[str, Any]:
    """Make a file of tokens, one of a role for the other region; return the settings of who asks for them."""
    lines = ""
    for name, given in (("own", "peer"), ("other", role)):
        (folder / name).write_text(f"{name}-token\n")
        lines += f'[[token]]\nname = "{name}"\nsha256 = "{hash_of(f"{name}-token")}"\nrole = "{given}"\n'
    (folder / "tokens.toml").write_text(lines)
    return {"auth.tokens_file": str(folder / "tokens.toml"), "auth.peer_token_file": str(folder / "own")}


def tls(folder: Path) -> dict[str, Any]:
    files = {"tls.cert_file": "node.pem", "tls.key_file": "node-key.pem", "tls.ca_file": "ca.pem"}
    return {setting: str(folder / file) for setting, file in files.items()} | {"tls.verify_clients": True}


async def arrives(east: Server, west: Server) -> None:
    """Return when what becomes untrue in east does in west."""
    await eventually(lambda: east.stats().regions[0].connected)
    await put(west.node, b"k", b"v", namespace="users")
    assert not (await run(east.node, Batch(Operation.INVALIDATE, "users", [b"k"]))).failures
    await eventually(lambda: west.stats().origin_regions[0].applied == 1)
    assert await fetch(west.node, b"k", "users") is None


async def test_next_address_is_tried(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> None:
    """Nobody is at the first one."""
    west = await start_server(options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path))
    peer = {"name": "west", "addresses": [NOWHERE, west.address]}
    east = await start_server(options("east", redis, [peer], tmp_path))
    await arrives(east, west)


async def test_regions_talk_tls_and_show_tokens(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> None:
    """With the nodes' certificates, and the token of the role peer that the other region knows."""
    make_certificates(tmp_path)
    asks = tls(tmp_path) | tokens(tmp_path, "peer")
    west = await start_server(asks | options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path))
    peer = {"name": "west", "addresses": [west.address], "token_file": str(tmp_path / "other")}
    east = await start_server(tls(tmp_path) | options("east", redis, [peer], tmp_path))
    await arrives(east, west)


@pytest.mark.parametrize("role", ["admin", None])
async def test_region_without_the_right_token_is_refused(
    start_server: StartServer, redis: RedisServer, tmp_path: Path, role: str | None
) -> None:
    """None, or one for something else."""
    asks = tokens(tmp_path, role or "peer")
    west = await start_server(asks | options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path))
    peer = {"name": "west", "addresses": [west.address]} | ({"token_file": str(tmp_path / "other")} if role else {})
    east = await start_server(options("east", redis, [peer], tmp_path))
    await eventually(lambda: east.stats().regions[0].state == "refused")
    assert "token" in east.stats().regions[0].why


async def test_other_region_than_meant_refuses(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> None:
    """An address was given to the wrong name: nothing is told there."""
    west = await start_server(options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path))
    peer = {"name": "south", "addresses": [west.address]}
    east = await start_server(options("east", redis, [peer], tmp_path))
    await eventually(lambda: east.stats().regions[0].state == "refused")
    assert "another region" in east.stats().regions[0].why


async def test_node_of_no_region_refuses(server: Server) -> None:
    """It says what would make it one."""
    async with aio.insecure_channel(server.address) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await region_pb2_grpc.RegionServiceStub(channel).Position(region_pb2.PositionRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "regions.name" in (refused.value.details() or "")


async def test_malformed_entries_are_refused(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> None:
    """Nothing is acted on."""
    west = await start_server(options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path))
    entry = region_pb2.RegionEntry(namespace="users", texts=[b"a", b"b"], kinds=[1])
    request = region_pb2.RelayRequest(origin="east", target="west", outbox="o", entries=[entry], head=1)
    async with aio.insecure_channel(west.address) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await region_pb2_grpc.RegionServiceStub(channel).Relay(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def database(path: Path, name: str) -> dict[str, Any]:
    """Make a database with one user; return the settings of a namespace that is loaded from it."""
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        made.execute("CREATE TABLE loads (key TEXT)")
        made.execute("INSERT INTO users VALUES (7, ?)", (name,))
    return {
        "origins.db.loader": "tests.support.loaders:Database",
        "origins.db.batch_keys": 100,
        "origins.db.options": {"path": str(path)},
        "namespaces.users.origin": "db",
        "namespaces.users.remote_marker_s": 60,
        "namespaces.users.primary_region": "east",
    }


async def test_marked_key_is_loaded_in_the_other_region(
    start_server: StartServer, redis: RedisServer, tmp_path: Path
) -> None:
    """West's database has not heard of the change: its clients get, and it keeps, what east's has.

    When east is gone they get what west's has, and nobody keeps that.
    """
    async with Proxy() as way:
        there = options("west", redis, [{"name": "east", "addresses": way.address}], tmp_path)
        west = await start_server(there | database(tmp_path / "w", "old"))
        here = options("east", redis, [{"name": "west", "addresses": west.address}], tmp_path)
        east = await start_server(here | database(tmp_path / "e", "new"))
        way.target = east.address
        await eventually(lambda: west.stats().origin_regions[0].gaps == 1)
        async with CacheClient(west.address, namespace="users", timeout_s=10.0) as cache:
            assert not (await run(east.node, Batch(Operation.INVALIDATE, "users", [b"user:7"]))).failures
            await eventually(lambda: west.stats().origin_regions[0].applied == 1)
            assert await cache.get("user:7") == {"id": 7, "name": "new"}
            assert _users(west).remote_loads == 1
            await eventually(lambda: east.stats().origin_regions[0].loads == 1)
            way.cut()
            assert await cache.get("user:7") == {"id": 7, "name": "new"}
            await run(west.node, Batch(Operation.INVALIDATE, "users", [b"user:7"], region="east"))
            for failures in (1, 2):
                assert await cache.get("user:7") == {"id": 7, "name": "old"}
                assert _users(west).remote_load_failures == failures
            way.restore()
            await eventually(lambda: _gets(cache, "new"))


async def _gets(cache: CacheClient, name: str) -> bool:
    found = await cache.get("user:7")
    return bool(found["name"] == name)


def _users(server: Server) -> NamespaceCounters:
    [users] = [each for each in server.stats().namespaces if each.name == "users"]
    return users


@pytest.mark.parametrize(("namespace", "key"), [("users", b""), ("users", b"k" * 2_000), ("own", b"k")])
async def test_what_is_not_shared_is_not_loaded(
    start_server: StartServer, redis: RedisServer, tmp_path: Path, namespace: str, key: bytes
) -> None:
    """Nor what is no key; that a load has failed is an answer."""
    settings = options("west", redis, [{"name": "east", "addresses": NOWHERE}], tmp_path)
    west = await start_server(settings | database(tmp_path / "w", "old"))
    request = region_pb2.LoadRequest(origin="east", target="west", namespace=namespace, key=key)
    async with aio.insecure_channel(west.address) as channel:
        stub = region_pb2_grpc.RegionServiceStub(channel)
        if namespace == "own":
            assert "not shared" in (await stub.Load(request)).failure
            return
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.Load(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_written_value_is_brought_along(start_server: StartServer, redis: RedisServer, tmp_path: Path) -> None:
    """West has it before anybody asks, and nobody in west has written it."""
    wants = {"namespaces.users.region_value_bytes": 100}
    async with Proxy() as way:
        west = await start_server(
            options("west", redis, [{"name": "east", "addresses": way.address}], tmp_path) | wants
        )
        east = await start_server(options("east", redis, [{"name": "west", "addresses": west.address}], tmp_path))
        way.target = east.address
        await eventually(lambda: west.stats().origin_regions[0].gaps == 1 and west.stats().regions[0].connected)
        await put(east.node, b"k", b"new", namespace="users", ttl_ms=60_000)
        await put(east.node, b"l", b"x" * 101, namespace="users")
        await eventually(lambda: (_users(west).remote_values, _users(west).remote_values_missed) == (1, 1))
        assert await fetch(west.node, b"k", "users") == b"new"
        assert await fetch(west.node, b"l", "users") is None
