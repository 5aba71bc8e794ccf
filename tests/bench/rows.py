"""What is measured, against whom, and the ratio to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.bench.stats import Better

__all__ = [
    "APART",
    "IDLE_NAME",
    "INVALIDATIONS",
    "MEMORY_NAME",
    "MEMORY_TARGET",
    "P99_SUFFIX",
    "ROWS",
    "SCRAPES",
    "SCRAPE_NAME",
    "SINGLE_FLIGHT_NAME",
    "Aim",
    "Peer",
    "Row",
    "known_names",
]


@dataclass(frozen=True, slots=True)
class Peer:
    """What we are compared with.

    Attributes:
        name: For people.
        contender: Its class in `tests.bench.contenders` or `tests.bench.grpc_clients`.
        server: The process that it talks to; with "_tuned" both have gRPC set up as ours is.
        target: The ratio to reach; None where the comparison is information.
        suffix: Added to the row's name, so that every result has its own.
    """

    name: str
    contender: str
    server: str = "redis"
    target: float | None = None
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload. `options` go to every contender alike."""

    name: str
    ours: str
    peers: tuple[Peer, ...]
    unit: str = "ops/s"
    better: Better = "higher"
    group: str = "l1"
    namespace: str = "plain"
    options: dict[str, Any] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of its results."""
        return [self.name + peer.suffix for peer in self.peers]


@dataclass(frozen=True, slots=True)
class Aim:
    """A comparison that takes more than one process on our side. `limit` is the peer where a number is to be kept."""

    name: str
    peer_name: str
    target: float
    unit: str = "us"
    better: Better = "lower"
    limit: float | None = None


def _asyncio_row(name: str, operation: str, callers: int, *, target: float) -> Row:
    peers = [Peer("redis.asyncio", f"RedisAsync{operation}", target=target)]
    if operation == "Get":
        peers.append(Peer("redis.asyncio without limits", "RedisAsyncGetUnlimited", suffix="_vs_unlimited"))
    return Row(name, f"Ours{operation}", tuple(peers), options={"callers": callers})


def _blocking_row(threads: int, *, target: float) -> Row:
    peers = (
        Peer("redis-py", "RedisBlockingGet", target=target),
        Peer("pymemcache", "MemcachedGet", "memcached", suffix="_vs_memcached"),
    )
    return Row(f"get_blocking_t{threads}", "OursBlockingGet", peers, options={"callers": threads})


ROWS = (
    _asyncio_row("get_async_c64", "Get", 64, target=5),
    _asyncio_row("get_async_c256", "Get", 256, target=6),
    _asyncio_row("set_async_c64", "Set", 64, target=4),
    Row(
        "get_many_100",
        "OursGetMany",
        (
            Peer("redis.asyncio", "RedisAsyncGetMany", target=0.9),
            Peer("redis-py", "RedisBlockingGetMany", suffix="_vs_sync"),
            Peer("pymemcache", "MemcachedGetMany", "memcached", suffix="_vs_memcached"),
        ),
        unit="keys/s",
    ),
    _blocking_row(8, target=0.8),
    _blocking_row(32, target=1.2),
    Row(
        "session_p50",
        "OursGet",
        (
            Peer("grpcio stream echo", "GrpcEchoStream", "echo", 0.8),
            Peer("grpcio stream echo, tuned", "GrpcEchoStream", "echo_tuned", suffix="_vs_tuned"),
        ),
        unit="us",
        better="lower",
        options={"callers": 1},
    ),
    Row(
        "unary_rps",
        "GrpcUnary",
        (
            Peer("grpcio unary echo", "GrpcEchoUnary", "echo", 0.85),
            Peer("grpcio unary echo of bytes", "GrpcEchoUnaryBytes", "echo", suffix="_vs_bytes"),
            Peer("grpcio unary echo, tuned", "GrpcEchoUnary", "echo_tuned", suffix="_vs_tuned"),
        ),
        options={"callers": 16},
    ),
    Row(
        "l2_read_c64",
        "OursGet",
        (Peer("redis.asyncio", "RedisAsyncGet", target=2),),
        group="l2",
        namespace="default",
        options={"callers": 64},
    ),
    # The peer of both is the blocking client, with one thread: redis.asyncio has no client-side cache.
    Row(
        "near_hit_async",
        "OursNearHit",
        (Peer("redis-py cached, sync (asyncio has none)", "RedisCachedGet", "redis_cached", 80),),
        group="near",
    ),
    Row(
        "near_hit_blocking",
        "OursBlockingNearHit",
        (Peer("redis-py cached", "RedisCachedGet", "redis_cached", 80),),
        group="near",
    ),
    Row(
        "metrics_c64",
        "OursGet",
        (Peer("the same, durations not measured", "OursGet", "node_unmeasured", 0.97),),
        group="metrics",
        options={"callers": 64},
    ),
    Row(
        "tls_c64",
        "OursGetTls",
        (Peer("the same in plain text", "OursGet", "node_plain", 0.75),),
        group="tls",
        options={"callers": 64},
    ),
)

P99_SUFFIX = "_p99"
IDLE_NAME = "idle_sessions"
INVALIDATIONS = (
    Aim("invalidate_ack_1", "grpcio stream echo", 0.35),
    Aim("invalidate_ack_20", "grpcio to and from 20 streams", 0.5),
    Aim("invalidate_ack_20" + P99_SUFFIX, "25 ms", 1, limit=25_000),
    Aim("invalidations_per_s", "2,000 a second", 1, unit="keys/s", better="higher", limit=2_000),
    Aim(IDLE_NAME, "without 500 idle sessions", 0.9),
)

SCRAPES = (
    Aim("scrape_50_namespaces", "50 ms", 1, limit=50_000),
    Aim("scrape_50_namespaces_stall", "5 ms of the loop", 1, limit=5_000),
)
SCRAPE_NAME = SCRAPES[0].name
APART = ("metrics_c64", "tls_c64", SCRAPE_NAME)
"""What running it costs; a quick run leaves them out unless they are named."""
MEMORY_NAME = "memory_per_entry"
MEMORY_TARGET = 0.7
SINGLE_FLIGHT_NAME = "single_flight"


def known_names() -> list[str]:
    """Return what ``--only`` takes: rows and the parts that are not rows."""
    waits = [aim.name for aim in INVALIDATIONS if not aim.name.endswith(P99_SUFFIX)]
    return [*(row.name for row in ROWS), *waits, SCRAPE_NAME, MEMORY_NAME, SINGLE_FLIGHT_NAME, "hit_ratio"]
