"""The client for threads against a real node; the calls run in threads beside the test's loop, where the node is."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_client import (
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    ClientClosed,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTtl,
    Lookup,
    ManyFailed,
    Unserializable,
    ValueTooLarge,
)
from cachenode_client.blocking import CacheClient
from tests.support.scripted_node import ScriptedNode, record
from tests.support.server import free_port, running_server

SLACK_S = 0.5
GRACE_S = 0.5
"""A thread waits so much longer than the loop's own timer, which should end the call first."""


async def in_thread(address: str, work: Callable[[CacheClient], Any], **options: Any) -> Any:
    """Run `work` with a blocking client in a thread of its own."""

    def run() -> Any:
        with CacheClient(address, **({"timeout_s": 10} | options)) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_every_method(server: Server) -> None:
    """The methods do what those of the asyncio client do."""
    mixed: dict[Any, Any] = {"a": 1, b"b": b"2"}

    def work(client: CacheClient) -> None:
        assert client.set("k", {"a": [1, None]}, ttl_s=50) > 0
        assert client.get("k") == {"a": [1, None]}
        assert client.get("absent", "default") == "default"
        found = client.lookup("k")
        assert (found.found, found.value, found.layer) == (True, {"a": [1, None]}, "near")
        assert client.lookup("absent") == Lookup(found=False)
        assert client.contains("k") is True
        assert client.contains("absent") is False
        assert 40 < (client.ttl("k") or 0) <= 50
        assert client.ttl("absent") is None
        assert client.touch("k", ttl_s=math.inf) is True
        assert client.ttl("k") == math.inf
        assert client.touch("absent") is False
        assert set(client.set_many(mixed, ttl_s=5)) == {"a", b"b"}
        assert client.get_many(["a", "b", "absent"]) == {"a": 1, "b": b"2"}
        assert client.get_many([]) == {}
        assert client.delete("k") is True
        assert client.delete("k") is False
        assert client.set("k", 1, namespace="other", timeout_s=5) > 0
        assert client.get("k", namespace="other", timeout_s=5) == 1
        assert [member.address for member in client.view().members] == [server.address]
        stats = client.stats()
        assert (stats["sets"], stats["errors"], stats["nodes_connected"]) == (4, 0, 1)
        assert "ready=1" in repr(client)

    await in_thread(server.address, work)


@pytest.mark.parametrize("value", [b"", "", 0, 1.5, True, None, [], {"a": b"\x00"}], ids=repr)
async def test_values_come_back_as_they_were(server: Server, value: Any) -> None:
    """A value returns equal and of its own type; a stored None is not an absent key."""

    def work(client: CacheClient) -> Any:
        client.set("k", value)
        return client.get("k", "absent"), client.get_many(["k"])["k"]

    seen = await in_thread(server.address, work)
    assert [(type(one), one) for one in seen] == [(type(value), value)] * 2


async def test_sixteen_threads_share_a_client(server: Server) -> None:
    """Each thread gets its own results, and together they need fewer frames than calls."""
    calls_each = 50

    def work(client: CacheClient) -> int:
        client.get("warm")
        before = client.stats()["frames_sent"]
        together = threading.Barrier(16)

        def one(number: int) -> bool:
            together.wait(10)
            for turn in range(calls_each):
                key = f"{number}-{turn}"
                client.set(key, [number, turn])
                if client.get(key) != [number, turn]:
                    return False
            return client.get_many([f"{number}-0", f"{number}-1"]) == {f"{number}-{at}": [number, at] for at in (0, 1)}

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(16)))
        return client.stats()["frames_sent"] - before

    frames = await in_thread(server.address, work)
    assert frames < 16 * calls_each * 2


async def test_wrong_arguments_are_named() -> None:
    """Wrong arguments raise before anything is sent, in words that hold neither key nor value."""

    def work(client: CacheClient) -> None:
        wrong: list[tuple[Callable[[], Any], type[CacheError]]] = [
            (lambda: client.get(""), InvalidKey),
            (lambda: client.lookup("hunter2" * 200), InvalidKey),
            (lambda: client.contains(5), InvalidKey),  # type: ignore[arg-type]
            (lambda: client.ttl(""), InvalidKey),
            (lambda: client.get_many(["hunter2", ""]), InvalidKey),
            (lambda: client.set("hunter2", 1, ttl_s=0), InvalidTtl),
            (lambda: client.set_many({"hunter2": 1}, ttl_s=math.nan), InvalidTtl),
            (lambda: client.touch("hunter2", ttl_s=-1), InvalidTtl),
            (lambda: client.set("hunter2", {"hunter2"}), Unserializable),
            (lambda: client.set("hunter2", b"x" * 101), ValueTooLarge),
            (lambda: client.get("hunter2", timeout_s=0), InvalidArgument),
            (lambda: client.delete("hunter2", namespace="HUNTER2"), InvalidNamespace),
        ]
        for call, kind in wrong:
            with pytest.raises(kind) as caught:
                call()
            assert "hunter2" not in str(caught.value).lower()

    await in_thread("127.0.0.1:1", work, max_value_bytes=100, on_error="miss")


async def test_refusals_of_the_node(server: Server) -> None:
    """Values over the namespace's or the frame's limit fail alone; many keys fail in part."""

    def work(client: CacheClient) -> None:
        client.get("warm")
        with pytest.raises(ValueTooLarge, match="the node's limit of 4,190,208 bytes"):
            client.set("k", b"x" * (4 << 20))
        with pytest.raises(ValueTooLarge, match="the node's limit of 4,190,208 bytes"):
            client.set_many({"k": b"x" * (4 << 20)})
        with pytest.raises(ManyFailed) as caught:
            client.set_many({"a": 1, "b": b"x" * (2 << 20)})
        assert set(caught.value.results) == {"a"}
        assert isinstance(caught.value.errors["b"], ValueTooLarge)
        assert client.get("a") == 1

    await in_thread(server.address, work)


async def test_closed_client_raises(server: Server) -> None:
    """After the block every call raises ClientClosed, the loop's thread has ended, and closing again does nothing."""

    def work(client: CacheClient) -> tuple[CacheClient, threading.Thread]:
        client.set("k", 1)
        return client, client._thread._thread

    client, thread = await in_thread(server.address, work, on_error="miss")
    assert not thread.is_alive()
    client.close()
    for call in (lambda: client.get("k"), lambda: client.set("k", 1), lambda: client.get_many(["k"]), client.view):
        with pytest.raises(ClientClosed):
            call()
    assert "closed" in repr(client)


def test_client_without_a_call_starts_no_thread() -> None:
    """A client connects, and starts its thread, with the first call."""
    before = threading.active_count()
    with CacheClient("127.0.0.1:1") as client:
        assert threading.active_count() == before
        assert "new" in repr(client)
        assert set(client.stats().values()) == {0}


@pytest.mark.parametrize("on_error", ["raise", "miss"])
async def test_dead_server(on_error: Any) -> None:
    """A cluster that cannot be reached raises or counts as a miss, and costs no more than the timeout."""

    def work(client: CacheClient) -> list[Any]:
        def outcome(call: Callable[[], Any]) -> Any:
            began = time.monotonic()
            try:
                return call()
            except CacheError as error:
                return type(error)
            finally:
                assert time.monotonic() - began < 0.1 + SLACK_S

        return [
            outcome(call)
            for call in (
                lambda: client.get("k", "default"),
                lambda: client.lookup("k").found,
                lambda: client.contains("k"),
                lambda: client.ttl("k"),
                lambda: client.get_many(["k"]),
                lambda: client.set("k", 1),
                lambda: client.set_many({"k": 1}),
                lambda: client.delete("k"),
                lambda: client.touch("k"),
            )
        ]

    results = await in_thread(f"127.0.0.1:{free_port()}", work, on_error=on_error, timeout_s=0.1)
    if on_error == "miss":
        assert results == ["default", False, False, None, {}, 0, {}, False, False]
    else:
        assert results == [ManyFailed if at in {4, 6} else CacheUnavailable for at in range(9)]


async def test_silent_address_ends_in_time() -> None:
    """Something that accepts and never speaks gRPC costs no more than the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work(client: CacheClient) -> float:
            began = time.monotonic()
            with pytest.raises(CacheUnavailable):
                client.get("k")
            return time.monotonic() - began

        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert await in_thread(address, work, timeout_s=0.2) < 0.2 + SLACK_S


async def test_node_that_never_answers_is_a_timeout(scripted: ScriptedNode) -> None:
    """Calls to a node that takes them and never answers end in time, also those that wait behind the first frame."""

    def work(client: CacheClient) -> list[float]:
        client.view()

        def one(number: int) -> float:
            began = time.monotonic()
            with pytest.raises(CacheTimeout):
                client.get(f"k{number}")
            return time.monotonic() - began

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, range(4)))

    assert max(await in_thread(scripted.address, work, timeout_s=0.2)) < 0.2 + GRACE_S + SLACK_S


async def test_calls_gather_while_a_frame_is_under_way(scripted: ScriptedNode) -> None:
    """What threads ask while a frame is unanswered leaves together, when the answer comes."""

    def work(client: CacheClient) -> list[Any]:
        client.view()
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(client.get, "first")
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(under_way.wait(), 10), loop).result(10)
            rest = [pool.submit(client.get, f"k{number}") for number in range(4)]
            wait_until(lambda: len(client._thread._inbox) == 4)
            loop.call_soon_threadsafe(gathered.set)
            return [first.result(10), *(one.result(10) for one in rest)]

    loop, under_way, gathered = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    calls = asyncio.create_task(in_thread(scripted.address, work))
    batch = await scripted.next_batch()
    under_way.set()
    await asyncio.wait_for(gathered.wait(), 10)
    await scripted.reply(batch, records=[record(b"first")])
    batch = await scripted.next_batch()
    assert sorted(batch.keys) == [b"k0", b"k1", b"k2", b"k3"]
    await scripted.reply(batch, records=[record(key) for key in batch.keys])
    assert await calls == [b"first", b"k0", b"k1", b"k2", b"k3"]


def wait_until(check: Callable[[], bool]) -> None:
    """Wait in a thread until the check is true."""
    limit = time.monotonic() + 10
    pause = threading.Event()
    while not check():
        assert time.monotonic() < limit, "it did not happen in time"
        pause.wait(0.005)


async def test_lost_session_is_mended_for_reads(scripted: ScriptedNode) -> None:
    """A read whose session was lost is sent again and answered."""
    scripted.drops = 1
    calls = asyncio.create_task(
        in_thread(scripted.address, lambda client: (client.get("k"), client.stats()["retries"]))
    )
    await scripted.answer([b"v"])
    assert await calls == (b"v", 1)
    assert [list(batch.keys) for batch in scripted.dropped] == [[b"k"]]


async def test_node_restarts_on_its_port() -> None:
    """The client finds the node again after a restart."""
    port = free_port()
    client = CacheClient(f"127.0.0.1:{port}", timeout_s=10)
    try:
        for turn in range(2):
            async with running_server(node__listen=f"127.0.0.1:{port}"):
                assert await asyncio.to_thread(client.get, "k", "lost") == "lost"
                assert await asyncio.to_thread(client.set, "k", turn)
                assert await asyncio.to_thread(client.get, "k") == turn
    finally:
        await asyncio.to_thread(client.close)
