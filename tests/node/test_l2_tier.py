"""L2 behind its breaker and journal."""

from __future__ import annotations

import math
import random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.breaker import Breaker
from cachenode.core.entries import L2Write
from cachenode.errors import L2Unavailable
from cachenode.node.l2_tier import L2Tier
from tests.support.clock import ManualClock
from tests.support.cluster import HeldL2


class Rig:
    """A tier over a store that can be taken away."""

    def __init__(self, journal_limit: int = 1_000) -> None:
        self.clock = ManualClock()
        self.memory = MemoryL2(self.clock)
        self.chaos = ChaosL2(self.memory, random.Random(0))
        self.version = 100
        self.tier = L2Tier(
            self.chaos,
            Breaker(failures=3, retry_s=1.0),
            self.clock,
            journal_limit=journal_limit,
        )

    def next_version(self) -> int:
        self.version += 1
        return self.version

    async def set(self, key: bytes, value: bytes) -> list[bool]:
        return await self.tier.write("n", [L2Write(key, value, 0, self.next_version(), math.inf)])

    async def get(self, key: bytes) -> bytes | None:
        (entry,) = await self.tier.read("n", [key])
        return entry.value if entry else None

    async def fall(self) -> None:
        """Take the store away, until the breaker is open."""
        self.chaos.down = True
        for _ in range(3):
            with pytest.raises(L2Unavailable):
                await self.tier.read("n", [b"x"])
        assert not self.tier.available


async def test_writes_while_away_are_replayed_before_trust() -> None:
    """A key written while L2 was away does not show its former value after L2 is back. Scenario 33."""
    rig = Rig()
    await rig.set(b"k", b"old")
    await rig.set(b"other", b"kept")
    await rig.fall()
    assert await rig.set(b"k", b"new") == [True]
    assert await rig.tier.drop("n", [(b"gone", rig.next_version())]) == [False]
    assert rig.tier.journal_size == 2
    assert await rig.get(b"k") is None
    rig.chaos.down = False
    assert not await rig.tier.recover()  # the breaker waits a second first
    rig.clock.advance(1.1)
    assert await rig.tier.recover()
    assert rig.tier.available
    assert rig.tier.journal_size == 0
    assert await rig.get(b"k") is None
    assert await rig.get(b"other") == b"kept"


async def test_a_single_lost_write_is_not_read_back_old() -> None:
    """A write that L2 did not get, though the breaker stayed closed, is not answered with its former value."""
    rig = Rig()
    await rig.set(b"k", b"old")
    rig.chaos.down = True
    await rig.set(b"k", b"new")
    rig.chaos.down = False
    assert rig.tier.available
    assert rig.tier.behind
    assert await rig.get(b"k") is None
    assert await rig.tier.recover()
    assert not rig.tier.behind
    assert await rig.get(b"k") is None


async def test_a_later_write_strikes_the_lost_one_out() -> None:
    """Once L2 has taken a newer value of a key, it is believed about the key again."""
    rig = Rig()
    rig.chaos.down = True
    await rig.set(b"k", b"lost")
    await rig.tier.drop("n", [(b"d", rig.next_version())])
    rig.chaos.down = False
    await rig.set(b"k", b"new")
    await rig.tier.drop("n", [(b"d", rig.next_version())])
    assert rig.tier.journal_size == 0
    assert await rig.get(b"k") == b"new"


async def test_write_during_replay_is_replayed() -> None:
    """A write that comes while the journal is being replayed is covered by the same replay."""
    rig = Rig()
    await rig.set(b"late", b"old")
    await rig.fall()
    await rig.set(b"k", b"new")
    rig.chaos.down = False
    rig.clock.advance(1.1)
    drop = rig.memory.drop

    async def drop_and_write(namespace: str, drops: list[tuple[bytes, int]]) -> list[bool]:
        rig.memory.drop = drop  # type: ignore[method-assign]
        await rig.set(b"late", b"newer")
        return await drop(namespace, drops)

    rig.memory.drop = drop_and_write  # type: ignore[method-assign,assignment]
    assert await rig.tier.recover()
    assert await rig.get(b"late") is None


async def test_late_success_does_not_close_the_breaker() -> None:
    """Only the replay makes L2 trusted again, not a call that had left before the breaker opened."""
    rig = Rig()
    held = HeldL2(rig.memory)
    await rig.set(b"k", b"v")
    await rig.fall()
    await rig.set(b"k", b"new")
    await rig.tier._guard(held.read("n", [b"k"]))
    assert not rig.tier.available
    assert rig.tier.journal_size == 1


async def test_failed_replay_is_tried_again() -> None:
    """If L2 falls again during the replay, what was not replayed stays in the journal."""
    rig = Rig()
    await rig.fall()
    await rig.set(b"k", b"new")
    rig.clock.advance(1.1)
    assert not await rig.tier.recover()
    assert rig.tier.journal_size == 1
    assert rig.tier.errors == 4


async def test_overflowing_journal_distrusts_what_was_there_before() -> None:
    """A journal that had to forget keys makes all earlier entries of L2 untrue; later ones are fine."""
    rig = Rig(journal_limit=2)
    await rig.set(b"k0", b"old")
    await rig.fall()
    for number in range(3):
        await rig.set(b"k%d" % number, b"new")
    assert rig.tier.journal_size == 2
    rig.chaos.down = False
    rig.clock.advance(1.1)
    assert await rig.tier.recover()
    assert await rig.get(b"k0") is None
    await rig.set(b"k0", b"fresh")
    assert await rig.get(b"k0") == b"fresh"


async def test_recover_of_a_healthy_store_is_nothing() -> None:
    """Asking a trusted store to recover says that it is trusted."""
    rig = Rig()
    assert await rig.tier.recover()
    assert rig.tier.state == "closed"
