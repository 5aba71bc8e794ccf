from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs

from cachenode.rpc.audit import Audit
from cachenode.rpc.guard import GuardedServer, Slots, _Guarded, _guarded
from cachenode.rpc.status import REASON_KEY
from cachenode.server import Server
from cachenode_api.v1 import cache_pb2, common_pb2, session_pb2
from tests.support.eventually import eventually

CANARY = "secret-canary"
SERVICE = "cachenode.v1.AdminService"


def fail(*_args: object, **_named: object) -> None:
    raise ValueError(CANARY)


async def test_unary_call_hides_the_exception(server: Server, cache: Any, monkeypatch: Any) -> None:
    """A defect ends a call with INTERNAL and a request id; the exception's text stays in the log under that id."""
    monkeypatch.setattr(server.node, "execute", fail)
    with capture_logs() as logs, pytest.raises(aio.AioRpcError) as failed:
        await cache.Get(cache_pb2.GetRequest(key=b"k"))
    error = failed.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert CANARY not in repr(error) + str(error.details()) + str(error.debug_error_string())
    assert dict(error.trailing_metadata() or ())[REASON_KEY] == "INTERNAL"
    (line,) = [line for line in logs if line["event"] == "request_failed"]
    assert line["request_id"] in str(error.details())
    assert line["error_type"] == "ValueError"


async def test_session_hides_the_exception(server: Server, sessions: Any, monkeypatch: Any) -> None:
    """A defect ends a session with INTERNAL and without the exception's text; the next session works."""
    call = sessions.Session()
    await call.read()
    with monkeypatch.context() as patch:
        patch.setattr(server.node, "execute", fail)
        batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k"])
        await call.write(session_pb2.ClientFrame(batches=[batch]))
        with pytest.raises(aio.AioRpcError) as failed:
            await asyncio.wait_for(call.read(), 10)
    error = failed.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert CANARY not in repr(error) + str(error.details()) + str(error.debug_error_string())
    assert len(server._sessions) == 0
    again = sessions.Session()
    assert (await again.read()).HasField("hello")
    again.cancel()


async def test_own_statuses_pass(cache: Any) -> None:
    """A handler's own refusal is not taken for a defect."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Get(cache_pb2.GetRequest(key=b""))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_method_without_a_body_is_unimplemented(channel: aio.Channel) -> None:
    """Methods of a contract that the node does not fill in (health's List) are no defects of its."""
    listing: Any = channel.unary_unary("/grpc.health.v1.Health/List")
    with capture_logs() as logs, pytest.raises(aio.AioRpcError) as failed:
        await listing(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert logs == []


async def test_refusing_who_has_left_is_no_defect() -> None:
    """A call that is gone when it is to be refused ends quietly."""

    async def behaviour(_request: object, _context: object) -> None:
        raise aio.InternalError("Failed execute_batch")

    guarded: Any = _guarded(behaviour, None, Slots("calls", 1))
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await guarded(None, None)
    assert logs == []


async def test_unknown_method_is_unimplemented(channel: aio.Channel) -> None:
    """A method that the node does not have is answered by gRPC, and its name is not kept."""
    method: Any = channel.unary_unary("/no.such.Service/Method")
    with pytest.raises(aio.AioRpcError) as failed:
        await method(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_handlers_are_wrapped_once() -> None:
    """The wrapped handler of a method is made at its first call; unknown methods are not remembered."""

    async def behaviour(request: object, context: object) -> object:
        return request

    inner: Any = grpc.unary_unary_rpc_method_handler(behaviour)
    asked: list[str] = []

    class Service:
        def service(self, details: Any) -> Any:
            asked.append(details.method)
            return inner if details.method == "/s/m" else None

    class Details:
        def __init__(self, method: str) -> None:
            self.method = method

    guarded: Any = _Guarded(Service(), None)  # type: ignore[arg-type]
    found = [guarded.service(Details("/s/m")) for _ in range(2)]
    assert found[0] is found[1]
    assert found[0] is not inner
    assert [guarded.service(Details("/s/other")) for _ in range(2)] == [None, None]
    assert asked == ["/s/m", "/s/other", "/s/other"]
    assert list(guarded._wrapped) == ["/s/m"]


async def test_reflection_works_behind_the_guard(start_server: Any) -> None:
    """With reflection on, tools can list the services; peers' own service is not among them."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    server = await start_server({"node.reflection": True})
    async with aio.insecure_channel(server.address) as channel:
        opened: Any = channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await asyncio.wait_for(call.read(), 10)
        names = {service.name for service in answer.list_services_response.service}
        call.cancel()
    assert {"cachenode.v1.CacheService", "cachenode.v1.SessionService", "cachenode.v1.AdminService"} <= names
    assert "cachenode.v1.PeerService" not in names


async def test_what_strangers_may_not_ask(channel: aio.Channel) -> None:
    """Reflection is off by default, and there are no services beside those of the node and health."""
    opened: Any = channel
    for method in (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    ):
        with pytest.raises(aio.AioRpcError) as failed:
            await opened.unary_unary(method)(b"")
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_a_boolean(channel: aio.Channel) -> None:
    """It says whether clients may come, and nothing else."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert [field.name for field, _ in answer.ListFields()] == ["status"]


async def test_a_cancelled_stream_is_audited() -> None:
    """Who cancelled calls in the midst of their answers can still be asked for, and the process is still there."""

    async def flood(request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield request
        while request == b"more":  # than the client takes: the call is cancelled while an answer is written
            yield bytes(1 << 20)

    lines: list[dict[str, Any]] = []
    handler: Any = grpc.unary_stream_rpc_method_handler(flood)
    server = aio.server()
    guarded = GuardedServer(server, audit=Audit(lines.append, "salt"))
    guarded.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"New": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_stream(f"/{SERVICE}/New")

        async def cancelled() -> None:
            call = method(b"more")
            await call.read()
            call.cancel()

        await asyncio.gather(*(cancelled() for _ in range(20)))
        await eventually(lambda: len(lines) == 20)
        answers = [answer async for answer in method(b"one")]
    await server.stop(None)
    assert answers == [b"one"]
    assert {line["from"] for line in lines} == {"loopback"}
    assert [line["outcome"] for line in lines] == ["not finished"] * 20 + ["ok"]
