"""Closed-loop load: so many callers, each waiting for its answer before it asks again.

A call returns something falsy when there was no value. That is counted, because a cache that answers "not here" fast
would otherwise win.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

__all__ = ["Measurement", "drive_async", "drive_hits", "drive_hits_blocking", "drive_threads", "drive_timed"]

_HITS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one round gave. `p50_us` is 0 where single calls were not timed."""

    calls: int
    seconds: float
    misses: int
    p50_us: float = 0.0


async def drive_async(
    call: Callable[[Any], Awaitable[Any]], items: Iterator[Any], *, callers: int, seconds: float
) -> Measurement:
    """Run `callers` tasks that share `items` for `seconds`."""
    misses = 0

    async def caller(end: float) -> int:
        nonlocal misses
        calls = 0
        while perf_counter() < end:
            if not await call(next(items)):
                misses += 1
            calls += 1
        return calls

    start = perf_counter()
    calls = sum(await asyncio.gather(*(caller(start + seconds) for _ in range(callers))))
    return Measurement(calls, perf_counter() - start, misses)


async def drive_timed(call: Callable[[Any], Awaitable[Any]], items: Iterator[Any], *, seconds: float) -> Measurement:
    """Run one caller and time each call."""
    took: list[float] = []
    misses = 0
    start = before = perf_counter()
    while before < start + seconds:
        if not await call(next(items)):
            misses += 1
        after = perf_counter()
        took.append(after - before)
        before = after
    return Measurement(len(took), before - start, misses, statistics.median(took) * 1e6)


async def drive_hits(call: Callable[[Any], Awaitable[Any]], items: Iterator[Any], *, seconds: float) -> Measurement:
    """Run one caller of what is so fast that looking at the clock would cost as much.

    It lets its event loop turn now and then, since a hit in memory never does.
    """
    calls = misses = 0
    start = now = perf_counter()
    while now < start + seconds:
        for item in islice(items, _HITS_AT_ONCE):
            if not await call(item):
                misses += 1
        calls += _HITS_AT_ONCE
        await asyncio.sleep(0)
        now = perf_counter()
    return Measurement(calls, now - start, misses)


def drive_hits_blocking(call: Callable[[Any], Any], items: Iterator[Any], *, seconds: float) -> Measurement:
    """The same for a blocking call."""
    calls = misses = 0
    start = now = perf_counter()
    while now < start + seconds:
        for item in islice(items, _HITS_AT_ONCE):
            if not call(item):
                misses += 1
        calls += _HITS_AT_ONCE
        now = perf_counter()
    return Measurement(calls, now - start, misses)


def drive_threads(
    call: Callable[[Any], Any], items_of: Callable[[int], Iterator[Any]], *, callers: int, seconds: float
) -> Measurement:
    """Run `callers` threads for `seconds`, each with items of its own: iterators are not safe to share.

    Raises:
        RuntimeError: A thread failed.
    """
    barrier = threading.Barrier(callers + 1)
    results: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def caller(items: Iterator[Any]) -> None:
        calls = misses = 0
        barrier.wait()
        end = perf_counter() + seconds
        try:
            while perf_counter() < end:
                if not call(next(items)):
                    misses += 1
                calls += 1
        except Exception as error:  # noqa: BLE001 - handed to the measuring thread, which raises it
            failures.append(error)
        results.append((calls, misses))

    threads = [threading.Thread(target=caller, args=(items_of(at),), daemon=True) for at in range(callers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = perf_counter()
    for thread in threads:
        thread.join()
    elapsed = perf_counter() - start
    if failures:
        raise RuntimeError(f"{len(failures)} of {callers} threads failed: {failures[0]!r}") from failures[0]
    return Measurement(sum(calls for calls, _ in results), elapsed, sum(misses for _, misses in results))
