"""A process that invalidates keys while others hold copies, and says how long it waited for their word."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from time import perf_counter
from typing import Any

from cachenode_client import CacheClient
from tests.bench.orders import orders, run, say
from tests.bench.workload import VALUE, key_at

__all__: list[str] = []

_TIMEOUT_S = 10.0
_KEYS = 32
"""Keys that are held at a time: enough for every node to own some."""
_PORTION = 500


class _Holders:
    """The processes of `tests.bench.holders`, over loopback."""

    def __init__(self) -> None:
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, ports: list[int]) -> None:
        self._streams = [await asyncio.open_connection("127.0.0.1", port) for port in ports]

    async def hold(self, keys: list[str]) -> int:
        """Return, once all hold these keys, how many copies were invalidated so far."""
        order = json.dumps(keys).encode() + b"\n"
        for _, writer in self._streams:
            writer.write(order)
        return sum([int(await reader.readline()) for reader, _ in self._streams])


async def _one_by_one(client: CacheClient, holders: _Holders, count: int) -> list[float]:
    """Invalidate one held key after the other; return the microseconds of each call.

    They follow each other at once, as the exchanges of the echo beside them do: between two a process on an idle core
    falls asleep, and to wake it costs as much as an exchange.
    """
    took: list[float] = []
    while len(took) < count:
        keys = [key_at(at) for at in range(min(_KEYS, count - len(took)))]
        await client.set_many(dict.fromkeys(keys, VALUE))
        await holders.hold(keys)
        for key in keys:
            start = perf_counter()
            await client.invalidate(key)
            took.append((perf_counter() - start) * 1e6)
    return took


async def _at_once(client: CacheClient, holders: _Holders, count: int, callers: int) -> float:
    """Invalidate keys that are all held, each in a call of its own; return the seconds that it took."""
    keys = [key_at(number) for number in range(count)]
    for first in range(0, count, _PORTION):
        portion = keys[first : first + _PORTION]
        await client.set_many(dict.fromkeys(portion, VALUE))
        await holders.hold(portion)
    left = iter(keys)

    async def caller() -> None:
        for key in left:
            await client.invalidate(key)

    start = perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return perf_counter() - start


async def _obey(client: CacheClient, holders: _Holders, order: dict[str, Any]) -> dict[str, Any]:
    gc.collect()
    before = await holders.hold([])
    if order["do"] == "one_by_one":
        answer: dict[str, Any] = {"took_us": await _one_by_one(client, holders, order["count"])}
    else:
        answer = {"seconds": await _at_once(client, holders, order["count"], order["callers"])}
    return answer | {"invalidated": await holders.hold([]) - before}


async def _main(spec: dict[str, Any]) -> None:
    holders = _Holders()
    await holders.connect(spec["ports"])
    async with CacheClient(spec["address"], timeout_s=_TIMEOUT_S, client_name="invalidator") as client:
        await client.get("nothing")
        say(ready=True)
        async for order in orders():
            say(**await _obey(client, holders, order))


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    run(_main(told), uvloop=told["uvloop"])
