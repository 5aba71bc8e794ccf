"""The two ways to read through a cache that are compared."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio import BlockingConnectionPool, Redis

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.bench.policies.origin import Database
from tests.bench.servers import redis_like

__all__ = ["HOT", "ITEMS", "Contender", "ours", "peer"]

ITEMS, HOT = "items", "hot"
_CONFIG = """
[origins.database]
loader = "tests.bench.policies.origin:Loader"
options = {{ path = "{path}" }}
concurrency = 64
[namespaces.items]
origin = "database"
ttl_s = {ttl_s}
stale_s = {ttl_s}
refresh_ahead = 0.2
ttl_jitter = 0.1
[namespaces.hot]
origin = "database"
ttl_s = {hot_ttl_s}
stale_s = {hot_ttl_s}
refresh_ahead = 0.2
"""


class Contender(Protocol):
    """A cache in front of the origin."""

    async def get(self, group: str, key: str) -> int:
        """Return the version of a key's value, from wherever it is found."""

    async def update(self, group: str, key: str) -> int:
        """Write the origin, then make the cache forget; return the new version."""


class _Ours:
    """Three nodes that load by themselves."""

    def __init__(self, items: CacheClient, hot: CacheClient, origin: Database) -> None:
        self._caches = {ITEMS: items, HOT: hot}
        self._origin = origin

    async def get(self, group: str, key: str) -> int:
        value: dict[str, Any] = await self._caches[group].get(key)
        return int(value["version"])

    async def update(self, group: str, key: str) -> int:
        version = await self._origin.write(key)
        await self._caches[group].invalidate(key)
        return version


class _Peer:
    """Cache-aside as it is written everywhere: GET, else read the origin and SETEX; DEL after a write."""

    def __init__(self, redis: Redis, origin: Database, ttls_s: dict[str, int]) -> None:
        self._redis = redis
        self._origin = origin
        self._ttls_s = ttls_s

    async def get(self, group: str, key: str) -> int:
        found = await self._redis.get(f"{group}:{key}")
        if found is not None:
            return int(json.loads(found)["version"])
        value = await self._origin.read(key)
        await self._redis.setex(f"{group}:{key}", self._ttls_s[group], json.dumps(value))
        return int(value["version"])

    async def update(self, group: str, key: str) -> int:
        version = await self._origin.write(key)
        await self._redis.delete(f"{group}:{key}")
        return version


@contextlib.asynccontextmanager
async def ours(folder: Path, path: str, ttls_s: dict[str, int]) -> AsyncIterator[Contender]:
    """Start three nodes with an L2, and a client."""
    config = folder / "node.toml"
    config.write_text(_CONFIG.format(path=path, ttl_s=ttls_s[ITEMS], hot_ttl_s=ttls_s[HOT]))
    root = str(Path(__file__).parents[3])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    arguments = ["--config", str(config)]
    async with (
        LocalCluster(nodes=3, directory=folder / "cluster", arguments=arguments) as cluster,
        CacheClient(cluster.address, namespace=ITEMS) as items,
        CacheClient(cluster.address, namespace=HOT) as hot,
        Database(path) as origin,
    ):
        yield _Ours(items, hot, origin)


@contextlib.asynccontextmanager
async def peer(folder: Path, path: str, ttls_s: dict[str, int]) -> AsyncIterator[Contender]:
    """Start a Valkey, and redis-py."""
    async with redis_like("valkey", logs=folder) as server, Database(path) as origin:
        redis = Redis.from_pool(BlockingConnectionPool.from_url(f"redis://{server.address}/0", max_connections=500))
        try:
            yield _Peer(redis, origin, ttls_s)
        finally:
            await redis.aclose()
