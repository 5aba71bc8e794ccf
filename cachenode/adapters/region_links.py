"""The way to another region over gRPC: one of its addresses at a time, the next when that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc import aio

from cachenode.core.entries import Loaded
from cachenode.core.regions import Cursor, Shipment
from cachenode.errors import OriginError, RegionUnavailable
from cachenode.wire import loaded_from_wire, region_entry_to_wire
from cachenode_api.errors import ContractError
from cachenode_api.metadata import AUTHORIZATION_KEY, BEARER
from cachenode_api.v1 import region_pb2 as pb
from cachenode_api.v1 import region_pb2_grpc

__all__ = ["GrpcRegionLink", "RegionTls"]

_OTHER_NAME = "grpc.ssl_target_name_override"
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),  # a value that is too large for this region is refused as any other
    ("grpc.use_local_subchannel_pool", 1),
]
_REFUSALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class RegionTls(NamedTuple):
    """Where the certificates are for the connection to a region, in PEM form; read anew for each connection.

    Attributes:
        ca_file: The authorities whose certificates are believed; empty for those that gRPC comes with.
        cert_file: What this region shows; empty for nothing.
        key_file: Its private key.
        server_name: The name in the other region's certificates; empty for what is dialled.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""


class GrpcRegionLink:
    """A `RegionLink`.

    Args:
        origin: Name of this region.
        target: Name of the other.
        addresses: Nodes of the other, or what stands before them.
        tls: None for none.
        token: What to show; empty for nothing.
        timeout_s: Time limit of a call to one address.
    """

    def __init__(
        self,
        origin: str,
        target: str,
        addresses: Sequence[str],
        *,
        tls: RegionTls | None = None,
        token: str = "",
        timeout_s: float = 4.0,
    ) -> None:
        self._origin = origin
        self._target = target
        self._addresses = tuple(addresses)
        self._tls = tls
        self._metadata = ((AUTHORIZATION_KEY, f"{BEARER}{token}"),) if token else ()
        self._timeout_s = timeout_s
        self._at = 0
        self._channel: aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def position(self) -> Cursor | None:
        """Return up to where the region has acted on this one's outbox."""
        request = pb.PositionRequest(origin=self._origin, target=self._target)
        return _cursor(await self._call(lambda stub: stub.Position, request))

    async def relay(self, shipment: Shipment) -> Cursor | None:
        """Let the region act on a shipment; return where it is then."""
        request = pb.RelayRequest(
            origin=self._origin,
            target=self._target,
            outbox=shipment.outbox,
            after=shipment.after,
            entries=map(region_entry_to_wire, shipment.entries),
            head=shipment.head,
            gap=shipment.gap,
        )
        return _cursor(await self._call(lambda stub: stub.Relay, request))

    async def load(self, namespace: str, key: bytes) -> Loaded | None:
        """Let the region load a key from its origin; return what that has."""
        request = pb.LoadRequest(origin=self._origin, target=self._target, namespace=namespace, key=key)
        answer = await self._call(lambda stub: stub.Load, request)
        if answer.failure:
            raise OriginError(answer.failure, again=False)
        try:
            return loaded_from_wire(answer.loaded) if answer.HasField("loaded") else None
        except ContractError as error:
            raise OriginError(f"its answer cannot be read: {error}", again=False) from None

    async def cached(self, namespace: str, key: bytes, most_bytes: int) -> Loaded | None:
        """Return what the region has cached for a key."""
        request = pb.LoadRequest(
            origin=self._origin, target=self._target, namespace=namespace, key=key, cached_bytes=most_bytes
        )
        answer = await self._call(lambda stub: stub.Load, request)
        try:
            return loaded_from_wire(answer.loaded) if answer.HasField("loaded") else None
        except ContractError:
            return None

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        for closing in list(self._closing):
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _call(
        self,
        method: Callable[[Any], Callable[..., Awaitable[Any]]],
        request: pb.PositionRequest | pb.RelayRequest | pb.LoadRequest,
    ) -> Any:  # noqa: ANN401 - what the method returns
        """Call a method at the address that answered last; the next call goes to the next address if it fails."""
        channel = self._channel
        try:
            if channel is None:
                channel = self._channel = self._connect(self._addresses[self._at])
            stub = region_pb2_grpc.RegionServiceStub(channel)
            return await method(stub)(request, timeout=self._timeout_s, metadata=self._metadata)
        except aio.AioRpcError as error:
            self._next(channel)
            text = f"{error.code().name.lower()}: {error.details() or ''}"
            raise RegionUnavailable(text, refused=error.code() in _REFUSALS) from None
        except OSError as error:
            raise RegionUnavailable(f"a certificate cannot be read ({error.strerror})") from None

    def _connect(self, address: str) -> aio.Channel:
        tls = self._tls
        if tls is None:
            return aio.insecure_channel(address, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=Path(tls.ca_file).read_bytes() if tls.ca_file else None,
            private_key=Path(tls.key_file).read_bytes() if tls.key_file else None,
            certificate_chain=Path(tls.cert_file).read_bytes() if tls.cert_file else None,
        )
        named = [(_OTHER_NAME, tls.server_name)] if tls.server_name else []
        return aio.secure_channel(address, credentials, options=_OPTIONS + named)

    def _next(self, failed: aio.Channel | None) -> None:
        """Go to the next address, unless that was done already; let other calls end that are under way."""
        if failed is None or failed is not self._channel:
            return
        self._at, self._channel = (self._at + 1) % len(self._addresses), None
        closing = asyncio.get_running_loop().create_task(failed.close(self._timeout_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _cursor(message: pb.PositionResponse | pb.RelayResponse) -> Cursor | None:
    """Return the cursor that an answer brings, None if there is none."""
    return Cursor(message.cursor.outbox, message.cursor.sequence) if message.HasField("cursor") else None
