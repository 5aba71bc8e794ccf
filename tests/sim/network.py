"""gRPC streams between hosts, without gRPC: what the stubs and the server of grpc.aio do, in virtual time.

A stream is two ordered queues of serialized messages. Each message takes its time, and none overtakes another: that is
TCP. So nothing is lost or doubled within a stream; a stream breaks instead, and then both its ends notice, or one, or
none until keepalive does. Between two machines that are cut off from each other messages wait, as in a socket's
buffer, and go on when the cut heals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from random import Random
from types import SimpleNamespace, coroutine
from typing import Any, Self

import grpc
from grpc import aio

from tests.sim.loop import HOST, Host, SimLoop

__all__ = ["Cut", "Network", "Stream"]

_MOST_UNDELIVERED = 64
_CONNECT_S = 20.0
_KEEPALIVE_S = (12.0, 15.0)
"""How long a silent connection lasts: a ping after ten seconds and its time limit."""

_END = "end"
Cut = tuple[str, str]
"""From a machine, to a machine."""
_NO_METADATA = aio.Metadata()


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the others have their turn: `asyncio.sleep(0)` without its detour."""
    yield


def _error(code: grpc.StatusCode, details: str) -> aio.AioRpcError:
    return aio.AioRpcError(code, _NO_METADATA, _NO_METADATA, details)


class _Pipe:
    """One direction of a stream.

    Attributes:
        mute: Nothing that is sent arrives any more, and the sender does not know it.
        closed: The reader has gone.
    """

    def __init__(self, network: Network, cut: Cut) -> None:
        self.mute = False
        self.closed = False
        self.cut = cut
        self._network = network
        self._flying: deque[tuple[float, Any]] = deque()
        self._inbox: deque[Any] = deque()
        self._armed = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._control: Callable[[Any], bool] | None = None
        self.parse: Callable[[bytes], Any] = bytes

    def on_control(self, control: Callable[[Any], bool]) -> None:
        """Call with each item that is not bytes when it arrives; what it returns True for is not read."""
        self._control = control

    @property
    def full(self) -> bool:
        return len(self._flying) + len(self._inbox) >= _MOST_UNDELIVERED

    @property
    def undelivered(self) -> int:
        return len(self._flying)

    def push(self, item: Any) -> None:
        network, flying = self._network, self._flying
        at = network.loop.now + network.delay(self.cut)
        if flying and flying[-1][0] > at:
            at = flying[-1][0]
        flying.append((at, item))
        if not self._armed:
            self.go_on()

    def go_on(self) -> None:
        """Deliver what is due, unless the machines are cut off from each other."""
        if self._flying and not self._armed and not self.mute and self.cut not in self._network.cuts:
            self._armed = True
            self._network.loop.after(max(0.0, self._flying[0][0] - self._network.loop.now), self._deliver)

    def _deliver(self) -> None:
        self._armed = False
        network = self._network
        if self.cut in network.cuts or self.mute:
            return
        while self._flying and self._flying[0][0] <= network.loop.now:
            _, item = self._flying.popleft()
            network.delivered += 1
            if type(item) is not bytes and self._control is not None and self._control(item):
                continue
            if not self.closed:
                self._inbox.append(item)
                if network.trace is not None and type(item) is bytes:
                    network.trace(self, item)
        self.wake()
        self.go_on()

    def wake(self) -> None:
        """Let reader and writers look again."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._writers:
            writers, self._writers = self._writers, []
            for writer in writers:
                if not writer.done():
                    writer.set_result(None)

    def take(self) -> Any:
        """Return the next item, None if none has arrived."""
        if not self._inbox:
            return None
        item = self._inbox.popleft()
        if self._writers:
            self.wake()
        return item

    def drop(self, *, flying: bool) -> None:
        """Forget what has arrived and was not read, or what has not arrived."""
        (self._flying if flying else self._inbox).clear()

    def news(self) -> asyncio.Future[None]:
        """Return what ends when there may be something to read."""
        self._reader = reader = self._network.loop.create_future()
        return reader

    async def room(self) -> None:
        """Wait until there may be room."""
        writer = self._network.loop.create_future()
        self._writers.append(writer)
        await writer


class Stream:
    """One call of one method: its client's end and its server's.

    Attributes:
        client: The host that called.
        server: The host that serves, None until the connection is there.
        ended: True once neither end uses it.
    """

    def __init__(self, network: Network, client: Host, address: str, method: str) -> None:
        self.network = network
        self.client = client
        self.server: Host | None = None
        self.method = method
        there = network.machine(address)
        self.up = _Pipe(network, (client.name, there))
        self.down = _Pipe(network, (there, client.name))
        self.call: Any = None
        self.context: Any = None
        self.name = f"{client.name}>{there}#{network.next_number()}"
        self.up.on_control(self._to_server)
        self.down.on_control(self._to_client)

    @property
    def ended(self) -> bool:
        return bool(self.call.over and (self.context is None or self.context.over))

    def _to_server(self, item: Any) -> bool:
        cancelled = bool(item == "cancel")
        if cancelled and self.context is not None:
            self.context.lost()
        return cancelled

    def _to_client(self, item: Any) -> bool:
        code, details = item
        self.call.status = (code, details)
        return False

    def connected(self, server: _Server) -> None:
        """Let the server begin to serve it."""
        self.server = server.host
        self.context = _ServerEnd(self, server)

    # Faults.

    def lose(self, side: str, rng: Random) -> None:
        """Let an end notice that the connection is lost; the other end may not."""
        pipe = self.down if side == "client" else self.up
        if rng.random() < 0.5:
            pipe.drop(flying=False)
        pipe.mute = True
        if side == "client":
            self.call.fail(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
        elif self.context is not None:
            self.context.lost()

    def mute(self, side: str) -> None:
        """Let nothing arrive at an end any more."""
        (self.down if side == "client" else self.up).mute = True

    def gone(self, host: Host, rng: Random, *, silently: bool) -> None:
        """Take note that the process at one end has gone."""
        mine, other = ("client", "server") if host is self.client else ("server", "client")
        self.mute(mine)
        if mine == "client":
            self.call.over = True
        else:
            self.context.over = True
        network = self.network
        if silently:
            self.mute(other)
            network.loop.after(rng.uniform(*_KEEPALIVE_S), self.lose, other, rng)
            return
        if rng.random() < 0.5:  # what had left the process may still arrive
            self.mute(other)
        cut = self.up.cut if mine == "client" else self.down.cut
        network.loop.after(rng.uniform(0.0, 0.01), network.when_open, cut, self.lose, other, rng)


class _ClientEnd:
    """What a stub's stream-stream method returns."""

    def __init__(self, stream: Stream, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any]) -> None:
        self.over = False
        self.status: tuple[grpc.StatusCode, str] | None = None
        self._stream = stream
        self._serialize = serialize
        self._deserialize = deserialize
        self._connected = stream.network.loop.create_future()
        self._half_closed = False
        self._cancelled = False

    def connected(self) -> None:
        if not self._connected.done():
            self._connected.set_result(None)

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        if self.over:
            return
        if self.status is None:
            self.status = (code, details)
        self.over = True
        self.connected()
        self._stream.down.wake()
        self._stream.up.wake()
        self._stream.network.forget(self._stream)

    def done(self) -> bool:
        return self.over

    def cancel(self) -> bool:
        if self.over:
            return False
        self._cancelled = True
        self._stream.up.push("cancel")
        self._stream.down.closed = True
        self.fail(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        return True

    async def write(self, message: Any) -> None:
        if self.over:
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._half_closed:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        try:
            if not self._connected.done():
                await asyncio.shield(self._connected)
            data = self._serialize(message)
            while self._stream.up.full and not self.over:
                await self._stream.up.room()
            if self.over:
                self._raise()
            self._stream.up.push(data)
            await _turn()  # as through gRPC's poller
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
        if not self.over and not self._half_closed:
            self._half_closed = True
            self._stream.up.push(_END)

    def __aiter__(self) -> _ClientEnd:
        return self

    async def __anext__(self) -> Any:
        try:
            if not self._connected.done():
                await asyncio.shield(self._connected)
            while True:
                item = self._stream.down.take()
                if type(item) is bytes:
                    return self._deserialize(item)
                if item is not None:  # the status
                    self.fail(*item)
                if self.over:
                    self._raise()
                    raise StopAsyncIteration
                await self._stream.down.news()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _raise(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        if self.status is not None and self.status[0] is not grpc.StatusCode.OK:
            raise _error(*self.status)


class _ServerEnd:
    """The context of a handler, the iterator over its requests, and the task that runs it."""

    def __init__(self, stream: Stream, server: _Server) -> None:
        self.over = False
        self._stream = stream
        self._eof = False
        handler = server.handler(stream.method)
        self._serialize = handler.response_serializer
        self._deserialize = stream.up.parse = handler.request_deserializer
        self._task = stream.network.loop.spawn(server.host, self._run(handler.stream_stream))

    async def _run(self, behaviour: Callable[..., Any]) -> None:
        try:
            await behaviour(self._requests(), self)
        except aio.AbortError:
            pass
        except asyncio.CancelledError:  # grpc.aio tells nobody
            self.over = True
            self._stream.up.closed = True
        except Exception as error:  # noqa: BLE001 - as grpc.aio
            self._finish(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}")
        else:
            self._finish(grpc.StatusCode.OK, "")
        self._stream.network.forget(self._stream)

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        if not self.over:
            self.over = True
            self._stream.up.closed = True
            self._stream.down.push((code, details))

    async def _requests(self) -> AsyncIterator[Any]:
        pipe = self._stream.up
        while True:
            item = pipe.take()
            if type(item) is bytes:
                yield self._deserialize(item)
            elif item is not None or self._eof:
                return
            else:
                await pipe.news()

    async def write(self, message: Any) -> None:
        data = self._serialize(message)
        pipe = self._stream.down
        while pipe.full and not self.over:
            await pipe.room()
        if self.over:
            raise aio.UsageError("RPC already finished.")
        pipe.push(data)
        await _turn()  # as through gRPC's poller

    async def abort(self, code: grpc.StatusCode, details: str = "", **_: Any) -> None:
        self._finish(code, details)
        await _turn()  # as through gRPC's poller
        raise aio.AbortError("Locally aborted.")

    def peer(self) -> str:
        """Return where the client is."""
        return f"ipv4:{self._stream.client.name}:1"

    def lost(self) -> None:
        """Let the handler know that the client has gone: its requests end, and it is cancelled."""
        if self.over:
            return
        self.over = self._eof = True
        self._cancel()  # first: a write that is under way ends by that, as in grpc.aio
        self._stream.up.wake()
        self._stream.down.wake()

    def _cancel(self) -> None:
        if not self._task.done():
            self._task.cancel()

    def stop(self) -> None:
        """End the stream because the server stops."""
        self._finish(grpc.StatusCode.UNAVAILABLE, "the server was stopped")
        self._eof = True
        self._cancel()
        self._stream.up.wake()


class _Server:
    """What `aio.server` returns."""

    def __init__(self, network: Network, host: Host) -> None:
        self.host = host
        self.address = ""
        self.accepting = False
        self._network = network
        self._services: list[Any] = []
        self._handlers: dict[str, Any] = {}

    def add_insecure_port(self, address: str) -> int:
        self.address = address
        return int(address.rpartition(":")[2])

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._services.extend(handlers)

    def handler(self, method: str) -> Any:
        found = self._handlers.get(method)
        if found is None:
            asked = SimpleNamespace(method=method, invocation_metadata=())
            found = next(each for service in self._services if (each := service.service(asked)) is not None)
            self._handlers[method] = found
        return found

    async def start(self) -> None:
        self.accepting = True
        self._network.servers[self.address] = self

    async def stop(self, grace: float | None) -> None:
        self.accepting = False
        open_streams = [stream for stream in self._network.streams if stream.server is self.host]
        if open_streams and grace:
            await asyncio.sleep(grace)
        for stream in open_streams:
            if not stream.context.over:
                stream.context.stop()


class _Channel:
    """What `aio.insecure_channel` returns."""

    def __init__(self, network: Network, address: str) -> None:
        host = HOST.get()
        assert host is not None, "only hosts dial"
        self._network = network
        self._host = host
        self._address = address
        self._calls: list[_ClientEnd] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def channel_ready(self) -> None:
        ready = self._network.loop.create_future()

        def tell(server: _Server | None) -> None:
            if server is None:  # it would try again for as long as anybody waits
                self._network.loop.after(0.2, dial)
            elif not ready.done():
                ready.set_result(None)

        def dial() -> None:
            if not ready.done() and not self._host.dead:
                self._network.connect(self._host, self._address, tell)

        dial()
        await ready

    async def close(self, grace: float | None = None) -> None:
        for call in self._calls:
            call.cancel()

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **_: Any,
    ) -> Callable[..., _ClientEnd]:
        def call(**_: Any) -> _ClientEnd:
            stream = Stream(self._network, self._host, self._address, method)
            end = stream.call = _ClientEnd(stream, request_serializer, response_deserializer)
            stream.down.parse = response_deserializer
            self._calls.append(end)
            self._network.open(stream, self._address)
            return end

        return call

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Return nothing that could be called: links and sessions are streams."""


class Network:
    """All machines and what is between them.

    Args:
        loop: The loop.
        rng: Dice for delays.

    Attributes:
        cuts: Directions in which nothing arrives.
        slow: Factors on the delay of directions.
        delay_s: Mean delay of a message.
        spikes: Probability that a message takes up to `spike_s`.
    """

    def __init__(self, loop: SimLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.cuts: dict[Cut, None] = {}
        self.slow: dict[Cut, float] = {}
        self.delay_s = 0.0005
        self.spikes = 0.0
        self.spike_s = 0.05
        self.servers: dict[str, _Server] = {}
        self.streams: dict[Stream, None] = {}
        self.delivered = 0
        self.trace: Callable[[_Pipe, bytes], None] | None = None
        """Called with each message that arrives."""
        self._number = 0
        self._waiting: list[tuple[tuple[Cut, ...], Callable[..., Any], tuple[Any, ...]]] = []

    # As grpc.aio.

    def server(self, **_: Any) -> _Server:
        host = HOST.get()
        assert host is not None, "only hosts serve"
        return _Server(self, host)

    def insecure_channel(self, address: str, **_: Any) -> _Channel:
        return _Channel(self, address)

    # Inside.

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def machine(self, address: str) -> str:
        """Return the machine of an address."""
        return address.rpartition(":")[0]

    def delay(self, cut: Cut) -> float:
        """Return how long a message takes."""
        random = self.rng.random
        delay = self.delay_s * (0.5 + random())
        if self.spikes and random() < self.spikes:
            delay += random() * self.spike_s
        return delay * self.slow[cut] if cut in self.slow else delay

    def connect(self, client: Host, address: str, then: Callable[[_Server | None], None]) -> None:
        """Connect; call with the server, or None if there is none or it cannot be reached."""
        there = self.machine(address)
        both = ((client.name, there), (there, client.name))
        began = self.loop.now

        def arrive() -> None:
            if any(cut in self.cuts for cut in both):
                if self.loop.now - began > _CONNECT_S:
                    then(None)
                else:
                    self._waiting.append((both, self.loop.after, (self.delay(both[0]), arrive)))
                return
            server = self.servers.get(address)
            alive = server is not None and server.accepting and not server.host.dead
            then(server if alive else None)

        self.loop.after(self.delay(both[0]) + self.delay(both[1]), arrive)

    def open(self, stream: Stream, address: str) -> None:
        """Connect a stream, or fail it."""
        self.streams[stream] = None

        def connected(server: _Server | None) -> None:
            if stream.call.over or stream.client.dead:
                self.streams.pop(stream, None)
            elif server is None:
                stream.call.fail(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
            else:
                stream.connected(server)
                stream.call.connected()

        self.connect(stream.client, address, connected)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that nobody uses any more."""
        if stream.ended:
            self.streams.pop(stream, None)

    # Faults.

    def when_open(self, cut: Cut, callback: Callable[..., Any], *args: Any) -> None:
        """Call when a direction is open, now if it is."""
        if cut in self.cuts:
            self._waiting.append(((cut,), self.when_open, (cut, callback, *args)))
        else:
            callback(*args)

    def cut(self, cuts: list[Cut]) -> None:
        """Let nothing arrive in these directions any more."""
        for cut in cuts:
            self.cuts[cut] = None
        for stream in self.streams:
            for side, pipe in (("client", stream.down), ("server", stream.up)):
                if pipe.cut in self.cuts:
                    self.loop.after(self.rng.uniform(*_KEEPALIVE_S), self._starve, stream, side, pipe)

    def _starve(self, stream: Stream, side: str, pipe: _Pipe) -> None:
        if pipe.cut in self.cuts:  # perhaps again, which is as bad
            stream.lose(side, self.rng)

    def heal(self, cuts: list[Cut]) -> None:
        """Let everything go on."""
        for cut in cuts:
            self.cuts.pop(cut, None)
        for stream in list(self.streams):
            stream.up.go_on()
            stream.down.go_on()
        waiting, self._waiting = self._waiting, []
        for needed, callback, args in waiting:
            if any(cut in self.cuts for cut in needed):
                self._waiting.append((needed, callback, args))
            else:
                callback(*args)

    def lose(self, stream: Stream, how: str) -> None:
        """Break a stream: "both" ends notice, or the "client", the "server", or for a long time "none"."""
        for side in ("client", "server"):
            if how in {"both", side}:
                self.loop.after(self.rng.uniform(0.0, 0.003), stream.lose, side, self.rng)
            else:
                stream.mute(side)
                longest = self.rng.choice((0.05, _KEEPALIVE_S[0])) if how != "none" else _KEEPALIVE_S[0]
                self.loop.after(self.rng.uniform(0.01, longest + 3.0), stream.lose, side, self.rng)

    def host_gone(self, host: Host, *, silently: bool) -> None:
        """Take note that a process has died; its machine tells the others, or nobody does."""
        for server in self.servers.values():
            if server.host is host:
                server.accepting = False
        for stream in list(self.streams):
            if host in {stream.client, stream.server}:
                stream.gone(host, self.rng, silently=silently)
