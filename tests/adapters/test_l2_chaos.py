from __future__ import annotations

import asyncio
from random import Random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import L2Write
from cachenode.errors import L2Unavailable
from tests.support.clock import ManualClock

WRITE = [L2Write(b"k", b"v", 0, 1, 60)]


def chaos(seed: int = 1, **faults: float) -> tuple[ChaosL2, MemoryL2]:
    memory = MemoryL2(ManualClock())
    return ChaosL2(memory, Random(seed), **faults), memory  # type: ignore[arg-type]


async def test_down_loses_every_call_until_it_is_up() -> None:
    """While it is down nothing reaches the store inside."""
    store, memory = chaos()
    store.down = True
    for call in (store.write("n", WRITE), store.read("n", [b"k"]), store.drop("n", [(b"k", 1)]), store.ping()):
        with pytest.raises(L2Unavailable):
            await call
    assert await memory.read("n", [b"k"]) == [None]
    store.down = False
    assert await store.write("n", WRITE) == [True]


async def test_lost_call_changes_nothing_and_lost_reply_does() -> None:
    """Both raise; only the lost reply's write has happened."""
    store, memory = chaos(lose_call=1.0)
    with pytest.raises(L2Unavailable):
        await store.write("n", WRITE)
    assert await memory.read("n", [b"k"]) == [None]
    store.lose_call, store.lose_reply = 0.0, 1.0
    with pytest.raises(L2Unavailable):
        await store.write("n", WRITE)
    assert (await memory.read("n", [b"k"]))[0] is not None


async def test_the_same_seed_gives_the_same_faults() -> None:
    """A run with faults can be repeated."""

    async def run(seed: int) -> list[bool]:
        store, _ = chaos(seed, lose_call=0.3, lose_reply=0.2)
        outcomes = []
        for _ in range(50):
            try:
                await store.ping()
                outcomes.append(True)
            except L2Unavailable:
                outcomes.append(False)
        return outcomes

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)
    assert 10 < sum(await run(1)) < 45


async def test_delays() -> None:
    """A delayed call waits first, for as long as is set at that moment."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    store = ChaosL2(MemoryL2(ManualClock()), Random(1), delay=1.0, delay_s=0.5, sleep=sleep)
    await store.ping()
    store.delay_s = 2.0
    await store.ping()
    store.delay = 0.0
    await store.ping()
    assert waits == [0.5, 2.0]
