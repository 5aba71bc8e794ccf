"""What `RedisRegistry` does beyond the contract: real leases, several clients, servers that fail."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenode.adapters.redis_client import connect
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.errors import ConfigError, RegistryError
from cachenode_api.view import Member, View
from tests.support.redis_server import OWN_LEGS, RedisServer, server

A, B = Member("a", "1", "a:7401"), Member("b", "1", "b:7401")


@pytest.fixture(params=OWN_LEGS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test."""
    with server(tmp_path, request.param) as running:
        yield running


def registry_at(url: str, cluster: str = "", *, lease_s: float = 4.0, timeout_s: float = 5.0) -> RedisRegistry:
    client = connect(url, timeout_s=timeout_s, connect_timeout_s=timeout_s)
    return RedisRegistry(client, cluster or f"t{secrets.token_hex(6)}", lease_s=lease_s, timeout_s=timeout_s)


async def test_a_real_lease_ends(own: RedisServer) -> None:
    """By the server's own clock a member that stopped renewing is gone after its lease, not before."""
    registry = registry_at(own.url, lease_s=0.3)
    began = time.monotonic()
    view = (await registry.renew(A, None)).view
    view = (await registry.renew(B, view)).view
    while len(view.members) == 2:
        assert time.monotonic() < began + 10
        view = (await registry.renew(B, view)).view
    assert time.monotonic() - began > 0.25
    assert view.members == (B,)
    await registry.close()


async def test_clients_of_their_own_see_one_sequence(own: RedisServer) -> None:
    """Nodes with connections of their own join at once and end in one view; epochs are distinct."""
    members = [Member(f"n{number}", "1", f"n{number}:1") for number in range(6)]
    registries = [registry_at(own.url, "c") for _ in members]
    joined = await asyncio.gather(*(each.renew(me, None) for each, me in zip(registries, members, strict=True)))
    views = [renewal.view for renewal in joined]
    assert len({view.epoch for view in views}) == len(members)
    assert len({view.ring_seed for view in views}) == 1
    final = [(await each.renew(me, view)).view for each, me, view in zip(registries, members, views, strict=True)]
    assert set(final) == {max(final, key=lambda view: view.epoch)}
    for registry in registries:
        await registry.close()


async def test_clusters_are_apart(own: RedisServer) -> None:
    """Two clusters on one server do not meet, and their keys share a hash tag each."""
    one, two = registry_at(own.url, "one"), registry_at(own.url, "two")
    await one.renew(A, None)
    assert (await two.renew(B, None)).view.members == (B,)
    client = connect(own.url)
    keys = await client.keys("cn:*")
    assert sorted(keys) == sorted(
        b"cn:{%s}:%s" % (c, k) for c in (b"one", b"two") for k in (b"registry", b"members", b"leases")
    )
    await client.aclose()
    await one.close()
    await two.close()


async def test_restarted_server(own: RedisServer) -> None:
    """A registry whose server came back empty goes on from what its member knows, scripts included."""
    registry = registry_at(own.url)
    await registry.renew(A, None)
    view = (await registry.renew(B, None)).view
    own.restart()
    again = await renewed(registry, B, view)
    assert again.epoch > view.epoch
    assert (again.members, again.ring_seed) == (view.members, view.ring_seed)
    await registry.close()


async def test_frozen_and_killed_server(own: RedisServer) -> None:
    """A server that does not answer is a `RegistryError` within the limit, one that is gone at once."""
    registry = registry_at(own.url, timeout_s=0.2)
    await renewed(registry, A, None)
    own.freeze()
    began = time.monotonic()
    with pytest.raises(RegistryError, match=r"cannot be reached: no answer within 0\.2 s"):
        await registry.renew(A, None)
    with pytest.raises(RegistryError):
        await registry.leave(A)
    assert time.monotonic() - began < 3.0
    own.kill()
    with pytest.raises(RegistryError, match="cannot be reached"):
        await registry.renew(A, None)
    await registry.close()


async def test_full_server_still_keeps_members(own: RedisServer) -> None:
    """A server without room for values has room for the registry."""
    registry = registry_at(own.url)
    await registry._client.config_set("maxmemory", 1)
    await registry.renew(A, None)
    view = (await registry.renew(B, None)).view
    assert len(view.members) == 2
    await registry.leave(A)
    await registry.close()


@pytest.mark.parametrize("kind", ["wrong type", "wrong record", "wrong weight"])
async def test_foreign_data_is_an_error(own: RedisServer, kind: str) -> None:
    """Keys that hold something else are a `RegistryError`, not a crash and not a view."""
    registry = registry_at(own.url, "c")
    if kind == "wrong type":
        await registry._client.set("cn:{c}:members", "x")
    else:
        record = b"[1]" if kind == "wrong record" else b'["x", "1", "x:1", "", 0]'
        await registry._client.hset("cn:{c}:members", "x", record)
    with pytest.raises(RegistryError):
        await registry.renew(A, None)
    await registry.close()


async def test_cluster_name_is_checked() -> None:
    """A name with a meaning in keys is refused."""
    with pytest.raises(ConfigError, match="cluster"):
        registry_at("unix:///run/s", "a}b")


async def test_lost_answer_counts_as_a_replaced_lease(own: RedisServer) -> None:
    """Who got no answer while joining may have replaced a live lease without hearing of it, so it is told so."""
    first = registry_at(own.url, "c")
    await first.renew(A, None)
    registry = registry_at(own.url, "c", timeout_s=0.2)
    successor = Member("a", "2", A.address)
    own.freeze()
    with pytest.raises(RegistryError):
        await registry.renew(successor, None)
    own.thaw()
    deadline = time.monotonic() + 10
    while True:
        try:
            renewal = await registry.renew(successor, None)
            break
        except RegistryError:
            assert time.monotonic() < deadline
    assert renewal.replaced
    assert not (await registry.renew(successor, renewal.view)).replaced
    for each in (first, registry):
        await each.close()


async def renewed(registry: RedisRegistry, member: Member, known: View | None) -> View:
    """Renew as a node does: again and again until it works."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return (await registry.renew(member, known)).view
        except RegistryError:
            assert time.monotonic() < deadline
