"""The clients that a user would pick instead, driven the way their manuals say.

One class per workload. A contender is opened once in a process of its own, and its `run` is called once per round.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cache import CacheConfig

from tests.bench.load import Measurement, drive_async, drive_hits_blocking, drive_threads, drive_timed
from tests.bench.workload import BATCH, HOT_KEYS, TTL_S, VALUE, hot_keys, key_batches, key_picks, load_batches

__all__ = ["Contender", "Settings"]

_TTL_MS = TTL_S * 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """What a contender is told: where its server is, and how hard to push."""

    address: str
    callers: int = 1
    namespace: str = "plain"
    timed: bool = False
    seed: int = 1
    certs: str = ""

    @property
    def host(self) -> str:
        """Return the server's host."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Return the server's port."""
        return int(self.address.rpartition(":")[2])


class Contender(ABC):
    """One client under one workload."""

    keys_per_call = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def run(self, seconds: float) -> Measurement:
        """Measure one round."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    async def load(self, entries: int) -> int:
        """Store the first `entries` keys and return how many are there afterwards."""
        raise NotImplementedError(f"{type(self).__name__} does not load")


class AsyncContender(Contender):
    """A client of asyncio. Opening sets `call`: the client's own method where it fits, which saves a coroutine."""

    call: Callable[[Any], Awaitable[Any]]
    _items: Iterator[Any] | None = None

    def items(self) -> Iterator[Any]:
        """Return what the calls are given."""
        return key_picks(self.settings.seed)

    async def run(self, seconds: float) -> Measurement:
        """Measure one round with all callers in one event loop."""
        items = self._items = self._items or self.items()
        if self.settings.timed:
            return await drive_timed(self.call, items, seconds=seconds)
        return await drive_async(self.call, items, callers=self.settings.callers, seconds=seconds)


class ThreadContender(Contender):
    """A blocking client. Opening sets `call`. The event loop of the process idles meanwhile."""

    call: Callable[[Any], Any]
    _items: list[Iterator[Any]] | None = None

    def items(self, seed: int) -> Iterator[Any]:
        """Return what the calls of one thread are given."""
        return key_picks(seed)

    async def run(self, seconds: float) -> Measurement:
        """Measure one round with a thread per caller."""
        callers = self.settings.callers
        items = self._items = self._items or [self.items(self.settings.seed + at) for at in range(callers)]
        return await asyncio.to_thread(drive_threads, self.call, items.__getitem__, callers=callers, seconds=seconds)


class RedisAsyncGet(AsyncContender):
    """redis.asyncio GET: one client, as many connections as callers."""

    async def open(self) -> None:
        """Connect; every caller's connection is made by the first round, which is not measured."""
        self.client = self._client()
        self.call = self.client.get
        await self.client.ping()

    def _client(self) -> redis.asyncio.Redis:
        where = self.settings
        return redis.asyncio.Redis(host=where.host, port=where.port, max_connections=where.callers)

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()


class RedisAsyncGetUnlimited(RedisAsyncGet):
    """redis.asyncio GET without its default time limit and retries: faster, but it hangs with its server."""

    def _client(self) -> redis.asyncio.Redis:
        where = self.settings
        return redis.asyncio.Redis(
            host=where.host,
            port=where.port,
            max_connections=where.callers,
            socket_timeout=None,
            retry=AsyncRetry(NoBackoff(), 0),
        )


class RedisAsyncSet(RedisAsyncGet):
    """redis.asyncio SET PX."""

    async def open(self) -> None:
        """Connect."""
        await super().open()
        store = self.client.set
        self.call = lambda item: store(item, VALUE, px=_TTL_MS)


class RedisAsyncGetMany(RedisAsyncGet):
    """redis.asyncio MGET."""

    keys_per_call = BATCH

    async def open(self) -> None:
        """Connect, and check that a batch comes back whole."""
        await super().open()
        self.call = self.client.mget
        if await self.client.mget(next(self.items())) != [VALUE] * BATCH:
            raise RuntimeError("MGET did not return every value")

    def items(self) -> Iterator[Any]:
        """Return batches."""
        return key_batches(self.settings.seed)


class RedisBlockingGet(ThreadContender):
    """redis-py GET from threads: one client, as many connections as threads."""

    async def open(self) -> None:
        """Connect."""
        where = self.settings
        self.client = redis.Redis(host=where.host, port=where.port, max_connections=where.callers)
        self.call = self.client.get
        self.client.ping()

    async def close(self) -> None:
        """Disconnect."""
        self.client.close()

    async def load(self, entries: int) -> int:
        """Store keys through pipelines."""
        for keys in load_batches(entries):
            pipeline = self.client.pipeline(transaction=False)
            for key in keys:
                pipeline.set(key, VALUE, px=_TTL_MS)
            pipeline.execute()
        return sum(int(self.client.exists(*keys)) for keys in load_batches(entries))


class RedisBlockingGetMany(RedisBlockingGet):
    """redis-py MGET from one thread."""

    keys_per_call = BATCH

    async def open(self) -> None:
        """Connect, and check that a batch comes back whole."""
        await super().open()
        if self.client.mget(next(self.items(0))) != [VALUE] * BATCH:
            raise RuntimeError("MGET did not return every value")
        self.call = self.client.mget

    def items(self, seed: int) -> Iterator[Any]:
        """Return batches."""
        return key_batches(seed)


class RedisCachedGet(RedisBlockingGet):
    """redis-py GET of keys in its client-side cache, from one thread. Its asyncio client has no such cache."""

    async def open(self) -> None:
        """Connect and store the keys; a Redis that is too old for the cache is refused here."""
        where = self.settings
        self.client = redis.Redis(host=where.host, port=where.port, protocol=3, cache_config=CacheConfig())
        self.asks = redis.Redis(host=where.host, port=where.port)
        self.call = self.client.get
        self.client.mset(dict.fromkeys(hot_keys(), VALUE))

    async def run(self, seconds: float) -> Measurement:
        """Measure one round, in which every read is a hit of the cache."""
        return await asyncio.to_thread(self._run, seconds)

    def _run(self, seconds: float) -> Measurement:
        for key in hot_keys():
            self.client.get(key)
        before = self._reads()
        measured = drive_hits_blocking(self.call, cycle(hot_keys()), seconds=seconds)
        if self._reads() - before > HOT_KEYS:
            raise RuntimeError(f"{self._reads() - before} of {measured.calls} reads were no hits of the cache")
        return measured

    def _reads(self) -> int:
        """Return how many GETs the server has seen."""
        return int(self.asks.info("commandstats").get("cmdstat_get", {}).get("calls", 0))

    async def close(self) -> None:
        """Disconnect."""
        self.client.close()
        self.asks.close()


class MemcachedGet(ThreadContender):
    """pymemcache from threads: a pool with as many connections as threads."""

    async def open(self) -> None:
        """Connect."""
        # Late, since this comparison is information only and its client optional.
        from pymemcache.client.base import PooledClient  # type: ignore[import-untyped,unused-ignore]

        where = self.settings
        self.client = PooledClient((where.host, where.port), max_pool_size=where.callers, no_delay=True)
        self.call = self.client.get
        self.client.version()

    async def close(self) -> None:
        """Disconnect."""
        self.client.close()

    async def load(self, entries: int) -> int:
        """Store keys in batches."""
        for keys in load_batches(entries):
            self.client.set_many(dict.fromkeys(keys, VALUE), expire=TTL_S)
        return sum(len(self.client.get_many(keys)) for keys in load_batches(entries))


class MemcachedGetMany(MemcachedGet):
    """pymemcache get_many from one thread."""

    keys_per_call = BATCH

    async def open(self) -> None:
        """Connect, and check that a batch comes back whole."""
        await super().open()
        if len(self.client.get_many(next(self.items(0)))) != BATCH:
            raise RuntimeError("get_many did not return every value")
        self.call = self.client.get_many

    def items(self, seed: int) -> Iterator[Any]:
        """Return batches."""
        return key_batches(seed)
