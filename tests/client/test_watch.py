"""Watching: what is told, what is told again after a break, and when a reset stands for what may be missing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.server import Server
from cachenode_api.metadata import INCARNATION_KEY, SEQUENCE_KEY
from cachenode_api.selectors import SelectorKind
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc, common_pb2
from cachenode_client import (
    CacheClient,
    CacheUnavailable,
    ClientClosed,
    ForkedClient,
    InvalidArgument,
    Invalidated,
    InvalidNamespace,
    NodeError,
    Reset,
    _watch,
    blocking,
)
from cachenode_client._backoff import Schedule
from cachenode_client._watch import Watching
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, scripted_node, view_message
from tests.support.server import running_server

NOBODY = "127.0.0.1:1"
WAIT_S = 10


class Teller(cache_pb2_grpc.CacheServiceServicer):
    """Tells what the test says.

    Attributes:
        requests: Of the watches that were opened.
        incarnation: What it says it is.
        opens: Cleared, it lets nobody begin until it is set again.
    """

    def __init__(self) -> None:
        self.requests: list[pb.WatchRequest] = []
        self.incarnation = "1"
        self.sequence = 0
        self.open = 0
        self.refuses: grpc.StatusCode | None = None
        self.opens = asyncio.Event()
        self.opens.set()
        self._script: asyncio.Queue[pb.WatchEvent | grpc.StatusCode] = asyncio.Queue()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchEvent]:  # noqa: N802
        self.requests.append(request)
        if self.refuses is not None:
            await context.abort(self.refuses, "as the test says")
        await self.opens.wait()
        await context.send_initial_metadata(
            ((INCARNATION_KEY, self.incarnation), (SEQUENCE_KEY, str(request.after or self.sequence)))
        )
        self.open += 1
        try:
            while not isinstance(step := await self._script.get(), grpc.StatusCode):
                yield step
        finally:
            self.open -= 1
        if step is not grpc.StatusCode.OK:
            await context.abort(step, "as the test says")

    def tell(self, *keys: bytes, reset: bool = False, kinds: tuple[int, ...] = (), node_id: str = "node-0") -> None:
        """Tell the next event."""
        self.sequence += 1
        told = common_pb2.Invalidation(namespace="default", keys=keys, kinds=kinds, selectors=[b"s"] * len(kinds))
        self._script.put_nowait(
            pb.WatchEvent(
                node_id=node_id,
                incarnation=self.incarnation,
                sequence=self.sequence,
                reset=reset,
                invalidation=None if reset else told,
            )
        )

    def end(self, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """End the stream."""
        self._script.put_nowait(status)


@asynccontextmanager
async def telling(name: str = "node-0") -> AsyncIterator[tuple[ScriptedNode, Teller]]:
    """Run a node that greets clients and tells what the test says."""
    teller = Teller()  # type: ignore[abstract]

    def add(server: aio.Server) -> None:
        cache_pb2_grpc.add_CacheServiceServicer_to_server(teller, server)

    async with scripted_node(name, also=add) as node:
        yield node, teller


@pytest.fixture
async def scripted_teller() -> AsyncIterator[tuple[ScriptedNode, Teller]]:
    """A node that tells what the test says."""
    async with telling() as (node, teller):
        yield node, teller


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost streams are opened again at once."""
    monkeypatch.setattr(_watch, "_REDIAL", Schedule(first_s=0.01, max_s=0.01, retries=None))


async def some(events: Any, count: int = 1) -> list[Any]:
    """Return the next events."""
    return [await asyncio.wait_for(anext(events), WAIT_S) for _ in range(count)]


class Threaded:
    """A blocking watcher as an asyncio one, so that one test serves both."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __anext__(self) -> Any:
        end = object()
        event = await asyncio.to_thread(next, self.inner, end)
        if event is end:
            raise StopAsyncIteration
        return event

    async def ready(self) -> None:
        await asyncio.to_thread(self.inner.ready)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.inner.close)


Open = Callable[..., Any]


@pytest.fixture(params=["asyncio", "threads"])
async def open_watch(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens clients of either kind and makes their watches; also returns what closes the client."""
    async with AsyncExitStack() as stack:

        async def start(address: str, *, timeout_s: float = WAIT_S, on_error: Any = "raise", **options: Any) -> Any:
            if request.param == "asyncio":
                client = await stack.enter_async_context(CacheClient(address, timeout_s=timeout_s, on_error=on_error))
                return client.watch(**options), client.aclose
            inner = blocking.CacheClient(address, timeout_s=timeout_s, on_error=on_error)
            stack.push_async_callback(asyncio.to_thread, inner.close)
            return Threaded(inner.watch(**options)), lambda: asyncio.to_thread(inner.close)

        yield start


# With a real node.


async def test_changes_are_told(server: Server, cache: CacheClient, open_watch: Open) -> None:
    """Whoever writes, removes or invalidates, a watcher hears of it, in order, from the moment in which it is ready."""
    events, _ = await open_watch(server.address)
    await events.ready()
    await cache.set("k", 1)
    await cache.delete("k")
    await cache.invalidate(prefix="user:", pattern="u*", tags=["red"])
    await cache.invalidate(namespace="default")
    set_, deleted, barred, everything = await some(events, 4)
    assert [set_.keys, deleted.keys, barred.keys] == [(b"k",), (b"k",), ()]
    assert [(each.kind, each.text) for each in barred.selectors] == [
        (SelectorKind.PREFIX, b"user:"),
        (SelectorKind.GLOB, b"u*"),
        (SelectorKind.TAG, b"red"),
    ]
    assert barred.selectors[0].covers(b"user:7", ())
    assert [each.kind for each in everything.selectors] == [SelectorKind.NAMESPACE]
    assert [event.sequence for event in (set_, deleted, barred, everything)] == [1, 2, 3, 4]
    assert {event.node_id for event in (set_, everything)} == {"node-0"}
    await events.aclose()


@pytest.mark.parametrize(("watched", "told"), [(None, [b"1"]), ("other", [b"2"]), ("*", [b"1", b"2"])])
async def test_namespaces(server: Server, cache: CacheClient, watched: str | None, told: list[bytes]) -> None:
    """A watch is of the client's namespace, of another, or of all."""
    async with cache.watch(namespace=watched) as events:
        await cache.set("1", 1)
        await cache.set("2", 1, namespace="other")
        assert [event.keys for event in await some(events, len(told))] == [(key,) for key in told]


async def test_iteration_begins_by_itself(server: Server, cache: CacheClient) -> None:
    """Without `async with` the first event that is asked for begins the watch."""
    events = cache.watch()
    assert repr(events) == "<Watcher new>"
    first = asyncio.create_task(anext(events))
    await eventually(lambda: events.members == 1)
    await cache.set("k", 1)
    assert (await first).keys == (b"k",)
    await events.aclose()
    assert repr(events) == "<Watcher closed>"
    assert [event async for event in events] == []


async def test_streams_end_with_the_watch(server: Server, cache: CacheClient) -> None:
    """Left, closed or simply forgotten: nothing goes on at the node, nor in the client."""
    log = server.node.invalidations.log
    async with cache.watch() as events:
        await eventually(lambda: log._news)
    await eventually(lambda: not log._news)
    events = cache.watch()
    await events.ready()
    await eventually(lambda: log._news)
    del events
    gc.collect()
    await eventually(lambda: not log._news)
    assert cache._engine is not None
    assert not cache._engine.watches
    assert not cache._engine.router.view_listeners


async def test_closing_ends_who_waits(server: Server, open_watch: Open) -> None:
    """Who waits for an event when the watch is closed learns that there are no more; so does who asks later."""
    events, _ = await open_watch(server.address)
    await events.ready()
    waiting = asyncio.create_task(anext(events))
    await eventually(lambda: server.node.invalidations.log._news)
    await events.aclose()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, WAIT_S)
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    await events.aclose()


async def test_closing_the_client_ends_who_waits(server: Server, open_watch: Open) -> None:
    """Who waits for an event when the client is closed gets an error, and so does who asks later."""
    events, close_client = await open_watch(server.address)
    await events.ready()
    waiting = asyncio.create_task(anext(events))
    await eventually(lambda: server.node.invalidations.log._news)
    await close_client()
    for asking in (waiting, anext(events)):
        with pytest.raises(ClientClosed):
            await asyncio.wait_for(asking, WAIT_S)
    await events.aclose()


@pytest.mark.parametrize("on_error", ["raise", "miss"])
async def test_nobody_there(open_watch: Open, on_error: str) -> None:
    """A watch that cannot begin fails in time, also where errors count as misses."""
    events, _ = await open_watch(NOBODY, timeout_s=0.2, on_error=on_error)
    with pytest.raises(CacheUnavailable, match="No node can be reached"):
        await events.ready()


async def test_wrong_arguments(cache: CacheClient) -> None:
    """What cannot be watched is refused at once."""
    with pytest.raises(InvalidNamespace):
        cache.watch(namespace="NOT VALID")
    with pytest.raises(InvalidArgument):
        cache.watch(timeout_s=0)


async def test_namespace_that_the_nodes_do_not_have(open_watch: Open) -> None:
    """A namespace that is not configured on strict nodes is refused."""
    async with running_server(strict_namespaces=True) as server:
        events, _ = await open_watch(server.address, namespace="users")
        with pytest.raises(InvalidNamespace):
            await events.ready()
        with pytest.raises(InvalidNamespace):  # it may be there by now, so each call asks
            await anext(events)


async def test_restarted_node_is_told_by_a_reset(cache: CacheClient, server: Server) -> None:
    """A node that comes back as another process has another history."""
    async with cache.watch() as events:
        await cache.set("k", 1)
        assert isinstance((await some(events))[0], Invalidated)
        await server.stop()
        async with running_server(node__listen=server.address):
            assert await some(events) == [Reset("node-0")]


def test_representation_shows_no_key() -> None:
    """Keys stay out of logs."""
    event = Invalidated("node-0", 3, "default", (b"secret",))
    assert repr(event) == "Invalidated(node_id='node-0', sequence=3, namespace='default', keys=<1>, selectors=<0>)"


# With scripted nodes.


async def test_goes_on_where_it_left_off(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """A stream that breaks is opened again after the last event: nothing is missing, so nothing is reset."""
    node, teller = scripted_teller
    teller.sequence = 40
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        teller.end()  # before the first event: it goes on from where it began
        teller.tell(b"a")
        teller.end()
        teller.tell(b"b")
        assert [event.keys for event in await some(events, 2)] == [(b"a",), (b"b",)]
    assert [(request.incarnation, request.after) for request in teller.requests] == [("", 0), ("1", 40), ("1", 41)]
    assert {request.namespace for request in teller.requests} == {"default"}


async def test_reset_of_the_node_is_handed_on(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """Where the node says that some may be missing, so does the watch, and goes on from there."""
    node, teller = scripted_teller
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        teller.incarnation = "2"
        teller.tell(reset=True)
        teller.end()
        teller.tell(b"a")
        found = await some(events, 2)
    assert found[0] == Reset("node-0")
    assert found[1].keys == (b"a",)
    assert (teller.requests[-1].incarnation, teller.requests[-1].after) == ("2", 1)


async def test_selector_of_a_later_release(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """What it covers is not known, so it may be everything."""
    node, teller = scripted_teller
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        teller.tell(kinds=(99,))
        teller.tell(b"a", kinds=(1,))
        found = await some(events, 2)
    assert found[0] == Reset("node-0")
    assert (found[1].keys, len(found[1].selectors)) == ((b"a",), 1)


async def test_older_nodes_cannot_be_watched(scripted: ScriptedNode, open_watch: Open) -> None:
    """A node without the call refuses for good: nobody waits for it."""
    events, _ = await open_watch(scripted.address)
    with pytest.raises(NodeError, match="cannot be watched"):
        await events.ready()


async def test_refusal_later_on(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """Who waits for an event is told as well."""
    node, teller = scripted_teller
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        teller.refuses = grpc.StatusCode.UNIMPLEMENTED
        teller.end()
        with pytest.raises(NodeError):
            await some(events)


async def test_node_that_does_not_begin(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """A cluster that is there and does not begin to tell is no reason to wait for ever."""
    node, teller = scripted_teller
    teller.opens.clear()
    async with CacheClient(node.address, timeout_s=0.5) as client:
        with pytest.raises(CacheUnavailable, match="No node has begun"):
            await client.watch().ready()
        teller.opens.set()


async def test_member_that_does_not_answer_at_the_beginning(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """The watch begins without it, and what it did before it is watched counts as missed."""
    node, teller = scripted_teller
    async with telling("node-1") as (other, late):
        late.opens.clear()
        node.view = view_message(1, ("node-0", node.address), ("node-1", other.address))
        async with CacheClient(node.address, timeout_s=0.5) as client, client.watch() as events:
            assert events.members == 1
            teller.tell(b"a")
            assert (await some(events))[0].keys == (b"a",)
            late.opens.set()
            late.tell(b"b", node_id="node-1")
            found = await some(events, 2)
    assert found[0] == Reset("node-1")
    assert found[1].keys == (b"b",)


async def test_member_that_comes_later_begins_with_a_reset(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """It was a member before it was watched; the others go on as before."""
    node, teller = scripted_teller
    async with telling("node-1") as (other, late):
        async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
            late.tell(b"b", node_id="node-1")
            await node.send(view=view_message(2, ("node-0", node.address), ("node-1", other.address)))
            found = await some(events, 2)
            assert events.members == 2
            teller.tell(b"a")
            assert (await some(events))[0].keys == (b"a",)
    assert found[0] == Reset("node-1")
    assert found[1].keys == (b"b",)


@asynccontextmanager
async def two_members() -> AsyncIterator[tuple[Any, ScriptedNode, tuple[Any, ...], Teller]]:
    """Watch two members; yield the events, the first node, a view's entry of each, and who tells for the second."""
    async with telling() as (node, _), telling("node-1") as (other, teller):
        both = ("node-0", node.address), ("node-1", other.address)
        node.view = other.view = view_message(1, *both)
        async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
            yield events, node, both, teller


async def test_member_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is watched until its lease is over, and what it may not have told in the end is replaced by a reset."""
    monkeypatch.setattr(_watch, "LEAVE_S", 0.2)
    async with two_members() as (events, node, both, teller):
        await node.send(view=view_message(2, both[0]))
        teller.tell(b"b", node_id="node-1")
        found = await some(events, 2)
        assert found[0].keys == (b"b",)
        assert found[1] == Reset("node-1")
        assert events.members == 1
        await eventually(lambda: not teller.open)


async def test_member_that_leaves_in_order_needs_no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has ended its stream itself has told all."""
    monkeypatch.setattr(_watch, "LEAVE_S", 0.2)
    async with two_members() as (events, node, both, teller):
        teller.opens.clear()
        teller.tell(b"b", node_id="node-1")
        teller.end(grpc.StatusCode.OK)
        await node.send(view=view_message(2, both[0]))
        assert (await some(events))[0].keys == (b"b",)
        await eventually(lambda: len(events._watching._streams) == 1)
        assert not events._watching._waiting


async def test_member_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that was left out and is back before its lease is over has been watched all the time."""
    async with two_members() as (events, node, both, teller):
        await node.send(view=view_message(2, both[0]))
        await eventually(lambda: events._watching._leaving)
        await node.send(view=view_message(3, *both))
        await eventually(lambda: not events._watching._leaving)
        teller.tell(b"b", node_id="node-1")
        assert (await some(events))[0].keys == (b"b",)
        assert len(teller.requests) == 1


async def test_view_that_was_missed(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """Who came and went in between was not watched."""
    node, _ = scripted_teller
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        await node.send(view=view_message(5, ("node-0", node.address)))
        assert await some(events) == [Reset("")]


async def test_slow_consumer_gets_a_reset(cache: CacheClient) -> None:
    """What waits for it is bounded: resets of the nodes stand for all of it, and newer events follow."""
    await cache.view()
    assert cache._engine is not None
    watching = Watching(cache._engine, "", max_waiting=3)
    for sequence in range(3):
        watching.tell(Invalidated("node-0", sequence, "default"))
    watching.tell(Invalidated("node-1", 1, "default"))
    watching.tell(Invalidated("node-1", 2, "default"))
    found = [await watching.next() for _ in range(3)]
    assert found == [Reset("node-0"), Reset("node-1"), Invalidated("node-1", 2, "default")]
    await watching.close()


async def test_own_copies_are_dropped_first(scripted_teller: tuple[ScriptedNode, Teller]) -> None:
    """Who reads upon an event asks the node, even if the session's own word to drop the copy is still on its way."""
    node, teller = scripted_teller
    node.lease_ms = 60_000
    async with CacheClient(node.address, timeout_s=WAIT_S) as client, client.watch() as events:
        for key, event in (("k", {"keys": b"k"}), ("s1", {"kind": 1})):
            reading = asyncio.create_task(client.get(key))
            await node.answer([b"old"], near=True)
            assert await reading == b"old"
            await eventually(lambda: client.stats()["near_entries"])
            assert await asyncio.wait_for(client.get(key), WAIT_S) == b"old"
            if "kind" in event:
                teller.tell(kinds=(1,))
            else:
                teller.tell(b"k")
            await some(events)
            reading = asyncio.create_task(client.get(key))
            await node.answer([b"new"])
            assert await reading == b"new"


async def test_forked_client_does_not_watch_on(server: Server) -> None:
    """Streams do not survive a fork, and nothing is waited for there."""
    async with CacheClient(server.address, timeout_s=WAIT_S) as client:
        events = client.watch()
        await events.ready()
        client._forked = True
        with pytest.raises(ForkedClient):
            await anext(events)
        await events.aclose()
