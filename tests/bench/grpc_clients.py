"""Plain grpcio clients: of the bare echo, and of our unary service as a program without the SDK would call it.

Nothing of ours is imported before grpc, so gRPC is as it comes (`cachenode_api.transport`).
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from tests.bench.contenders import AsyncContender
from tests.bench.echo_server import BYTES_METHOD, STREAM_METHOD, UNARY_METHOD, stream_messages, unary_messages

__all__ = ["GrpcEchoStream", "GrpcEchoUnary", "GrpcEchoUnaryBytes", "GrpcUnary"]


class GrpcEchoUnary(AsyncContender):
    """A unary call with the messages of a get, and nothing behind it."""

    async def open(self) -> None:
        """Connect."""
        self.channel = grpc.aio.insecure_channel(self.settings.address)
        call: Any = self.channel.unary_unary(
            UNARY_METHOD, cache_pb2.GetRequest.SerializeToString, cache_pb2.GetResponse.FromString
        )
        namespace = self.settings.namespace

        async def read(key: str) -> bool:
            response = await call(cache_pb2.GetRequest(namespace=namespace, key=key.encode()))
            found: bool = response.entry.found
            return found

        self.call = read
        await self.channel.channel_ready()

    async def close(self) -> None:
        """Disconnect."""
        await self.channel.close()


class GrpcEchoUnaryBytes(AsyncContender):
    """A unary call whose bytes nobody encodes or decodes."""

    async def open(self) -> None:
        """Connect."""
        self.channel = grpc.aio.insecure_channel(self.settings.address)
        message, _ = unary_messages()
        stub: Any = self.channel.unary_unary(BYTES_METHOD)
        self.call = lambda _item: stub(message)
        await self.channel.channel_ready()

    async def close(self) -> None:
        """Disconnect."""
        await self.channel.close()


class GrpcEchoStream(AsyncContender):
    """Messages to and fro on one stream, bytes that nobody encodes or decodes."""

    async def open(self) -> None:
        """Connect."""
        self.channel = grpc.aio.insecure_channel(self.settings.address)
        message, _ = stream_messages()
        stream: Any = self.channel.stream_stream(STREAM_METHOD)()

        async def exchange(_item: object) -> Any:
            await stream.write(message)
            return await stream.read()

        self.stream = stream
        self.call = exchange
        await self.channel.channel_ready()

    async def close(self) -> None:
        """End the stream, then disconnect."""
        self.stream.cancel()
        await self.channel.close()


class GrpcUnary(AsyncContender):
    """``CacheService.Get`` through the generated stub, with no help from the SDK."""

    async def open(self) -> None:
        """Connect."""
        self.channel = grpc.aio.insecure_channel(self.settings.address)
        get = cache_pb2_grpc.CacheServiceStub(self.channel).Get
        namespace = self.settings.namespace

        async def read(key: str) -> bool:
            response = await get(cache_pb2.GetRequest(namespace=namespace, key=key.encode()))
            return response.entry.found

        self.call = read
        await self.channel.channel_ready()

    async def close(self) -> None:
        """Disconnect."""
        await self.channel.close()
