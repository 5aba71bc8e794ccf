"""What strangers do to a node, each in a process of its own: ``python -m tests.integration.floods.attacks NAME …``.

Every attack is bounded: by its size, and by the time that it is given. It writes "under way" once it has begun, and
holds what it holds until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio

from cachenode_api.v1 import cache_pb2, cache_pb2_grpc, common_pb2, session_pb2
from tests.support.raw_http2 import RawConnection

__all__ = ["ATTACKS"]

Attack = Callable[[str, int], Awaitable[object]]
_AT_ONCE = 50
_SESSION = "/cachenode.v1.SessionService/Session"
_SET = "/cachenode.v1.CacheService/Set"
_EXPLAIN = (
    b"POST /ui/api/explain HTTP/1.1\r\nHost: localhost\r\nX-Cachenode-Console: 1\r\nContent-Type: application/json\r\n"
)


async def _each(count: int, one: Callable[[int], Awaitable[object]]) -> list[object]:
    """Do something so many times, some of them at once; failures are what attackers get."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def guarded(number: int) -> object:
        async with gate:
            try:
                async with asyncio.timeout(10):
                    return await one(number)
            except (OSError, TimeoutError, aio.AioRpcError):
                return None

    return await asyncio.gather(*(guarded(number) for number in range(count)))


def _message(body: bytes, *, packed: bool = False) -> bytes:
    """Return a gRPC message."""
    return bytes((packed,)) + len(body).to_bytes(4, "big") + body


async def garbage(address: str, size: int) -> None:
    """Connections with random bytes; calls whose message is cut off, longer than it says, or no protobuf."""
    rng = random.Random(size)
    host, _, port = address.rpartition(":")

    async def one(number: int) -> None:
        if number % 2:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(rng.randbytes(rng.randrange(1, 2_000)))
            await writer.drain()
            writer.close()
            return
        good = session_pb2.ClientFrame(
            batches=[common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k"])]
        ).SerializeToString()
        bodies = [_message(good[:-2]), _message(rng.randbytes(50)), _message(good)[:-1], b"\xff" * 30]
        async with await RawConnection.open(address) as connection:
            stream = connection.begin(rng.choice([_SESSION, _SET]))
            connection.http2.send_data(stream, rng.choice(bodies), end_stream=True)
            await connection.flush()
            await asyncio.sleep(0.01)

    await _each(size, one)


async def oversized(address: str, size: int) -> None:
    """Messages over the limit of a frame, values over that of a value, and long headers."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    async with aio.insecure_channel(address, options=options) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        values = [bytes((4 << 20) + 1), bytes((1 << 20) + 1)]

        async def one(number: int) -> None:
            long = (("x-long", "x" * 17_000),) if number % 3 == 2 else ()
            value = b"" if long else values[number % 3]
            await cache.Set(cache_pb2.SetRequest(key=b"large", value=value), metadata=long)

        await _each(size, one)


async def bomb(address: str, size: int) -> None:
    """Small messages that are 64 MB of zeros once they are unpacked."""
    packed = gzip.compress(bytes(64 << 20), 9)

    async def one(_: int) -> None:
        async with await RawConnection.open(address) as connection:
            stream = connection.begin(_SET, ("grpc-encoding", "gzip"))
            data = memoryview(_message(packed, packed=True))
            for at in range(0, len(data), 16_384):
                while connection.http2.local_flow_control_window(stream) < 16_384:  # noqa: ASYNC110 - h2 tells nobody
                    await asyncio.sleep(0.01)
                connection.http2.send_data(stream, bytes(data[at : at + 16_384]), end_stream=at + 16_384 >= len(data))
                await connection.flush()
            await asyncio.sleep(0.2)

    await _each(size, one)


async def resets(address: str, size: int) -> None:
    """Calls that are begun and reset in the same breath."""
    left = size
    while left > 0:
        async with await RawConnection.open(address) as connection:
            while left > 0 and not connection.closed and connection.went_away is None:
                for _ in range(min(100, left)):
                    connection.http2.reset_stream(connection.begin(_SET))
                    left -= 1
                await connection.flush()
                await asyncio.sleep(0)


async def idle(address: str, size: int) -> list[RawConnection]:
    """Connections that say nothing after the handshake."""

    async def one(_: int) -> RawConnection:
        return await RawConnection.open(address)

    return [each for each in await _each(size, one) if isinstance(each, RawConnection)]


async def slow_readers(address: str, size: int) -> list[RawConnection]:
    """Sessions that ask for large values and never read them: their windows stay as small as they begin."""

    async def one(_: int) -> RawConnection:
        connection = await RawConnection.open(address)
        connection.http2.acknowledge_received_data = lambda *_: None  # type: ignore[method-assign]
        stream = connection.begin(_SESSION)
        batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k%d" % n for n in range(200)])
        frame = _message(session_pb2.ClientFrame(batches=[batch]).SerializeToString())
        for _ in range(200):
            if connection.http2.local_flow_control_window(stream) < len(frame):
                break
            connection.http2.send_data(stream, frame)
            await connection.flush()
        return connection

    return [each for each in await _each(size, one) if isinstance(each, RawConnection)]


async def pings(address: str, size: int) -> None:
    """Connections that ping as fast as they can until they lose them."""

    async def one(_: int) -> None:
        async with await RawConnection.open(address) as connection:
            for _ in range(100):
                connection.http2.ping(b"12345678")
            await connection.flush()
            await asyncio.sleep(0.02)

    await _each(size, one)


async def loris(address: str, size: int) -> list[object]:
    """Connections that send their first bytes one by one, and never come to an end."""
    host, _, port = address.rpartition(":")

    async def drip(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for byte in b"PRI * HTTP/2.0\r\n\r\nSM":
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.5)

    async def one(_: int) -> object:
        return asyncio.create_task(drip((await asyncio.open_connection(host, int(port)))[1]))

    return await _each(size, one)


async def http_idle(address: str, size: int) -> list[object]:
    """Connections to the HTTP port that say nothing, or half of a request."""
    host, _, port = address.rpartition(":")

    async def one(number: int) -> object:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: " if number % 2 else b"")
        return writer

    return await _each(size, one)


async def http_loris(address: str, size: int) -> list[object]:
    """Headers and bodies that come byte by byte, and large answers that nobody reads."""
    host, _, port = address.rpartition(":")
    said = (
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: ",
        _EXPLAIN + b"Content-Length: 9999\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50,
    )

    async def drip(writer: asyncio.StreamWriter, begin: bytes) -> None:
        with contextlib.suppress(OSError):
            writer.write(begin)
            for _ in range(40):
                await asyncio.sleep(0.25)
                writer.write(b"x")
                await writer.drain()

    async def one(number: int) -> object:
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        return asyncio.create_task(drip(writer, said[number % 3]))

    return await _each(size, one)


async def http_oversized(address: str, size: int) -> None:
    """Headers that are too long or too many, bodies that are too large, and what is no HTTP."""
    host, _, port = address.rpartition(":")
    rng = random.Random(size)
    begin = b"GET /metrics HTTP/1.1\r\nHost: a\r\n"
    said = (
        lambda: begin + b"X-A: " + b"x" * 100_000 + b"\r\n\r\n",
        lambda: begin + b"".join(b"X-%d: x\r\n" % number for number in range(5_000)) + b"\r\n",
        lambda: _EXPLAIN + b"Content-Length: 10000000\r\n\r\n" + bytes(1_000_000),
        lambda: rng.randbytes(rng.randrange(1, 2_000)),
    )

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said[number % len(said)]())
        await reader.read(1_000)
        writer.close()

    await _each(size, one)


ATTACKS: dict[str, tuple[Attack, int, str]] = {
    "garbage": (garbage, 400, "58"),
    "oversized": (oversized, 30, "56"),
    "bomb": (bomb, 2, "57"),
    "resets": (resets, 10_000, "59"),
    "idle": (idle, 1_000, "60"),
    "slow-readers": (slow_readers, 50, "55"),
    "pings": (pings, 100, "54"),
    "loris": (loris, 300, "61"),
    "http-idle": (http_idle, 3_000, "60"),
    "http-loris": (http_loris, 300, "61"),
    "http-oversized": (http_oversized, 200, "56"),
}
"""By name: what it does, how large it is in CI, and the number of its scenario. Those named http are for that port."""


async def _main(name: str, address: str, size: int) -> None:
    held = await ATTACKS[name][0](address, size)
    print("under way", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    del held


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
