"""cachenode under the same workloads: the SDK in both its forms. Near cache off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

from cachenode_client import CacheClient
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.bench.contenders import AsyncContender, ThreadContender
from tests.bench.workload import BATCH, TTL_S, VALUE, key_at, key_batches, load_batches

__all__ = ["OursBlockingGet", "OursGet", "OursGetMany", "OursSet"]

# A loaded machine is not a failure of the cache: a call that takes long shows in the numbers.
_TIMEOUT_S = 10.0
_LOADS_AT_ONCE = 4
_LOOKS = 20
_LOOK_S = 0.25


class OursGet(AsyncContender):
    """``await client.get(key)``."""

    async def open(self) -> None:
        """Connect and make one call, since the client connects lazily."""
        where = self.settings
        self.client = CacheClient(where.address, namespace=where.namespace, timeout_s=_TIMEOUT_S, client_name="bench")
        self.call = self.client.get
        await self.client.get(key_at(0))

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()

    async def load(self, entries: int) -> int:
        """Store keys in batches; L2 may lag, so look several times."""
        waiting = load_batches(entries)
        while batches := list(islice(waiting, _LOADS_AT_ONCE)):
            await asyncio.gather(*(self.client.set_many(dict.fromkeys(keys, VALUE), ttl_s=TTL_S) for keys in batches))
        for _ in range(_LOOKS):
            present = await self._present(entries)
            if present == entries:
                break
            await asyncio.sleep(_LOOK_S)
        return present

    async def _present(self, entries: int) -> int:
        return sum([len(await self.client.get_many(keys)) for keys in load_batches(entries)])

    async def layers(self, sample: int) -> dict[str, int]:
        """Return where a sample of the keys is found."""
        counts: dict[str, int] = {}
        items = self.items()
        for _ in range(sample):
            layer = str((await self.client.lookup(next(items))).layer)
            counts[layer] = counts.get(layer, 0) + 1
        return counts


class OursSet(OursGet):
    """``await client.set(key, value, ttl_s=…)``."""

    async def open(self) -> None:
        """Connect."""
        await super().open()
        store = self.client.set
        self.call = lambda item: store(item, VALUE, ttl_s=TTL_S)


class OursGetMany(OursGet):
    """``await client.get_many(keys)``."""

    keys_per_call = BATCH

    async def open(self) -> None:
        """Connect, and check that a batch comes back whole."""
        await super().open()
        self.call = self.client.get_many
        keys = next(self.items())
        if await self.client.get_many(keys) != dict.fromkeys(keys, VALUE):
            raise RuntimeError("get_many did not return every value")

    def items(self) -> Iterator[Any]:
        """Return batches."""
        return key_batches(self.settings.seed)


class OursBlockingGet(ThreadContender):
    """The blocking client's ``get`` from threads that share it."""

    async def open(self) -> None:
        """Connect and make one call, since the client connects lazily."""
        where = self.settings
        self.client = await asyncio.to_thread(
            BlockingCacheClient,
            where.address,
            namespace=where.namespace,
            timeout_s=_TIMEOUT_S,
            client_name="bench",
        )
        self.call = self.client.get
        await asyncio.to_thread(self.client.get, key_at(0))

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(self.client.close)
