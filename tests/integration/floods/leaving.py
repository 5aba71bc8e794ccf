"""Callers who leave at any moment: every call of every service, given up before, while, or after it is answered.

``python -m tests.integration.floods.leaving ADDRESS HTTP COUNT SEED`` does so many things to a node that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cachenode_api.v1 import admin_pb2, cache_pb2, common_pb2, peer_pb2, region_pb2, session_pb2
from tests.support.raw_http2 import RawConnection

__all__ = ["Leavers"]

_FILES = (admin_pb2, cache_pb2, session_pb2, peer_pb2, region_pb2, health_pb2, reflection_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "Drain"  # it ends the node, by design
}
"""What may be called, by its whole name."""
_SPACES = ("", "", "slow", "none")
_OPERATIONS = (1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 30)
_AT_ONCE = 40
_CHANNELS = 6


class Leavers:
    """Make calls and leave them.

    Args:
        address: Of the node.
        http: Of its HTTP port.
        seed: Of what they do, and when.

    Attributes:
        done: How often each thing was done.
    """

    def __init__(self, address: str, http: str, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._address, self._http = address, http
        self._rng = random.Random(seed)
        self._channels = [self._channel() for _ in range(_CHANNELS)]

    def _channel(self) -> aio.Channel:
        return aio.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)])

    async def run(self, count: int) -> None:
        """Do so many things, some at once."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(do: Callable[[], Any]) -> None:
            async with gate:
                with contextlib.suppress(
                    OSError, TimeoutError, aio.AioRpcError, aio.UsageError, asyncio.CancelledError
                ):
                    async with asyncio.timeout(10):
                        await do()

        acts = [self._call] * 80 + [self._cut, self._page] * 8 + [self._lose_channel]
        await asyncio.gather(*(one(self._rng.choice(acts)) for _ in range(count)))
        for channel in self._channels:
            await channel.close()

    async def _moment(self) -> None:
        """Wait for nothing, for a turn of the loop, or for some milliseconds."""
        await asyncio.sleep(self._rng.choice((0, self._rng.uniform(0, 0.01), self._rng.uniform(0, 0.1))))

    async def _call(self) -> None:
        """Call something over a channel that others use too, and cancel it."""
        name, method = self._rng.choice(list(METHODS.items()))
        self.done[name] += 1
        channel = self._rng.choice(self._channels)
        answer = GetMessageClass(method.output_type).FromString
        time_s = self._rng.choice((None, 0.001, 0.02, 5.0))
        encode = type(self._message(method.input_type)).SerializeToString
        if method.client_streaming:
            call: Any = channel.stream_stream(name, encode, answer)(self._messages(method.input_type), timeout=time_s)
        else:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(name, encode, answer)(self._message(method.input_type), timeout=time_s)
        try:
            await self._moment()
            for _ in range(self._rng.randrange(3) if method.server_streaming else 0):
                async with asyncio.timeout(0.05):
                    await call.read()
            if self._rng.random() < 0.2 and not method.server_streaming:
                await call
        finally:
            call.cancel()

    async def _cut(self) -> None:
        """Call something over a connection of its own, and cut that: with a reset, or in the middle of a message."""
        name, method = self._rng.choice(list(METHODS.items()))
        self.done["cut"] += 1
        async with await RawConnection.open(self._address) as connection:
            stream = connection.begin(name)
            raw = self._message(method.input_type).SerializeToString()
            data = b"\0" + len(raw).to_bytes(4, "big") + raw
            cut = self._rng.randrange(len(data) + 1)
            connection.http2.send_data(stream, data[: min(cut, 16_000)], end_stream=self._rng.random() < 0.5)
            await connection.flush()
            await self._moment()
            if self._rng.random() < 0.5:
                _reset(connection._writer)

    async def _lose_channel(self) -> None:
        """Close a channel under the calls of others."""
        self.done["channel"] += 1
        at = self._rng.randrange(_CHANNELS)
        channel, self._channels[at] = self._channels[at], self._channel()
        await channel.close()

    async def _page(self) -> None:
        """Open the console's live stream, a call of it, or the webhook, and leave."""
        self.done["http"] += 1
        path = self._rng.choice(("/ui/api/live", "/ui/api/hot_keys", "/ui/api/session", "/events", "/metrics"))
        host, _, port = self._http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        verb = "GET" if path == "/metrics" else "POST"
        head = (
            f"{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Cachenode-Console: 1\r\nContent-Type: application/json\r\n"
        )
        said = head.encode() + b"Content-Length: 2\r\n\r\n{}"
        writer.write(said[: self._rng.choice((len(said), len(said) - 1, self._rng.randrange(len(said))))])
        await self._moment()
        if self._rng.random() < 0.5:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(500)
        _reset(writer)

    async def _messages(self, kind: Any) -> AsyncIterator[Message]:
        for _ in range(self._rng.randrange(6)):
            yield self._message(kind)
            await self._moment()
        if self._rng.random() < 0.7:
            await asyncio.sleep(0.2)

    def _message(self, kind: Any) -> Any:
        """Return a message that makes sense often enough."""
        if kind.name == "ClientFrame":
            return self._frame()
        if kind.name == "Batch":
            return self._batch()
        rng, message = self._rng, GetMessageClass(kind)()
        key = b"k%d" % rng.randrange(20)
        likely: dict[str, Any] = {
            "namespace": rng.choice(_SPACES),
            "key": key,
            "keys": [key, b"k1"],
            "lease_ms": 300,
            "tags": ["t"] if rng.random() < 0.5 else [],
            "token": rng.randrange(1, 99),
            "value": bytes(rng.choice((3, 60_000))),
        }
        for field in kind.fields:
            if field.name in likely:
                with contextlib.suppress(TypeError, AttributeError):  # another message's means something else by it
                    value = likely[field.name]
                    if field.is_repeated:
                        getattr(message, field.name).extend(value)
                    else:
                        setattr(message, field.name, value)
        return message

    def _frame(self) -> session_pb2.ClientFrame:
        rng = self._rng
        frame = session_pb2.ClientFrame(batches=[self._batch() for _ in range(rng.randrange(3))])
        frame.heartbeat.nonce = rng.randrange(9)
        frame.goodbye = rng.random() < 0.1
        if rng.random() < 0.4:
            frame.hello.near_cache = True
        return frame

    def _batch(self) -> common_pb2.Batch:
        rng = self._rng
        operation: Any = rng.choice(_OPERATIONS)
        batch = common_pb2.Batch(id=rng.randrange(1, 1 << 40), operation=operation)
        batch.namespace, batch.lease_ms = rng.choice(_SPACES), 300
        batch.keys.extend(b"k%d" % rng.randrange(20) for _ in range(rng.randrange(1, 4)))
        if batch.operation == common_pb2.OPERATION_SET:
            batch.values.extend(bytes(rng.choice((3, 60_000))) for _ in batch.keys)
        return batch


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a farewell."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main(address: str, http: str, count: int, seed: int) -> None:
    leavers = Leavers(address, http, seed)
    await leavers.run(count)
    print(dict(leavers.done))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
