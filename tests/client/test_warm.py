"""Warming from a program: what becomes of a job whose node is lost, and of one that is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc import aio

from cachenode_api.metadata import REASON_KEY
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc
from cachenode_client import CacheClient, CacheUnavailable, ClientClosed, InvalidArgument, NodeError, WarmStep, _warm
from cachenode_client._channels import Channels
from cachenode_client._warm import Warmer, checked_warm
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.support.server import running_server

Script = list[pb.WarmProgress | grpc.StatusCode]


class Admin:
    """Tells the steps of a script, a call each; an `aborted` one ends as the script says."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.requests: list[pb.WarmRequest] = []
        self.cancelled: list[str] = []
        self.jobs: list[pb.WarmProgress] = []

    async def Warm(self, request: pb.WarmRequest, context: Any) -> AsyncIterator[pb.WarmProgress]:  # noqa: N802
        self.requests.append(request)
        for step in self.scripts.pop(0):
            if isinstance(step, grpc.StatusCode):
                busy = step is grpc.StatusCode.ALREADY_EXISTS
                metadata = ((REASON_KEY, "JOB_RUNNING"),) if busy else ()
                await context.abort(step, "as the test says", trailing_metadata=metadata)
            else:
                step.job_id = request.job_id
                yield step

    async def WarmStatus(self, request: Any, context: Any) -> pb.WarmStatusResponse:  # noqa: N802
        jobs = [self.jobs.pop(0)] if self.jobs else []
        for job in jobs:
            job.job_id = self.job_id
        return pb.WarmStatusResponse(jobs=jobs)

    job_id = ""

    async def CancelWarm(self, request: pb.CancelWarmRequest, context: Any) -> pb.CancelWarmResponse:  # noqa: N802
        self.cancelled.append(request.job_id)
        return pb.CancelWarmResponse(cancelled=True)

    def __getattr__(self, name: str) -> None:
        """Return nothing for the calls that the test does not make."""


@asynccontextmanager
async def cluster(*admins: Admin) -> AsyncIterator[Any]:
    """Serve them as the members of a view; yield an engine that knows it. The second one is asked first."""
    async with AsyncExitStack() as stack:
        members = []
        for admin in admins:
            server = aio.server()
            admin_pb2_grpc.add_AdminServiceServicer_to_server(cast("Any", admin), server)
            members.append(SimpleNamespace(address=f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
            await server.start()
            stack.push_async_callback(server.stop, None)

        async def wait_route(_key: bytes, _timeout_s: float) -> None:
            return

        view = SimpleNamespace(members=members)
        router = SimpleNamespace(wait_route=wait_route, view=view, channels=Channels())
        yield SimpleNamespace(router=router, loop=asyncio.get_running_loop())


def warmer(engine: Any, **ask: Any) -> Warmer:
    options = {"origin": False, "top": 0, "rate_per_s": 5} | ask
    return Warmer(lambda: engine, checked_warm("n", options.pop("keys", None), **options), 1.0)


def step(state: str = "running", done: int = 0, **more: Any) -> pb.WarmProgress:
    return pb.WarmProgress(state=state, done=done, loaded=done, **more)


KEYS = [b"%d" % number for number in range(5)]


async def test_rest_of_the_keys_goes_to_another_node() -> None:
    """Under the same id, without those that were done with; the sums go on."""
    first, second = Admin(), Admin()
    second.scripts = [[step(done=1), step(done=2, node_id="b"), grpc.StatusCode.UNAVAILABLE]]
    first.scripts = [[grpc.StatusCode.ALREADY_EXISTS], [step(done=1), step("done", 3, node_id="a")]]
    second.scripts.append([step("stopped", 0)])
    async with cluster(first, second) as engine:
        steps = [each async for each in warmer(engine, keys=KEYS)]
    assert (steps[-1].state, steps[-1].done, steps[-1].loaded, steps[-1].total) == ("done", 5, 5, 5)
    assert [each.done for each in steps] == sorted(each.done for each in steps)
    assert [list(request.keys) for request in second.requests] == [KEYS, KEYS[2:]]
    assert len({request.job_id for request in first.requests + second.requests}) == 1
    assert first.cancelled == second.cancelled == []


async def test_refusal_is_an_error() -> None:
    """Another job runs: nothing of it is cancelled, for ids tell them apart."""
    admin = Admin()
    admin.scripts = [[grpc.StatusCode.ALREADY_EXISTS], [grpc.StatusCode.UNIMPLEMENTED]]
    async with cluster(admin) as engine:
        with pytest.raises(NodeError) as refused:
            await anext(warmer(engine, keys=KEYS))
        assert refused.value.reason == "job_running"
        with pytest.raises(NodeError, match="the same release"):
            await anext(warmer(engine, origin=True))
    assert [request.job_id for request in admin.requests] == admin.cancelled


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_job_that_ends_early(state: str) -> None:
    """The last step says so, and why."""
    admin = Admin()
    admin.scripts = [[step(state, 2, error="OSError")]] * 2
    async with cluster(admin) as engine:
        for ask in ({"keys": KEYS}, {"origin": True}):
            [last] = [each async for each in warmer(engine, **ask)]
            assert (last.state, last.done, last.error, last.ended) == (state, 2, "OSError", True)
    assert admin.cancelled == []


async def test_job_of_the_nodes_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node goes on with it: it is found there, and followed to its end."""
    monkeypatch.setattr(_warm, "_LOOK_S", 0.01)
    first, second = Admin(), Admin()
    second.scripts = [[step(done=10), grpc.StatusCode.UNAVAILABLE]]
    async with cluster(first, second) as engine:
        job = warmer(engine, top=50)
        first.job_id = second.job_id = job._ask.job_id
        first.jobs = [step("stopped", 10), step(done=20, node_id="a"), step("done", 50, node_id="a")]
        second.jobs = [step("stopped", 10)] * 3
        steps = [each async for each in job]
    assert [(each.state, each.done) for each in steps] == [("running", 10), ("running", 20), ("done", 50)]


@pytest.mark.parametrize("ask", [{"keys": KEYS}, {"origin": True}])
async def test_nobody_goes_on(monkeypatch: pytest.MonkeyPatch, ask: dict[str, Any]) -> None:
    """After a while that is an error."""
    monkeypatch.setattr(_warm, "_LOOK_S", 0.01)
    monkeypatch.setattr(_warm, "_PATIENCE_S", 0.05)
    admin = Admin()
    lost: Script = [grpc.StatusCode.UNAVAILABLE]
    admin.scripts = [[step(done=1), *lost], *[lost] * 100]
    async with cluster(admin) as engine:
        with pytest.raises(CacheUnavailable, match="No node goes on"):
            async for _ in warmer(engine, **ask):
                pass


async def test_who_leaves_cancels() -> None:
    """At once, at every member, this job alone."""
    first, second = Admin(), Admin()
    second.scripts = [[step(done=number) for number in range(100)]]
    async with cluster(first, second) as engine:
        async with warmer(engine, origin=True) as steps:
            await anext(steps)
        assert first.cancelled == second.cancelled == [second.requests[0].job_id]
        untouched = warmer(engine, origin=True)
        await untouched.aclose()
        assert len(first.cancelled) == 1


async def test_many_keys_go_in_portions() -> None:
    """A request takes 5,000 keys, or a mebibyte of them."""
    assert [len(portion) for portion in _warm._portions([b"k"] * 12_000)] == [5_000, 5_000, 2_000]
    assert [len(portion) for portion in _warm._portions([b"k" * 1_024] * 2_000)] == [1_024, 976]
    assert list(_warm._portions([])) == []


@pytest.mark.parametrize(
    "ask",
    [
        {},
        {"keys": [], "origin": True},
        {"top": -1},
        {"top": 1.5},
        {"origin": True, "rate_per_s": 0},
        {"keys": ["k"], "top": 1},
    ],
)
async def test_what_cannot_be_asked_for(ask: dict[str, Any]) -> None:
    """It is refused before anything is sent."""
    client = CacheClient("127.0.0.1:1")
    with pytest.raises(InvalidArgument):
        client.warm(**ask)
    await client.aclose()


def _listing() -> dict[str, Any]:
    return {"origins__names__loader": "tests.support.loaders:Listing", "namespaces__users__origin": "names"}


async def test_both_clients_warm() -> None:
    """With a node: steps come until the end; a closed client says so."""
    async with running_server(**_listing()) as server:
        async with CacheClient(server.address, namespace="users") as client:
            last = [each async for each in client.warm(["a", b"b"])][-1]
            assert last == WarmStep(last.job_id, "done", 2, 2, 2, 0, 0, 0, "", "node-0")

        def in_threads() -> list[WarmStep]:
            with BlockingCacheClient(server.address, namespace="users") as blocking:
                with blocking.warm(origin=True) as steps:
                    found = list(steps)
                left = blocking.warm(["a"], rate_per_s=1)
                next(left)
                left.close()
            with pytest.raises(ClientClosed):
                next(blocking.warm(["a"]))
            return found

        found = await asyncio.to_thread(in_threads)
        assert (found[-1].state, found[-1].fresh, found[-1].loaded) == ("done", 2, 1)
        with pytest.raises(ClientClosed):
            await anext(client.warm(["a"]))
