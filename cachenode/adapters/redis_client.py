"""Where a Redis URL becomes a client: the one place that knows redis-py's options.

redis-py's defaults suit scripts, not a cache: ten retries with back-off turned a GET against a Redis that is down
into four seconds of waiting. Here nothing is retried (the breaker above decides when to try again), no command is put
in front of ours (health checks, HELLO, CLIENT SETINFO), and the protocol is fixed, so that an upgrade of redis-py
does not change what goes over the wire. RESP2 is enough: hiredis parses both.

`parse_url` and `connect` are apart so that other kinds of servers (Sentinel, Cluster) become another branch of
`connect`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from cachenode.errors import ConfigError

__all__ = ["FAILURES", "RedisAddress", "check_cluster", "connect", "parse_url", "reason"]

FAILURES = (RedisError, OSError, TimeoutError)
"""What a call through a client may raise when the server or the way to it fails."""

_ACCEPTED = (
    "accepted are redis://[user:password@]host[:port][/db], rediss:// (the same with TLS) and "
    "unix://[user:password@]/path/to/socket[?db=N]; special characters in user and password are percent-encoded"
)
_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to log in. The password is not shown by `repr`."""

    host: str = ""
    port: int = 6379
    path: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def check_cluster(name: str) -> str:
    """Return a cluster's name, which becomes part of keys.

    Raises:
        ConfigError: It has a character with a meaning in keys (``:``, braces), or is empty or too long.
    """
    if not _CLUSTER.match(name):
        raise ConfigError(["cluster: must be 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter or digit"])
    return name


def parse_url(url: str) -> RedisAddress:
    """Return what a URL says.

    Raises:
        ConfigError: It is not one of the accepted forms, which the text lists. The URL itself is not shown: it may
            hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise _refused("cannot be read (is the port a number below 65,536?)") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise _refused("has no known scheme")
    is_unix = parts.scheme == "unix"
    if parts.fragment or set(query) - ({"db"} if is_unix else set()):
        raise _refused("has a part that is not known")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if is_unix:
        if parts.hostname or not parts.path.strip("/"):
            raise _refused("must name an absolute path (three slashes: unix:///run/redis.sock)")
        db = _db(query.get("db", [""])[-1])
        return RedisAddress(path=unquote(parts.path), db=db, username=username, password=password)
    if not parts.hostname:
        raise _refused("names no host")
    return RedisAddress(
        host=parts.hostname,
        port=6379 if port is None else port,
        db=_db(parts.path[1:]),
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
    )


def connect(
    url: str,
    *,
    timeout_s: float = 0.05,
    connect_timeout_s: float = 0.05,
    max_connections: int = 8,
) -> Redis:
    """Return a client for the hot path. It connects lazily and never retries; a used-up pool is an error.

    Args:
        url: See `parse_url`.
        timeout_s: Time limit of a call. The adapters keep it, over a whole round trip; the socket's own limit is twice
            as long and catches what they do not.
        connect_timeout_s: Time limit of making a connection.
        max_connections: Most connections at a time.

    Raises:
        ConfigError: The URL is not one of the accepted forms.
    """
    address = parse_url(url)
    kind: type[AbstractConnection]
    where: dict[str, Any]
    if address.path:
        kind, where = UnixDomainSocketConnection, {"path": address.path}
    else:
        kind, where = SSLConnection if address.tls else Connection, {"host": address.host, "port": address.port}
    pool = ConnectionPool(
        kind,
        max_connections,
        **where,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=2 * timeout_s,
        socket_connect_timeout=connect_timeout_s,  # `Redis` itself would not hand it to a Unix socket
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        driver_info=None,
    )
    return Redis.from_pool(pool)


def reason(error: BaseException) -> str:
    """Return why a call failed, for people.

    A server's own complaint is reduced to its kind: its text may quote arguments, and those are keys and values.
    """
    if isinstance(error, ResponseError):
        return type(error).__name__
    return str(error) or type(error).__name__


def _db(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or not text.isascii():
        raise _refused("has a database that is not a number")
    return int(text)


def _refused(why: str) -> ConfigError:
    return ConfigError([f"redis url: {why}; {_ACCEPTED}"])
