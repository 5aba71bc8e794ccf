"""The cluster as a client sees it: seeds, views, members that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.server import Server
from cachenode_api.ring import Ring
from cachenode_client import CacheClient, CacheUnavailable
from cachenode_client._backoff import Schedule
from cachenode_client._channels import Channels
from cachenode_client._router import Router
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, record, scripted_node, view_message
from tests.support.server import free_port, running_server


def router_of(client: CacheClient) -> Router:
    """Return the router of a client that has connected."""
    return client._engine.router


def key_of(client: CacheClient, owner: str) -> bytes:
    """Return a key that a member owns in the client's view."""
    view = router_of(client).view
    assert view is not None
    ring = Ring(view)
    return next(key for number in range(10_000) if ring.owner(key := b"k%d" % number) == owner)


# Seeds.


async def test_first_seed_is_dead(server: Server) -> None:
    """A seed where nobody listens costs a moment, wherever it stands in the list."""
    seeds = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()},{server.address}"
    async with CacheClient(seeds, timeout_s=10) as client:
        assert await client.set("k", 1)
        assert await client.get("k") == 1


async def test_dns_name(server: Server) -> None:
    """The addresses behind a DNS name are the seeds; those where nobody listens do no harm."""
    port = server.address.rpartition(":")[2]
    async with CacheClient(f"dns:///localhost:{port}", timeout_s=10) as client:
        assert await client.set("k", 1)
        assert await client.get("k") == 1


async def test_dns_name_that_does_not_exist() -> None:
    """The error says that the name could not be looked up."""
    async with CacheClient("dns:///no-such-host.invalid:7401", timeout_s=1) as client:
        with pytest.raises(CacheUnavailable, match="No node can be reached"):
            await client.get("k")
        assert "DNS look-up failed" in router_of(client)._last_error


async def test_server_starts_after_the_client() -> None:
    """A call waits, within its time, for a node that is not there yet."""
    port = free_port()
    async with CacheClient(f"127.0.0.1:{port}", timeout_s=20) as client:
        call = asyncio.create_task(client.get("k", "absent"))
        await eventually(lambda: client._engine)
        await eventually(lambda: router_of(client)._last_error != "No node has answered yet")
        async with running_server(node__listen=f"127.0.0.1:{port}"):
            assert await call == "absent"


async def test_server_restarts_on_its_port() -> None:
    """The next life of a cluster, whose epochs begin anew, is taken; what the first one kept is gone. Scenario 10."""
    port = free_port()
    async with CacheClient(f"127.0.0.1:{port}", timeout_s=20) as client:
        async with running_server(node__listen=f"127.0.0.1:{port}"):
            await client.set("k", 1)
            former = await client.view()
        await eventually(lambda: not router_of(client).ready_count)
        async with running_server(node__listen=f"127.0.0.1:{port}"):
            assert await client.get("k", "gone") == "gone"
            assert await client.set("k", 2)
            assert await client.get("k") == 2
            assert (await client.view()).members != former.members


# Real members that come and go.


async def test_members_join_and_leave() -> None:
    """The client holds a session to each member of the newest view, and keys go to their owners."""
    ports = [free_port(), free_port()]
    options: dict[str, Any] = {
        "cluster.discovery": "static",
        "cluster.seeds": [f"127.0.0.1:{port}" for port in ports],
        "cluster.bootstrap_wait_s": 0.2,
        "cluster.lease_s": 1.0,
        "cluster.heartbeat_s": 0.1,
    }

    def node(at: int) -> Any:
        return running_server(**options, node__id=f"node-{at}", node__listen=f"127.0.0.1:{ports[at]}")

    async with node(0) as first, CacheClient(first.address, timeout_s=10) as client:
        assert await client.set("k", 1)
        assert router_of(client).only is not None
        async with node(1) as second:
            await eventually(lambda: router_of(client).ready_count == 2)
            assert [member.id for member in (await client.view()).members] == ["node-0", "node-1"]
            assert router_of(client).only is None
            for name, owner, other in (("node-0", first, second), ("node-1", second, first)):
                key = key_of(client, name)
                forwarded = owner.node.forwarded, other.node.forwarded
                await client.set(key, name)
                assert await client.get(key) == name
                assert (owner.node.forwarded, other.node.forwarded) == forwarded
            keys = [f"many-{number}" for number in range(200)]
            assert len(await client.set_many(dict.fromkeys(keys, 1))) == 200
            assert len(await client.get_many(keys)) == 200
        await eventually(lambda: len(router_of(client).view.members) == 1)
        assert await client.set(b"after", 1)
        assert await client.get(b"after") == 1
        assert [member.id for member in (await client.view()).members] == ["node-0"]
        assert router_of(client).only is not None


async def test_client_with_an_old_view_is_served_through_one_node_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that learns of no new member asks the wrong node; that asks the owner, once, and nobody else.

    Scenario 28: the node forwards instead of sending the client away, so there is one hop more and no loop.
    """
    ports = [free_port(), free_port()]
    options: dict[str, Any] = {
        "cluster.discovery": "static",
        "cluster.seeds": [f"127.0.0.1:{port}" for port in ports],
        "cluster.bootstrap_wait_s": 0.2,
    }
    async with running_server(**options, node__id="node-0", node__listen=f"127.0.0.1:{ports[0]}") as first:
        async with CacheClient(first.address, timeout_s=10) as late, CacheClient(first.address, timeout_s=10) as fresh:
            await late.view()
            monkeypatch.setattr(router_of(late), "_take_view", lambda _: None)
            async with running_server(**options, node__id="node-1", node__listen=f"127.0.0.1:{ports[1]}") as second:
                await fresh.view()
                await eventually(lambda: router_of(fresh).ready_count == 2)
                ring = Ring(await fresh.view())
                keys = [b"k%d" % number for number in range(500)]
                away = sum(ring.owner(key) == "node-1" for key in keys)
                for number, key in enumerate(keys):
                    await late.set(key, number)
                assert (first.node.forwarded, second.node.forwarded) == (away, 0)
                for number, key in enumerate(keys):
                    assert await late.get(key) == number
                assert (first.node.forwarded, second.node.forwarded) == (2 * away, 0)
                assert await late.get_many(keys) == {key: number for number, key in enumerate(keys)}
                assert (first.node.forwarded, second.node.forwarded) == (3 * away, 0)
                assert await fresh.get_many(keys) == {key: number for number, key in enumerate(keys)}
                assert (first.node.forwarded, second.node.forwarded) == (3 * away, 0)
                assert late.stats()["retries"] == 0
                assert late.stats()["nodes_connected"] == 1


# Views and nodes that a test writes.


async def test_view_names_another_node(scripted: ScriptedNode) -> None:
    """A view with a member more makes the client connect to it and send it the keys that it owns."""
    async with scripted_node("node-1") as other, CacheClient(scripted.address, timeout_s=10) as client:
        other.view = view_message(2, (scripted.name, scripted.address), (other.name, other.address))
        await client.view()
        await scripted.send(view=other.view)
        await eventually(lambda: router_of(client).ready_count == 2)
        for node in (scripted, other):
            call = asyncio.create_task(client.get(key_of(client, node.name)))
            await node.answer([node.name.encode()])
            assert await call == node.name.encode()


async def test_older_view_is_ignored(scripted: ScriptedNode) -> None:
    """A view of a lower epoch than the client's, from a node that is late, changes nothing."""
    scripted.view = view_message(5, (scripted.name, scripted.address))
    async with CacheClient(scripted.address, timeout_s=10) as client:
        assert (await client.view()).epoch == 5
        await scripted.send(view=view_message(4, (scripted.name, scripted.address), ("node-9", "127.0.0.1:1")))
        await scripted.send(view=view_message(6, (scripted.name, scripted.address)))
        await eventually(lambda: router_of(client).view.epoch == 6)
        assert "node-9" not in "".join(router_of(client)._dialers)


async def test_view_that_cannot_be_used_is_ignored(scripted: ScriptedNode) -> None:
    """A view with a ring that this release does not know is left; the former one stays in use."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        unknown = view_message(2, (scripted.name, scripted.address))
        unknown.ring_hash = "of-the-future"
        await scripted.send(view=unknown)
        call = asyncio.create_task(client.get("k"))
        await scripted.answer([b"v"])
        assert await call == b"v"
        assert (await client.view()).epoch == 1


async def test_draining_node_gets_no_new_calls(scripted: ScriptedNode) -> None:
    """A node that leaves answers what it has; new calls go to the others at once."""
    async with scripted_node("node-1") as other, CacheClient(scripted.address, timeout_s=10) as client:
        scripted.view = other.view = view_message(1, (scripted.name, scripted.address), (other.name, other.address))
        await client.view()
        await eventually(lambda: router_of(client).ready_count == 2)
        key = key_of(client, scripted.name)
        before = asyncio.create_task(client.get(key))
        batch = await scripted.next_batch()
        await scripted.send(draining=True)
        await eventually(lambda: router_of(client).ready_count == 1)
        after = asyncio.create_task(client.get(key))
        await other.answer([b"after"])
        await scripted.reply(batch, records=[record(b"before")])
        assert [await before, await after] == [b"before", b"after"]


async def test_member_that_restarts_is_dialled_as_the_new_one(scripted: ScriptedNode) -> None:
    """Who dials a member that has left stops, so that the session to its successor at the same address is not its."""
    async with scripted_node("node-1") as other, CacheClient(scripted.address, timeout_s=10) as client:
        other.greets.clear()
        scripted.view = view_message(1, (scripted.name, scripted.address), (other.name, other.address))
        await client.view()
        router = router_of(client)
        await eventually(lambda: other.sessions == 1)
        former = router._dialers[f"node-1 1 {other.address}"]
        other.view = view_message(2, (scripted.name, scripted.address), (other.name, other.address))
        other.view.members[1].incarnation = "2"
        await scripted.send(view=other.view)
        await eventually(former.done)
        other.greets.set()
        await eventually(lambda: router.ready_count == 2)
        assert router._sessions[router._ready["node-1"]] is router._dialers[f"node-1 2 {other.address}"]


async def test_owner_out_of_reach_is_replaced(scripted: ScriptedNode) -> None:
    """While the owner of a key has no session, any other node is asked."""
    scripted.view = view_message(1, (scripted.name, scripted.address), ("node-1", f"127.0.0.1:{free_port()}"))
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        call = asyncio.create_task(client.get(key_of(client, "node-1")))
        await scripted.answer([b"v"])
        assert await call == b"v"


async def test_invalidation_waits_for_a_node_within_its_time(scripted: ScriptedNode) -> None:
    """What it took to reach a node is no longer there for the answer."""
    scripted.greets.clear()
    async with CacheClient(scripted.address, timeout_s=10) as client:
        call = asyncio.create_task(client.invalidate(prefix="k"))
        await eventually(lambda: scripted.sessions == 1)
        scripted.greets.set()
        batch = await scripted.next_batch()
        assert 0 < batch.timeout_ms < 10_000
        await scripted.reply(batch, versions=[1])
        await call


@pytest.mark.parametrize("many", [False, True])
async def test_load_waits_for_a_node_within_its_time(scripted: ScriptedNode, many: bool) -> None:
    """The same for what may take long because others load: the call has one time, not one for each part."""
    scripted.greets.clear()
    async with CacheClient(scripted.address, timeout_s=10) as client:
        asking: Coroutine[Any, Any, object] = client.get_or_load("k", int)
        if many:
            asking.close()
            asking = client.get_or_load_many(["k"], lambda keys: dict.fromkeys(keys, 1))
        call = asyncio.create_task(asking)
        asked_at = time.monotonic()
        await eventually(lambda: scripted.sessions == 1 and time.monotonic() > asked_at + 0.02)
        scripted.greets.set()
        batch = await scripted.answer([b"v"])
        assert 0 < batch.timeout_ms < 10_000
        await call


async def test_many_keys_go_to_their_owners(scripted: ScriptedNode) -> None:
    """A call with many keys is a batch per owner, and the results are put together again."""
    async with scripted_node("node-1") as other, CacheClient(scripted.address, timeout_s=10) as client:
        scripted.view = other.view = view_message(1, (scripted.name, scripted.address), (other.name, other.address))
        await client.view()
        await eventually(lambda: router_of(client).ready_count == 2)
        mine, theirs = key_of(client, scripted.name), key_of(client, other.name)
        call = asyncio.create_task(client.get_many([theirs, mine]))
        assert list((await other.answer([b"theirs"])).keys) == [theirs]
        assert list((await scripted.answer([b"mine"])).keys) == [mine]
        assert await call == {theirs: b"theirs", mine: b"mine"}


async def test_close_ends_every_session(scripted: ScriptedNode) -> None:
    """Nothing of a client runs on after it is closed, also while it looks for nodes in vain."""
    async with scripted_node("node-1") as other:
        scripted.view = view_message(
            1, (scripted.name, scripted.address), (other.name, other.address), ("node-2", f"127.0.0.1:{free_port()}")
        )
        before = asyncio.all_tasks()
        client = CacheClient(f"{scripted.address},127.0.0.1:{free_port()}", timeout_s=10)
        await client.view()
        began = time.monotonic()
        await client.aclose()
        assert time.monotonic() - began < 5
        mine = {task for task in asyncio.all_tasks() - before if "cachenode_client" in repr(task.get_coro())}
        assert mine == set()


async def test_connected_client_does_not_poll(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps the sessions sleeps until one ends: a process may have hundreds of clients that do nothing."""
    pauses: list[int] = []

    class Counted(Schedule):
        def limit_s(self, retry: int) -> float:
            pauses.append(retry)
            return 0.0

    monkeypatch.setattr("cachenode_client._router._REDIAL", Counted(first_s=0.1, max_s=1.0, retries=None))
    async with CacheClient(server.address, timeout_s=10) as client:
        await client.view()
        for _ in range(50):
            await client.get("k")
        before = len(pauses)
        assert before <= 3
        [session] = router_of(client)._sessions
        session._on_end(session)  # and they wake when there is something to do
        await eventually(lambda: len(pauses) > before)


async def test_idle_session_rests(server: Server) -> None:
    """With no copies and nothing under way a session sends no heartbeats for a while; a call ends its rest."""
    async with CacheClient(server.address, timeout_s=10) as client:
        assert await client.get("k") is None
        [session] = router_of(client)._sessions
        await eventually(lambda: session._resting is not None)
        rest = session._resting
        await client.set("k", 1)
        assert rest is not None
        assert rest.done()


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ("(Trying to connect an http1.x server (HTTP status 400))", "talks HTTP, as a node's other port does"),
        ("connect: Connection refused (111)", "nothing listens there"),
        ("errors resolving no.such.host:7401: address lookup failed", "the name cannot be looked up"),
        ("WRONG_VERSION_NUMBER", "TLS: the node does not talk TLS"),
        ("something new", "UNAVAILABLE"),
    ],
)
def test_why_nothing_answers(seen: str, said: str) -> None:
    """To gRPC all of it is a node that is not there; people learn which of the usual mistakes it is."""
    none = aio.Metadata()
    error = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details=f"failed to connect: {seen}")
    assert said in Channels().status(error)


async def test_port_for_http_is_named() -> None:
    """Whoever takes a node's HTTP port for the other one is told so."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as port:
        address = f"127.0.0.1:{port.sockets[0].getsockname()[1]}"
        async with CacheClient(address, timeout_s=2) as cache:
            with pytest.raises(CacheUnavailable, match="talks HTTP"):
                await cache.get("k")
