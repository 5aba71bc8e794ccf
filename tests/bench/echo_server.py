"""A bare grpcio server: what the transport alone costs, and so the bound of anything built on it.

It answers with what was made ready beforehand, of the size of the node's real answers. On the stream, and in one of
its two unary methods, neither side encodes or decodes anything, which favours it; the other unary method takes and
returns messages, as any client and server made with grpcio-tools do.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import grpc
import grpc.aio

from cachenode_api.v1 import cache_pb2, common_pb2, session_pb2
from tests.bench.workload import VALUE, key_at

__all__ = ["BYTES_METHOD", "STREAM_METHOD", "UNARY_METHOD", "stream_messages", "unary_messages"]

STREAM_METHOD = "/bench.Echo/Stream"
UNARY_METHOD = "/bench.Echo/Unary"
BYTES_METHOD = "/bench.Echo/UnaryBytes"
_RECORD_HEADER_BYTES = 24


def stream_messages() -> tuple[bytes, bytes]:
    """Return a request and a reply as large as those of one get on a session."""
    key = key_at(0).encode()
    batch = common_pb2.Batch(
        id=1000, operation=common_pb2.OPERATION_GET, namespace="plain", keys=[key], timeout_ms=1000
    )
    reply = common_pb2.Reply(id=1000, records=[bytes(_RECORD_HEADER_BYTES) + VALUE], now_s=1.0)
    return (
        session_pb2.ClientFrame(batches=[batch]).SerializeToString(),
        session_pb2.ServerFrame(replies=[reply]).SerializeToString(),
    )


def unary_messages() -> tuple[bytes, bytes]:
    """Return a request and a reply as large as those of one unary get."""
    header = common_pb2.ResponseHeader(node_id="node-0", view_epoch=1)
    entry = cache_pb2.Entry(found=True, value=VALUE, version=1 << 40, ttl_ms=3_600_000, layer=common_pb2.LAYER_L1)
    return (
        cache_pb2.GetRequest(namespace="plain", key=key_at(0).encode()).SerializeToString(),
        cache_pb2.GetResponse(header=header, entry=entry).SerializeToString(),
    )


async def _serve() -> None:
    _, stream_reply = stream_messages()
    _, unary_reply = unary_messages()

    async def stream(_request: object, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(stream_reply)

    message = cache_pb2.GetResponse.FromString(unary_reply)

    async def unary(_request: cache_pb2.GetRequest, _context: object) -> cache_pb2.GetResponse:
        return message

    async def unary_bytes(_request: bytes, _context: object) -> bytes:
        return unary_reply

    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Unary": grpc.unary_unary_rpc_method_handler(
            unary, cache_pb2.GetRequest.FromString, cache_pb2.GetResponse.SerializeToString
        ),
        "UnaryBytes": grpc.unary_unary_rpc_method_handler(unary_bytes),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}", "pid": os.getpid()}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
