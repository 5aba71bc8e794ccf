"""A load of reads and writes that knows what every value must be, and takes note of what goes wrong and when."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from cachenode_client import CacheClient, CacheError

__all__ = ["Load", "until"]


@dataclass
class Load:
    """Callers that read keys, and write some anew with the one value that they may have.

    Attributes:
        client: Used by all callers.
        keys: How many keys; the value of key n is known.
        callers: How many at a time.
        writes: Part of the calls that write.
    """

    client: CacheClient
    keys: int = 1_000
    callers: int = 8
    writes: float = 0.1
    calls: int = 0
    wrong: int = 0
    errors: list[tuple[float, CacheError]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def value(self, number: int) -> dict[str, int]:
        """Return the value of a key."""
        return {"number": number, "square": number * number}

    async def fill(self) -> None:
        """Store every key."""
        await self.client.set_many({f"k{n}": self.value(n) for n in range(self.keys)}, timeout_s=10.0)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call_forever(random.Random(seed))) for seed in range(self.callers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _call_forever(self, rng: random.Random) -> None:
        while not self._stop:
            number = rng.randrange(self.keys)
            began = time.monotonic()
            try:
                if rng.random() < self.writes:
                    await self.client.set(f"k{number}", self.value(number))
                else:
                    found = await self.client.get(f"k{number}")
                    self.wrong += found is not None and found != self.value(number)
            except CacheError as error:
                self.errors.append((time.monotonic(), error))
            self.calls += 1
            self.latencies.append(time.monotonic() - began)

    def percentile(self, part: float, *, since: int = 0) -> float:
        """Return a latency that this part of the calls (from the `since`-th on) did not exceed."""
        ordered = sorted(self.latencies[since:])
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def until(condition: object, timeout_s: float, what: str) -> float:
    """Wait until a condition (a function, async or not) is true; return the seconds it took."""
    began = time.monotonic()
    while True:
        outcome = condition()  # type: ignore[operator]
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        if outcome:
            return time.monotonic() - began
        assert time.monotonic() - began < timeout_s, f"{what}: not within {timeout_s} s"
        await asyncio.sleep(0.02)
