"""Where a Redis URL becomes a client: the one place that knows redis-py's options.

redis-py's defaults suit scripts, not a cache: ten retries with back-off turned a GET against a Redis that is down
into four seconds of waiting. Here nothing is retried (the breaker above decides when to try again), no command is put
in front of ours (health checks, HELLO, CLIENT SETINFO), and the protocol is fixed, so that an upgrade of redis-py
does not change what goes over the wire. RESP2 is enough: hiredis parses both.
"""

from __future__ import annotations

import re
from typing import Any, cast

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisError, ResponseError

from cachenode.adapters.redis_access import NO_ACCESS, RedisAccess
from cachenode.adapters.redis_cluster_client import ClusterClient
from cachenode.adapters.redis_connections import noticing
from cachenode.adapters.redis_sentinel import MasterPool, Sentinels
from cachenode.core.redis_url import FORMS, RedisAddress, read_redis_url
from cachenode.errors import ConfigError

__all__ = ["FAILURES", "RedisAddress", "check_cluster", "connect", "parse_url", "reason"]

FAILURES = (RedisError, OSError, TimeoutError)
"""What a call through a client may raise when the server or the way to it fails."""

_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_PROTECTED = "the server is in protected mode, and refuses other machines: give it a password, or protected-mode no"


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
        return read_redis_url(url)
    except ValueError as error:
        raise ConfigError([f"redis url: {error}; accepted are {FORMS}"]) from None


def connect(
    url: str,
    *,
    timeout_s: float = 0.05,
    connect_timeout_s: float = 0.05,
    max_connections: int = 8,
    access: RedisAccess = NO_ACCESS,
) -> Redis:
    """Return a client for the hot path. It connects lazily and never retries; a used-up pool is an error.

    For a Cluster it is redis-py's client for one (see `redis_cluster_client`).

    Args:
        url: See `cachenode.core.redis_url`.
        timeout_s: Time limit of a call. The adapters keep it, over a whole round trip; the socket's own limit is twice
            as long and catches what they do not.
        connect_timeout_s: Time limit of making a connection.
        max_connections: Most connections at a time.
        access: Who logs in, and whom to believe.

    Raises:
        ConfigError: The URL is not one of the accepted forms.
    """
    address = parse_url(url)
    common: dict[str, Any] = {
        "socket_timeout": 2 * timeout_s,
        "socket_connect_timeout": connect_timeout_s,  # `Redis` itself would not hand it to a Unix socket
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "driver_info": None,
        **(access.tls() if address.tls else {}),
    }
    if address.topology == "sentinel":
        asked = {**common, "socket_timeout": connect_timeout_s, "ssl": address.tls, **access.sentinel_login()}
        sentinels = Sentinels(address.hosts, connect_timeout_s / 2, asked)
        options = {**common, "db": address.db, **access.login(address)}
        pool: ConnectionPool = MasterPool(
            address.master, sentinels, tls=address.tls, max_connections=max_connections, **options
        )
        return Redis.from_pool(pool)
    if address.topology == "cluster":
        client: Any = ClusterClient(
            address,
            {**common, **access.login(address)},
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            max_connections=max_connections,
        )
        return cast("Redis", client)  # it takes the commands that are used here
    kind: type[AbstractConnection]
    where: dict[str, Any]
    if address.path:
        kind, where = UnixDomainSocketConnection, {"path": address.path}
    else:
        ((host, port),) = address.hosts
        kind, where = SSLConnection if address.tls else Connection, {"host": host, "port": port}
    options = {**where, "db": address.db, **access.login(address), **common}
    return Redis.from_pool(ConnectionPool(noticing(kind), max_connections, **options))


def reason(error: BaseException) -> str:
    """Return why a call failed, for people.

    A server's own complaint is reduced to its kind: its text may quote arguments, and those are keys and values.
    """
    if isinstance(error, MovedError):
        return "the server is a node of a Cluster: its URL must begin with redis+cluster"
    if isinstance(error, ResponseError):
        return _PROTECTED if str(error).startswith("DENIED ") else type(error).__name__
    return str(error) or type(error).__name__
