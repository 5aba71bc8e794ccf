"""A connection that speaks HTTP/2 as no gRPC client would: for what strangers may send to a node."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event

__all__ = ["RawConnection"]


class RawConnection:
    """One connection, made by `open`.

    Attributes:
        http2: The state of the protocol; what it has to send leaves with `flush`.
        events: What has come.
        closed: True once the node has closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http2 = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.events: list[Event] = []
        self.closed = False
        self._reader, self._writer = reader, writer
        host, port = writer.get_extra_info("peername")[:2]
        self._authority = f"{host}:{port}"
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: str) -> Self:
        """Connect and shake hands."""
        host, _, port = address.rpartition(":")
        connection = cls(*await asyncio.open_connection(host, int(port)))
        connection.http2.initiate_connection()
        await connection.flush()
        return connection

    async def flush(self) -> None:
        """Send what is to be sent; nothing where the node has closed."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(self.http2.data_to_send())
            await self._writer.drain()

    def begin(self, path: str, *more: tuple[str, str]) -> int:
        """Begin a call; return the stream's number."""
        stream = self.http2.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority)]
        self.http2.send_headers(stream, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *more])
        return stream

    @property
    def went_away(self) -> ConnectionTerminated | None:
        """The node's farewell, None if it has not said any."""
        return next((event for event in self.events if isinstance(event, ConnectionTerminated)), None)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                with contextlib.suppress(Exception):  # the node may say what h2 does not expect; it is not its test
                    self.events += self.http2.receive_data(data)
                await self.flush()
        self.closed = True

    async def close(self) -> None:
        """Close the connection."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
