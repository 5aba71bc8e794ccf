"""A bare grpcio server that writes one frame to many streams and waits for as many answers, and who answers.

The bound of what one node can do to have a copy dropped everywhere: frames as large as those of an invalidation and
its acknowledgement, bytes that nobody encodes or decodes. `grpc` comes first, so it is as it comes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from time import perf_counter
from typing import Any

import grpc
import grpc.aio

from cachenode_api.v1 import common_pb2, session_pb2
from tests.bench.orders import orders, run, say
from tests.bench.workload import key_at

__all__: list[str] = []

_METHOD = "/bench.FanOut/Stream"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
_INVALIDATION = common_pb2.Invalidation(namespace="default", keys=[key_at(0).encode()])
_FRAME = session_pb2.ServerFrame(invalidations=[_INVALIDATION], sequence=1000).SerializeToString()
_ANSWER = session_pb2.ClientFrame(acknowledged=1000).SerializeToString()


class _FanOut:
    """The server's streams, and how many of them still have to answer."""

    def __init__(self, streams: int) -> None:
        self.streams: list[Any] = []
        self.complete = asyncio.Event()
        self._wanted = streams
        self._left = 0
        self._done: asyncio.Future[None] | None = None

    async def stream(self, _request: object, context: Any) -> None:
        self.streams.append(context)
        if len(self.streams) == self._wanted:
            self.complete.set()
        while await context.read() is not grpc.aio.EOF:
            self._left -= 1
            if not self._left and self._done is not None:
                self._done.set_result(None)

    async def once(self) -> float:
        """Write to all and wait for all; return the microseconds."""
        self._left, self._done = len(self.streams), asyncio.get_running_loop().create_future()
        start = perf_counter()
        await asyncio.gather(*(stream.write(_FRAME) for stream in self.streams))
        await self._done
        return (perf_counter() - start) * 1e6


async def _serve(streams: int) -> None:
    fan_out, server = _FanOut(streams), grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Stream": grpc.stream_stream_rpc_method_handler(fan_out.stream)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.FanOut", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(address=f"127.0.0.1:{port}")
    async for order in orders():
        await fan_out.complete.wait()
        gc.collect()
        say(took_us=[await fan_out.once() for _ in range(order["count"])])
    await server.stop(0)


async def _answer(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stream: Any = channel.stream_stream(_METHOD)()
        try:
            while await stream.read() is not grpc.aio.EOF:
                await stream.write(_ANSWER)
        finally:
            stream.cancel()


async def _join(address: str, streams: int) -> None:
    tasks = [asyncio.create_task(_answer(address)) for _ in range(streams)]
    say(ready=True)
    async for _ in orders():
        pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    main = _join(told["address"], told["streams"]) if "address" in told else _serve(told["streams"])
    run(main, uvloop=told["uvloop"])
