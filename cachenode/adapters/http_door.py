"""The door of the HTTP port: how many connections it has, and how long each may take for what.

Theory of operation. A `Door` makes the protocol of each connection: it counts it, ends the TLS handshake in time, and
hands the rest to aiohttp. A connection waits (for a request, or for the rest of its headers) or a request of its is
under way; either has a deadline, after which the connection is aborted: closing it would wait for somebody who does not
read (``test_who_does_not_read_is_dropped``).

1. Thousands connect and say nothing. The one that has waited longest makes room for the next, so whoever asks at once
   is answered whatever the others do (``test_idle_connections_make_room``). Those with a request under way make no
   room; if they are all there are, the newcomer is turned away (``test_requests_under_way_are_left_alone``).
2. Headers or a body come byte by byte. A request has one deadline from its first byte to the end of its answer,
   whatever comes meanwhile (``test_drops_of_a_request_gain_no_time``). A stream has none once it has begun: it must
   keep its own (``test_streams_go_on``).
3. A handshake is never ended. The connection is counted from the moment it is accepted, and has a deadline like all
   others (``test_unfinished_handshakes``). It begins in the very turn in which the connection is made: uvloop reads
   from then on, also what was to wait, and a client's first words would be lost (`Begun`). What comes in the same
   breath as the end of the handshake is kept until aiohttp has the connection (``test_the_port_over_tls``).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web

from cachenode.begun import Begun
from cachenode.defects import new_request_id, told

__all__ = ["Door", "HttpLimits"]

_log = structlog.get_logger(__name__)

_MOST_HEADERS = 64
_LINGER_S = 1.0
"""How long the rest of a body that nobody wants is read, so that its sender sees the answer."""
_SILENT = logging.getLogger("cachenode.http.silent")
"""For aiohttp, which logs each malformed request with a traceback that quotes it."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What strangers may have of the HTTP port.

    Attributes:
        connections: At a time.
        header_bytes: The longest line of a request.
        handshake_s: For TLS.
        timeout_s: From a request's first byte to the end of its answer.
        idle_s: Between a connection's requests, and before the first.
    """

    connections: int = 128
    header_bytes: int = 8 * 1024
    handshake_s: float = 3.0
    timeout_s: float = 10.0
    idle_s: float = 75.0

    def options(self) -> dict[str, Any]:
        """Return what aiohttp is told; the door keeps the deadlines itself."""
        return {
            "max_line_size": self.header_bytes,
            "max_field_size": self.header_bytes,
            "max_headers": _MOST_HEADERS,
            "lingering_time": _LINGER_S,
            "keepalive_timeout": self.idle_s,
            "access_log": None,
            "logger": _SILENT,
        }


class Door:
    """Lets connections in.

    Args:
        limits: What they may have.
        context: For HTTPS; None for HTTP.

    Attributes:
        turned_away: Connections that were one too many: the newest, or one that waited.
        too_slow: Connections that were aborted within a request or handshake.
    """

    def __init__(self, limits: HttpLimits, context: ssl.SSLContext | None = None) -> None:
        self.limits = limits
        self.context = context
        self.turned_away = 0
        self.too_slow = 0
        self._inner: Callable[[], asyncio.Protocol] | None = None
        self._open: dict[object, Connection] = {}
        self._waiting: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def refused(self) -> dict[str, int]:
        """Return how many connections were turned away or aborted, by why."""
        return {"http": self.turned_away, "http_slow": self.too_slow}

    def opens_to(self, inner: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of an accepted connection.

        Args:
            inner: Makes the protocol that serves it.
        """
        self._inner = inner
        return lambda: Connection(self, inner())

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, at another's cost if need be. Return False if there is no room."""
        if len(self._open) >= self.limits.connections:
            self.turned_away += 1
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            oldest.abort()
        self._open[connection.inner] = connection
        self._waiting[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._open.pop(connection.inner, None)
        self._waiting.pop(connection, None)

    @web.middleware
    async def answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a request to the end while its connection is under way. No exception's text leaves the node."""
        connection = self._open.get(request.protocol)
        if connection is None:  # it is gone
            raise ConnectionResetError
        self._waiting.pop(connection, None)
        connection.begin()
        try:
            return await _answered(request, handler)
        finally:
            if request.protocol in self._open:
                self._waiting[connection] = None
                connection.rest()

    async def let_stream(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let an answer that is written bit by bit take any time: whoever writes it sees to it that it is read."""
        connection = self._open.get(request.protocol)
        if connection is not None and not isinstance(response, web.Response):
            connection.hold()


async def _answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - the border
        request_id = new_request_id()
        _log.error("request_failed", request_id=request_id, error_type=type(error).__name__, exc_info=error)
        response = web.Response(status=500, text=f"{told(request_id)}\n")
    await response.prepare(request)
    await response.write_eof()
    return response


class Connection(asyncio.Protocol):
    """A connection, between its transport and the protocol that serves it.

    Args:
        door: Counts it.
        inner: Serves it.
    """

    def __init__(self, door: Door, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._door = door
        self._raw: asyncio.Transport | None = None
        self._ready = False
        self._early = bytearray()
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        self._raw = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if not self._door.admit(self):
            transport.abort()
            return
        if self._door.context is None:
            self._serve(transport)
            return
        limit_s, loop = self._door.limits.handshake_s, asyncio.get_running_loop()
        self._within(limit_s)
        securing = loop.start_tls(
            transport, self, self._door.context, server_side=True, ssl_handshake_timeout=2 * limit_s
        )
        self._shaking = loop.create_task(self._shake_hands(transport, Begun(securing)))

    async def _shake_hands(self, raw: asyncio.Transport, securing: Begun[asyncio.Transport | None]) -> None:
        try:
            secured = await securing
        except (OSError, RuntimeError):  # ssl.SSLError is an OSError
            secured = None
        if secured is None or raw.is_closing():
            self.abort()
            return
        self._serve(secured)

    def _serve(self, transport: asyncio.Transport) -> None:
        self._ready = True
        self.rest()
        self.inner.connection_made(transport)
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Pass on what has come; the first bytes of a request begin its time."""
        if not self._ready:
            self._early += data
            return
        if not self._under_way:
            self._under_way = True
            self._within(self._door.limits.timeout_s)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that no more comes."""
        return self.inner.eof_received() if self._ready else None

    def pause_writing(self) -> None:
        """Pass on that the other side is slow."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it goes on."""
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._end()
        if self._ready:
            self._ready = False
            self.inner.connection_lost(exc)

    def begin(self) -> None:
        """A request is there: its time has begun with its first byte, or does now if that came with another's."""
        if not self._under_way:
            self._under_way = True
            self._within(self._door.limits.timeout_s)

    def rest(self) -> None:
        """A request is answered, or the connection new."""
        self._under_way = False
        self._within(self._door.limits.idle_s)

    def hold(self) -> None:
        """Let what is under way take any time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """End it at once, whatever is unsent."""
        self._end()
        if self._raw is not None:
            self._raw.abort()

    def _end(self) -> None:
        self.hold()
        self._door.forget(self)

    def _within(self, seconds: float) -> None:
        self.hold()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def _late(self) -> None:
        if self._under_way or not self._ready:
            self._door.too_slow += 1
        self.abort()
