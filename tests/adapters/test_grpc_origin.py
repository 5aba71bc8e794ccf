"""The origin "grpc" against a real server: values, outcomes, lists of keys, failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.adapters.grpc_origin import GrpcOrigin
from cachenode.adapters.loaders import PluginLoader
from cachenode.adapters.plugins import LOADERS, find_plugin
from cachenode.adapters.sinks import PluginSink
from cachenode.core.entries import SinkWrite
from cachenode.errors import ConfigError
from cachenode.origins import ABSENT, Loaded, OriginError, Write
from cachenode_api.v1 import origin_pb2 as pb
from cachenode_api.v1 import origin_pb2_grpc
from cachenode_client._values import Codec


class Service(origin_pb2_grpc.OriginServiceServicer):
    """Whatever a test says."""

    def __init__(self) -> None:
        self.values: dict[bytes, pb.LoadedValue] = {}
        self.outcomes: dict[bytes, pb.WriteOutcome] = {}
        self.writes: list[pb.OriginWrite] = []
        self.fails: grpc.StatusCode | None = None
        self.short = False
        self.metadata: dict[str, Any] = {}
        self.target = ""

    async def _begin(self, context: Any) -> None:
        self.metadata = dict(context.invocation_metadata())
        if self.fails is not None:
            await context.abort(self.fails, "a secret")

    async def LoadMany(self, request: Any, context: Any) -> pb.LoadManyResponse:  # noqa: N802 - as gRPC names it
        await self._begin(context)
        found = [self.values.get(key, pb.LoadedValue()) for key in request.keys]
        return pb.LoadManyResponse(values=found[: len(found) - self.short])

    async def WriteMany(self, request: Any, context: Any) -> pb.WriteManyResponse:  # noqa: N802 - likewise
        await self._begin(context)
        self.writes += request.writes
        outcomes = [self.outcomes.get(write.key, pb.WriteOutcome()) for write in request.writes]
        return pb.WriteManyResponse(outcomes=outcomes[: len(outcomes) - self.short])

    async def ListKeys(self, request: Any, context: Any) -> AsyncIterator[pb.ListKeysResponse]:  # noqa: N802 - likewise
        yield pb.ListKeysResponse(keys=[b"a", b"\xff"])
        await self._begin(context)
        yield pb.ListKeysResponse(keys=[b"b"])


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service on a free port."""
    service, server = Service(), aio.server()
    origin_pb2_grpc.add_OriginServiceServicer_to_server(service, server)
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(None)


@pytest.fixture
async def origin(service: Service, tmp_path: Path) -> AsyncIterator[GrpcOrigin]:
    """An origin there."""
    (tmp_path / "token").write_text("Bearer hunter2\n")
    origin = GrpcOrigin(target=service.target, metadata_files={"authorization": str(tmp_path / "token")})
    yield origin
    await origin.close()


async def refusal(work: Any) -> tuple[str, bool, bool]:
    with pytest.raises(OriginError) as caught:
        await work
    return str(caught.value), caught.value.again, caught.value.maybe_done


async def skipping(keys: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    """Yield keys without the first ones."""
    async for key in keys:
        if count:
            count -= 1
        else:
            yield key


async def test_values(service: Service, origin: GrpcOrigin) -> None:
    """With their lives and tags, or not for keeping; errors are each key's own."""
    service.values = {
        b"a": pb.LoadedValue(found=True, value=b'{"n":1}', ttl_ms=1_500, tags=["t"]),
        b"\xff": pb.LoadedValue(found=True, value=b"null", unkept=True),
        b"bad": pb.LoadedValue(error="no such shard", again=True),
        b"odd": pb.LoadedValue(found=True, value=b"{"),
    }
    assert await origin.load("a") == Loaded({"n": 1}, 1.5, ("t",))
    assert service.metadata["authorization"] == "Bearer hunter2"
    assert await origin.load("missing") is ABSENT
    assert await refusal(origin.load("bad")) == ("no such shard", True, False)
    loader = PluginLoader(origin, most_keys=10, closes=False)
    found = await loader.load([b"a", b"\xff", b"missing", b"bad", b"odd"])
    data, flags = Codec().encode(None)
    assert (getattr(found[1], "value", None), getattr(found[1], "flags", None), found[2]) == (data, flags, None)
    assert [str(each) for each in found[3:]] == ["no such shard", "the value is no JSON"]


async def test_writes(service: Service, origin: GrpcOrigin) -> None:
    """Each has its outcome; what cannot be written as JSON does not leave."""
    service.outcomes = {
        b"refused": pb.WriteOutcome(status=pb.WRITE_STATUS_REFUSED, text="too long"),
        b"failed": pb.WriteOutcome(status=pb.WRITE_STATUS_FAILED),
        b"unknown": pb.WriteOutcome(status=pb.WRITE_STATUS_UNKNOWN),
    }
    await origin.write(Write("a", {"ä": [1]}, 7))
    assert service.writes == [pb.OriginWrite(key=b"a", value='{"ä":[1]}'.encode(), version=7)]
    sink = PluginSink(origin, most_writes=10, closes=False)
    data, flags = Codec().encode(1)
    keys = [b"a", b"refused", b"failed", b"unknown"]
    found = await sink.write([*(SinkWrite(key, data, flags, 8) for key in keys), SinkWrite(b"gone", None, 0, 9)])
    assert [each and (str(each), each.again, each.maybe_done) for each in found] == [
        None,
        ("too long", False, False),
        ("the origin has not done it", True, False),
        ("the origin does not know whether it has done it", True, True),
        None,
    ]
    assert service.writes[-1] == pb.OriginWrite(key=b"gone", removes=True, version=9)
    count = len(service.writes)
    assert (await refusal(origin.write(Write("a", object(), 9))))[1:] == (False, False)
    assert len(service.writes) == count


async def test_list_of_keys(service: Service, origin: GrpcOrigin) -> None:
    """As they come; a list that breaks off is none."""
    assert [key async for key in PluginLoader(origin, closes=False).enumerate()] == [b"a", b"\xff", b"b"]
    service.fails = grpc.StatusCode.INTERNAL
    assert await refusal(anext(skipping(origin.keys(), 2))) == ("INTERNAL", True, False)


@pytest.mark.parametrize(
    ("code", "again", "maybe_done"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, False, False),
        (grpc.StatusCode.UNIMPLEMENTED, False, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True, False),
        (grpc.StatusCode.UNAVAILABLE, True, True),
        (grpc.StatusCode.INTERNAL, True, True),
    ],
)
async def test_calls_that_fail(
    service: Service, origin: GrpcOrigin, code: grpc.StatusCode, again: bool, maybe_done: bool
) -> None:
    """They are told by their status; a write may have been done, unless it says otherwise."""
    service.fails = code
    assert await refusal(origin.load("a")) == (code.name, again, False)
    assert await refusal(origin.write(Write("a", 1, 1))) == (code.name, again, maybe_done)


async def test_answers_that_do_not_fit(service: Service, origin: GrpcOrigin) -> None:
    """The service has a defect; it may have written."""
    service.short = True
    assert await refusal(origin.load("a")) == ("the service has answered 0 of 1 keys", False, False)
    assert await refusal(origin.write(Write("a", 1, 1))) == ("the service has answered 0 of 1 writes", False, True)


async def test_service_that_is_away() -> None:
    """It is an outage."""
    origin = GrpcOrigin(target="127.0.0.1:1", format="bytes", timeout_s=5.0)
    assert await refusal(origin.load("a")) == ("UNAVAILABLE", True, False)
    await origin.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": ""}, "options.target: must say where the service is"),
        ({"target": "hunter2:1", "format": "xml"}, "options.format: must be json or bytes"),
        ({"target": "hunter2:1", "ca_file": "x"}, "options.ca_file: is of use with tls = true only"),
        ({"target": "hunter2:1", "tls": True, "ca_file": "/nonexistent"}, "options.ca_file: FileNotFoundError"),
        ({"target": "hunter2:1", "metadata_files": {"a": "/nonexistent"}}, "options.metadata_files: FileNotFound"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], text: str) -> None:
    """Each is named, and no value is repeated."""
    with pytest.raises(ConfigError) as caught:
        find_plugin("grpc", options, LOADERS)
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)
