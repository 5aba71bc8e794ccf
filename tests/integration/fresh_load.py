"""A load that notices stale reads: an origin whose values only grow, and readers that know what was acknowledged."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from cachenode_client import CacheClient, CacheError

__all__ = ["FreshLoad"]


@dataclass
class FreshLoad:
    """Readers that load what is absent, and writers that change the origin and then say so.

    Each key has one writer. A read is stale if it returns less than what was in the origin when an invalidation (or a
    set) was begun that had been acknowledged before the read began.

    Attributes:
        client: Used by all.
        keys: How many.
        readers: How many at a time.
        writers: As above; each has a part of the keys.
        reads: When each ended, and how long it took.
        stale: What was read, and what should have been the least.
        failed: Reads that raised, and when.
        unsure: Writes that raised: nobody knows whether they were done.
    """

    client: CacheClient
    keys: int = 400
    readers: int = 6
    writers: int = 2
    pause_s: float = 0.002
    reads: list[tuple[float, float]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    failed: list[tuple[float, CacheError]] = field(default_factory=list)
    unsure: list[tuple[float, CacheError]] = field(default_factory=list)
    acknowledged: int = 0
    _origin: dict[str, int] = field(default_factory=dict)
    _floor: dict[str, int] = field(default_factory=dict)
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        for number in range(self.keys):
            self._origin[f"k{number}"] = self._floor[f"k{number}"] = 0
        self._tasks = [asyncio.create_task(self._read_forever(random.Random(seed))) for seed in range(self.readers)]
        self._tasks += [asyncio.create_task(self._write_forever(number)) for number in range(self.writers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    def p99_s(self, since: float) -> float:
        """Return a time that 99 of 100 reads since then did not exceed."""
        took = sorted(took for at, took in self.reads if at >= since)
        return took[int(0.99 * len(took))]

    def longest_s(self, since: float) -> float:
        """Return the time of the slowest read since then: p99 hides what each reader felt once."""
        return max(took for at, took in self.reads if at >= since)

    async def _load(self, key: str) -> int:
        return self._origin[key]

    async def _read_forever(self, rng: random.Random) -> None:
        while not self._stop:
            key = f"k{rng.randrange(self.keys)}"
            least, began = self._floor[key], time.monotonic()
            try:
                found = await self.client.get_or_load(key, lambda key=key: self._load(key), ttl_s=60)
            except CacheError as error:
                self.failed.append((time.monotonic(), error))
            else:
                if found < least:
                    self.stale.append(f"{key}: {found} < {least} at {time.monotonic():.3f}")
            ended = time.monotonic()
            self.reads.append((ended, ended - began))
            await asyncio.sleep(self.pause_s)

    async def _write_forever(self, number: int) -> None:
        rng = random.Random(f"writer {number}")
        while not self._stop:
            key = f"k{rng.randrange(number, self.keys, self.writers)}"
            self._origin[key] += 1
            value = self._origin[key]
            try:
                if rng.random() < 0.7:
                    await self.client.invalidate(key)
                else:
                    await self.client.set(key, value, ttl_s=60)
            except CacheError as error:
                self.unsure.append((time.monotonic(), error))
            else:
                self._floor[key] = value
                self.acknowledged += 1
            await asyncio.sleep(self.pause_s)
