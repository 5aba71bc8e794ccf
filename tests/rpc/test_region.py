"""The link between regions over gRPC: who is let in, over which address, with which certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.cli.certs import make_certificates
from cachenode.core.access import hash_of
from cachenode.core.entries import Batch, Operation
from cachenode.server import Server
from cachenode_api.v1 import region_pb2, region_pb2_grpc
from tests.rpc.conftest import StartServer
from tests.support.cluster import fetch, put, run
from tests.support.eventually import eventually
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
