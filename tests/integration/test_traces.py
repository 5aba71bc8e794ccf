"""A node process exports its part of a trace to a collector, which here is the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

from cachenode_api.tracing import switch
from cachenode_client import CacheClient, tracing
from tests.support.static_nodes import static_nodes


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.exported: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.exported += request.resource_spans
        return pb.ExportTraceServiceResponse()


async def test_node_exports_to_a_collector(tmp_path: Path) -> None:
    """The span of a batch is below the client's, says whose it is, and comes when the node stops at the latest."""
    collector, listener = Collector(), aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, listener)  # type: ignore[no-untyped-call]
    port = listener.add_insecure_port("127.0.0.1:0")
    await listener.start()
    tracing.enable(TracerProvider(shutdown_on_exit=False))
    try:
        settings = {"TRACING__ENDPOINT": f"http://127.0.0.1:{port}", "CLUSTER__DISCOVERY": "none"}
        async with static_nodes(tmp_path, 1, **settings) as (_, [address]):
            async with CacheClient(address, near_cache=None) as client:
                assert switch.tracer is not None
                with switch.tracer.start_as_current_span("request") as request:
                    assert await client.get_or_load("a secret key", lambda: "v") == "v"
    finally:
        tracing.disable()
        await listener.stop(None)
    [resource] = {each.resource.SerializeToString(): each.resource for each in collector.exported}.values()
    names = {each.key: each.value.string_value for each in resource.attributes}
    assert (names["service.name"], names["service.instance.id"]) == ("cachenode", "node-0")
    spans = [span for each in collector.exported for scope in each.scope_spans for span in scope.spans]
    assert sorted(span.name for span in spans) == ["cachenode.fulfill", "cachenode.lease"]
    assert {int.from_bytes(span.trace_id, "big") for span in spans} == {request.get_span_context().trace_id}
    assert b"secret" not in b"".join(each.SerializeToString() for each in collector.exported)
