"""One client process of the demonstration: an application with many concurrent callers and one `CacheClient`.

It is told what to do by one JSON line on standard input, says "ready", waits for "go", and then reports four times a
second, one JSON line each. A parent that has gone breaks the pipe, and with it the report, which ends the process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cachenode.demo.data import Airport, Origin
from cachenode.demo.workload import zipf_draws
from cachenode_client import CacheClient

__all__ = ["Task", "main"]

_REPORT_S = 0.25
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """What one process has to do.

    Attributes:
        address: Nodes of the cluster.
        origin: Path of the SQLite file.
        requests: How many reads to make.
        rate: Reads a second, at most.
        callers: Concurrent callers.
        ttl_s: Life of what is stored.
        timeout_s: Longest wait for the cache.
        origin_delay_s: Added to each query: the way to a database that is not a local file.
        exponent: Of Zipf's law.
        rank_seed: Decides which records are popular.
        draw_seed: Decides this process's sequence.
    """

    address: str
    origin: str
    requests: int
    rate: float
    callers: int
    ttl_s: float
    timeout_s: float
    origin_delay_s: float
    exponent: float
    rank_seed: int
    draw_seed: int

    def to_json(self) -> str:
        """Return the task as one line."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class _Tally:
    """What happened since the last report: microseconds that callers waited for a value, by where it came from."""

    near: list[int] = field(default_factory=list)
    l1: list[int] = field(default_factory=list)
    l2: list[int] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    not_stored: int = 0
    problem: str = ""


class _Worker:
    def __init__(self, task: Task, client: CacheClient, origin: Origin) -> None:
        self._task = task
        self._client = client
        self._origin = origin
        self._truth = origin.load_all()
        self._tally = _Tally()
        self._errors = 0
        self._due = self._draws()
        self._start = 0.0

    def _draws(self) -> Iterator[tuple[int, str]]:
        task = self._task
        draws = zipf_draws(
            list(self._truth), exponent=task.exponent, rank_seed=task.rank_seed, draw_seed=task.draw_seed
        )
        return zip(range(task.requests), draws, strict=False)

    async def run(self) -> None:
        self._start = time.monotonic()
        reporting = asyncio.create_task(self._report_for_ever())
        calling = asyncio.gather(*(self._call_until_done() for _ in range(self._task.callers)))
        ends: list[asyncio.Future[Any]] = [reporting, calling]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        reporting.cancel()
        for ended in done:
            ended.result()
        self._report()

    async def _call_until_done(self) -> None:
        for number, icao in self._due:
            early_s = self._start + number / self._task.rate - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            try:
                async with asyncio.timeout(_PATIENCE_S):  # a call that never ends would be the worst failure
                    await self._call(icao)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request, and the demo counts those
                self._tally.failed += 1
                self._tally.problem = self._tally.problem or f"{type(error).__name__}: {error}".rstrip(": ")

    async def _call(self, icao: str) -> None:
        """Do what an application does: ask the cache, on a miss the origin, then store what it said."""
        key = f"airport:{icao}"
        began = time.perf_counter_ns()
        found = await self._client.lookup(key)
        value: Any = found.value if found.found else await self._load(icao)
        waited_us = (time.perf_counter_ns() - began) // 1000
        tally = self._tally
        layers = {"near": tally.near, "l1": tally.l1, "l2": tally.l2, "": tally.origin}
        layers[found.layer if found.found else ""].append(waited_us)
        if value != self._truth[icao]:
            tally.wrong += 1
        if not found.found and not await self._client.set(key, value, ttl_s=self._task.ttl_s):
            self._tally.not_stored += 1

    async def _load(self, icao: str) -> Airport:
        await asyncio.sleep(self._task.origin_delay_s)
        return self._origin.load(icao)

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report()

    def _report(self) -> None:
        tally, self._tally = self._tally, _Tally()
        errors = self._client.stats()["errors"]
        line = asdict(tally) | {"errors": errors - self._errors}
        self._errors = errors
        _say(json.dumps(line))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the parent reads it


async def _work(task: Task) -> None:
    origin = Origin(Path(task.origin))
    client = CacheClient(task.address, timeout_s=task.timeout_s, on_error="miss", client_name="demo")
    async with client:
        worker = _Worker(task, client, origin)
        await client.view()  # connected before the clock starts
        _say('"ready"')
        await asyncio.to_thread(sys.stdin.readline)
        await worker.run()
    origin.close()


def main() -> None:
    """Do the task that standard input describes."""
    asyncio.run(_work(Task(**json.loads(sys.stdin.readline()))))
