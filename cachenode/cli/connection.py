"""How commands reach the cluster: over TLS and with a token, if the options before the command say so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grpc import aio

    from cachenode_client import CacheClient, Tls

__all__ = [
    "TlsCa",
    "TlsCert",
    "TlsKey",
    "TlsName",
    "TokenFile",
    "channel",
    "client",
    "set_tls",
    "set_token",
    "status_of",
    "tls_settings",
]

TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="CACHENODE_TLS_CA",
        metavar="FILE",
        help="Talk TLS, and believe this authority's certificates.",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", envvar="CACHENODE_TLS_CERT", metavar="FILE", help="Certificate to show to the nodes."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", envvar="CACHENODE_TLS_KEY", metavar="FILE", help="Its private key.")
]
TlsName = Annotated[
    str,
    typer.Option(
        "--tls-name", envvar="CACHENODE_TLS_NAME", metavar="NAME", help="Name in the nodes' certificates, if another."
    ),
]

TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="CACHENODE_TOKEN_FILE", metavar="FILE", help="Holds the token to show."),
]


class _Settings:
    files: tuple[Path | None, Path | None, Path | None, str] = (None, None, None, "")
    token: Path | None = None


def set_tls(ca: Path | None, cert: Path | None, key: Path | None, name: str) -> None:
    """Take the options that go before a command. Files are looked at by the command that connects."""
    _Settings.files = (ca, cert, key, name)


def set_token(file: Path | None) -> None:
    """Take the option that goes before a command."""
    _Settings.token = file


def tls_settings() -> Tls | None:
    """Return how nodes are met over TLS, as the options say; None for plain connections."""
    if not any(_Settings.files):
        return None
    from cachenode_client import Tls

    return Tls(*_Settings.files)


def client(address: str, **options: Any) -> CacheClient:  # noqa: ANN401 - those of CacheClient
    """Return a client for a command: it keeps no copies."""
    from cachenode_client import CacheClient

    return CacheClient(
        address, near_cache=None, client_name="cli", tls=tls_settings(), token=_Settings.token, **options
    )


def status_of(error: Exception) -> str:
    """Return in a few words how a call to a node ended."""
    from cachenode_client._channels import Channels

    return Channels(tls_settings(), _Settings.token).status(error)


def channel(address: str, tls: Tls | None = None, token: Path | None = None) -> aio.Channel:
    """Return a channel to one node, as the options say unless something else is given."""
    from cachenode_client._channels import Channels

    return Channels(tls or tls_settings(), token or _Settings.token).open(address, showing_token=True)
