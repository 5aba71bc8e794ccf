"""cachenode under the same workloads: the SDK in both its forms.

The near cache is off, since the rows measure the way to the node, but for those rows that measure the near cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cachenode_client import CacheClient, Tls
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.bench.contenders import AsyncContender, ThreadContender
from tests.bench.load import Measurement, drive_hits, drive_hits_blocking
from tests.bench.workload import BATCH, HOT_KEYS, TTL_S, VALUE, hot_keys, key_at, key_batches, load_batches

__all__ = ["OursBlockingGet", "OursBlockingNearHit", "OursGet", "OursGetMany", "OursGetTls", "OursNearHit", "OursSet"]

# A loaded machine is not a failure of the cache: a call that takes long shows in the numbers.
_OPTIONS: dict[str, Any] = {"timeout_s": 10.0, "client_name": "bench", "near_cache": None}
_NEAR_OPTIONS: dict[str, Any] = {**_OPTIONS, "near_cache": 32 << 20}
_LOADS_AT_ONCE = 4
_LOOKS = 20
_LOOK_S = 0.25


class OursGet(AsyncContender):
    """``await client.get(key)``."""

    options = _OPTIONS

    async def open(self) -> None:
        """Connect and make one call, since the client connects lazily."""
        where = self.settings
        self.client = CacheClient(where.address, namespace=where.namespace, **self.options)
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


class OursGetTls(OursGet):
    """The same over TLS, with a certificate of its own."""

    async def open(self) -> None:
        """Connect."""
        files = Path(self.settings.certs)
        tls = Tls(ca_file=files / "ca.pem", cert_file=files / "client.pem", key_file=files / "client-key.pem")
        self.options = {**_OPTIONS, "tls": tls}
        await super().open()


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

    options = _OPTIONS

    async def open(self) -> None:
        """Connect and make one call, since the client connects lazily."""
        where = self.settings
        self.client = BlockingCacheClient(where.address, namespace=where.namespace, **self.options)
        self.call = self.client.get
        await asyncio.to_thread(self.client.get, key_at(0))

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(self.client.close)


class OursNearHit(OursGet):
    """``await client.get(key)`` of keys that the near cache holds."""

    options = _NEAR_OPTIONS

    async def open(self) -> None:
        """Connect and store the keys."""
        await super().open()
        await self.client.set_many(dict.fromkeys(hot_keys(), VALUE), ttl_s=TTL_S)

    async def run(self, seconds: float) -> Measurement:
        """Measure one round, in which every read is a near hit."""
        await self.client.get_many(hot_keys())
        before = self.client.stats()["near_hits"]
        measured = await drive_hits(self.call, cycle(hot_keys()), seconds=seconds)
        _check_near_hits(self.client.stats()["near_hits"] - before, measured.calls)
        return measured


class OursBlockingNearHit(OursBlockingGet):
    """The blocking client's ``get`` of keys that the near cache holds."""

    options = _NEAR_OPTIONS

    async def open(self) -> None:
        """Connect and store the keys."""
        await super().open()
        await asyncio.to_thread(self.client.set_many, dict.fromkeys(hot_keys(), VALUE), ttl_s=TTL_S)

    async def run(self, seconds: float) -> Measurement:
        """Measure one round, in which every read is a near hit."""
        return await asyncio.to_thread(self._run, seconds)

    def _run(self, seconds: float) -> Measurement:
        self.client.get_many(hot_keys())
        before = self.client.stats()["near_hits"]
        measured = drive_hits_blocking(self.call, cycle(hot_keys()), seconds=seconds)
        _check_near_hits(self.client.stats()["near_hits"] - before, measured.calls)
        return measured


def _check_near_hits(hits: int, calls: int) -> None:
    """A read that asks the node is as good as none here; a few may come when a lease ran out on a busy machine."""
    if hits < calls - HOT_KEYS:
        raise RuntimeError(f"only {hits} of {calls} reads were near hits")
