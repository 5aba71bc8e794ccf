"""Connections to nodes: plain, or over TLS.

Certificates are read again for each connection, so those that are renewed in place are used from the next one on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from cachenode_api.metadata import AUTHORIZATION_KEY, BEARER, DEFECT, REQUEST_ID_KEY
from cachenode_client.errors import CacheUnavailable, InvalidArgument

__all__ = ["CHANNEL_OPTIONS", "Channels", "Tls", "defect"]

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),
]
_STRANGE = "TLS: the node's certificate is not signed by an authority that this client believes"
_SIGNS = (
    ("CERTIFICATE_VERIFY_FAILED", _STRANGE),
    ("certificate signature failure", _STRANGE),
    ("Hostname Verification Check failed", "TLS: the node's certificate is for another name"),
    ("WRONG_VERSION_NUMBER", "TLS: the node does not talk TLS"),
    ("andshake failed", "TLS: the handshake failed"),
    ("http1.x server", "what listens there talks HTTP, as a node's other port does; gRPC is at node.listen"),
    ("Connection refused", "nothing listens there"),
    ("errors resolving", "the name cannot be looked up"),
    ("resolution failed", "the name cannot be looked up"),
)
"""What stands in gRPC's texts, as grpcio 1.85 writes them, and what it means."""
_AT_ONCE = re.compile(r"failed to connect .*Socket closed", re.DOTALL)
_UNWANTED = "the node does not accept this client's certificate, or misses one"
_EXPECTED = "the node closed the connection at once, as one does that expects TLS"
_OTHER_NAME = "grpc.ssl_target_name_override"


@dataclass(frozen=True, slots=True)
class Tls:
    """How nodes are met over TLS: files in PEM form, read again for each connection.

    Attributes:
        ca_file: The authorities whose certificates of nodes are believed; None for those that gRPC comes with.
        cert_file: This client's certificate, for nodes that ask for one; with `key_file`, or neither.
        key_file: Its private key.
        server_name: The name that the nodes' certificates bear, if that is not what they are dialled by.

    Raises:
        InvalidArgument: One of certificate and key is missing, or a file cannot be read.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert_file is None) is not (self.key_file is None):
            raise InvalidArgument("tls: cert_file and key_file belong together; give both or neither")
        for name in ("ca_file", "cert_file", "key_file"):
            try:
                _content(getattr(self, name))
            except OSError as error:
                raise InvalidArgument(f"tls: {name} cannot be read ({error.strerror})") from None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what the files hold now.

        Raises:
            OSError: One cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_content(self.ca_file),
            private_key=_content(self.key_file),
            certificate_chain=_content(self.cert_file),
        )


class Channels:
    """Opens channels to nodes.

    Args:
        tls: None for connections that anybody on the way can read.
        token: What the nodes know this client by; the path of a file that holds it, which is read again for each
            connection; None where they ask for none.
    """

    def __init__(self, tls: Tls | None = None, token: str | Path | None = None) -> None:
        self.names: Mapping[str, str] = {}
        """The DNS name by which each of these addresses was found, as the certificates there say."""
        self._tls = tls
        self._token = token

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what calls bring besides their messages.

        Raises:
            CacheUnavailable: The token's file cannot be read any more.
        """
        token = self._token
        if token is None:
            return ()
        try:
            text = token.read_text(encoding="utf-8") if isinstance(token, Path) else token
        except OSError as error:
            text = f"The file of the client's token cannot be read ({error.strerror})."
            raise CacheUnavailable(text, reason="token") from None
        return ((AUTHORIZATION_KEY, BEARER + text.strip()),)

    def open(self, address: str, *, showing_token: bool = False) -> aio.Channel:
        """Return a channel to a node, which connects with its first call.

        Args:
            address: Of the node.
            showing_token: Whether each unary call shows the token by itself; else callers pass `metadata`.

        Raises:
            CacheUnavailable: A certificate cannot be read any more.
        """
        tls, interceptors = self._tls, _showing(self.metadata()) if showing_token else None
        if tls is None:
            return aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=interceptors)
        try:
            credentials = tls.credentials()
        except OSError as error:
            text = f"A file of the client's TLS settings cannot be read ({error.strerror})."
            raise CacheUnavailable(text, reason="tls") from None
        name = tls.server_name or self.names.get(address, "")
        named = [(_OTHER_NAME, name)] if name else []
        return aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS + named, interceptors=interceptors)

    def status(self, error: BaseException) -> str:
        """Return in a few words how a call ended: to gRPC a failed handshake looks like a node that is not there.

        What gRPC alone can name is its status, in capitals.
        """
        if not isinstance(error, aio.AioRpcError):
            return type(error).__name__
        if why := defect(error):
            return why
        details = error.details() or ""
        for sign, meaning in _SIGNS:
            if sign in details:
                return meaning
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return "the node asks for a token" if self._token is None else "the node does not know the client's token"
        if _AT_ONCE.search(details):
            return f"TLS: {_UNWANTED if self._tls is not None else _EXPECTED}"
        return error.code().name


def defect(error: BaseException) -> str:
    """Return that a defect of the node has ended a call, and what its log calls it; empty if none has."""
    if isinstance(error, aio.AioRpcError):
        for key, request_id in error.trailing_metadata() or ():
            if key == REQUEST_ID_KEY:
                return DEFECT.format(str(request_id)[:64])
    return ""


def _content(file: str | Path | None) -> bytes | None:
    return Path(file).read_bytes() if file is not None else None


def _showing(metadata: tuple[tuple[str, str], ...]) -> list[aio.ClientInterceptor]:
    return [_UnaryToken(metadata), _StreamToken(metadata)] if metadata else []


def _with(details: Any, metadata: tuple[tuple[str, str], ...]) -> Any:
    return details._replace(metadata=aio.Metadata(*(details.metadata or ()), *metadata))


class _UnaryToken(aio.UnaryUnaryClientInterceptor):
    """Adds metadata to calls with one answer."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with(client_call_details, self._metadata), request)


class _StreamToken(aio.UnaryStreamClientInterceptor):
    """Adds metadata to calls with a stream of answers."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with(client_call_details, self._metadata), request)
