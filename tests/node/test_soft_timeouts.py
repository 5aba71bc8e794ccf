"""Soft timeouts: a load is waited for a little where there is a value past its TTL, and not for longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.errors import OriginError
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from tests.node.test_read_through import TTL_S, K, Rig
from tests.support.cluster import run
from tests.support.eventually import eventually
from tests.support.origin import origin_of

LONG_S = 30.0
SHORT_S = 0.01


def rig_of(soft_timeout_s: float, **policy: Any) -> Rig:
    """Return a node whose namespace serves stale values, after so long if they are being loaded."""
    rig = Rig(stale_s=100.0, **policy)
    space = rig.node.namespaces.get("n")
    assert space is not None
    space.origin = origin_of(rig.loader, rig.clock, soft_timeout_s=soft_timeout_s, attempts=1)
    return rig


async def old_value(rig: Rig, value: bytes = b"old") -> None:
    """Have a value loaded, and let its TTL pass; its next load is held."""
    rig.loader.put(K, value)
    assert await rig.get() == [value]
    rig.clock.advance(TTL_S + 1)
    rig.loader.put(K, b"new")
    rig.loader.gate.clear()


async def read(rig: Rig, *keys: bytes, timeout_s: float = 0.0) -> list[tuple[bytes, bool] | Reason | None]:
    """Return each key's value and whether it is marked as stale."""
    result = await run(rig.node, Batch(Operation.GET, "n", list(keys or (K,)), timeout_s=timeout_s))
    found: list[tuple[bytes, bool] | Reason | None] = [
        (record[HEADER_BYTES:], bool(HEADER.unpack_from(record)[1] & STALE)) if record else None
        for record in result.records
    ]
    for at, failure in result.failures.items():
        found[at] = failure.reason
    return found


def counts(rig: Rig) -> tuple[int, int]:
    """Return how many reads were given a stale value, and how many of them had waited."""
    observed = rig.node.namespaces.get("n").observed
    return observed.stale_reads, observed.soft_timeouts


async def test_load_in_time_is_waited_for() -> None:
    """All who ask get the new value, from one load, and nobody the old one."""
    rig = rig_of(LONG_S)
    await old_value(rig)
    readers = [asyncio.ensure_future(read(rig)) for _ in range(3)]
    await eventually(lambda: rig.count("load_waits") == 3)
    rig.loader.gate.set()
    assert await asyncio.gather(*readers) == [[(b"new", False)]] * 3
    assert len(rig.loader.calls) == 2
    assert counts(rig) == (0, 0)


async def test_slow_load_is_not_waited_for() -> None:
    """The old value is given, marked, and the load goes on: who asks when it has come gets the new one."""
    rig = rig_of(SHORT_S)
    await old_value(rig)
    assert await read(rig) == [(b"old", True)]
    assert counts(rig) == (1, 1)
    rig.loader.gate.set()
    await eventually(lambda: not len(rig.node.namespaces.get("n").flights))
    assert await read(rig) == [(b"new", False)]
    assert len(rig.loader.calls) == 2


async def test_load_that_fails() -> None:
    """The old value is given as soon as that is known; until the next load may begin, it is given at once."""
    rig = rig_of(LONG_S)
    await old_value(rig)
    rig.loader.gate.set()
    rig.loader.values[K] = OriginError("bad", again=False)
    assert await read(rig) == [(b"old", True)]
    assert await read(rig) == [(b"old", True)]
    assert counts(rig) == (2, 1)
    assert len(rig.loader.calls) == 2


async def test_value_that_the_origin_has_no_more() -> None:
    """Who has waited is told that there is none."""
    rig = rig_of(LONG_S)
    await old_value(rig)
    rig.loader.gate.set()
    del rig.loader.values[K]
    assert await read(rig) == [None]
    assert await read(rig) == [None]


async def test_without_one_stale_values_are_given_at_once() -> None:
    """So it is by default; a value that is not past its TTL is never waited for."""
    rig = rig_of(0.0)
    await old_value(rig)
    assert await read(rig) == [(b"old", True)]
    assert counts(rig) == (1, 0)
    rig.loader.gate.set()
    ahead = rig_of(LONG_S, refresh_ahead=0.5)
    ahead.loader.put(K, b"v")
    await read(ahead)
    ahead.clock.advance(TTL_S * 0.7)
    ahead.loader.gate.clear()
    assert await read(ahead) == [(b"v", False)]
    ahead.loader.gate.set()
    for each in (rig, ahead):
        await each.node.read_through.close()


async def test_caller_with_less_time() -> None:
    """It is given the old value when half of its time is over."""
    rig = rig_of(LONG_S)
    await old_value(rig)
    assert await read(rig, timeout_s=1.0) == [(b"old", True)]
    rig.loader.gate.set()
    await rig.node.read_through.close()


async def test_other_keys_of_a_batch_do_not_wait() -> None:
    """What is there is answered at once, what is absent when it is loaded, each key once."""
    rig = rig_of(LONG_S)
    await rig.write(Operation.SET, b"here", key=b"a")
    await old_value(rig)
    await rig.write(Operation.SET, b"here", key=b"a")
    parts: list[BatchResult] = []
    rest = rig.node.execute(Batch(Operation.GET, "n", [b"a", K, b"none"]), parts.append)
    assert [list(part.indices or ()) for part in parts] == [[0]]
    assert rest is not None
    doing = asyncio.ensure_future(rest)
    await eventually(lambda: rig.count("load_waits") == 1)
    rig.loader.gate.set()
    await doing
    answered = {
        index: record[HEADER_BYTES:]
        for part in parts
        for index, record in zip(part.indices or (), part.records, strict=True)
    }
    assert answered == {0: b"here", 1: b"new", 2: b""}
    assert sum(len(part.indices or ()) for part in parts) == 3


async def test_value_that_is_removed_meanwhile() -> None:
    """The old value is not given any more once the time is over: its reader waits for a load that began later."""
    rig = rig_of(SHORT_S)
    await old_value(rig)
    reading = asyncio.ensure_future(read(rig))
    await rig.loader.held.wait()
    await rig.write(Operation.INVALIDATE)
    rig.loader.held.clear()
    await rig.loader.held.wait()
    assert not reading.done()
    rig.loader.gate.set()
    assert await reading == [(b"new", False)]
    assert counts(rig) == (0, 0)


async def test_value_that_is_written_meanwhile() -> None:
    """What was written is given, unmarked."""
    rig = rig_of(SHORT_S)
    await old_value(rig)
    reading = asyncio.ensure_future(read(rig))
    await rig.loader.held.wait()
    await rig.write(Operation.SET, b"set")
    assert await reading == [(b"set", False)]
    assert counts(rig) == (0, 0)
    rig.loader.gate.set()
    await rig.node.read_through.close()


@pytest.mark.parametrize(("soft_s", "found"), [(LONG_S, (b"new", False)), (SHORT_S, (b"old", True))])
async def test_callers_who_load(soft_s: float, found: tuple[bytes, bool]) -> None:
    """One is given the right to load and the old value at once, the others wait for so long."""
    rig = rig_of(0.0)
    await old_value(rig)
    asked = Batch(Operation.LEASE, "n", [K], lease_s=60.0, soft_timeout_s=soft_s)
    lead = await run(rig.node, asked, holder="one")
    assert lead.tokens[0]
    waiting = asyncio.ensure_future(run(rig.node, asked, holder="other"))
    await eventually(lambda: rig.count("load_waits") == 1)
    if found[0] == b"new":
        brought = Batch(Operation.FULFILL, "n", [K], [b"new"], tokens=list(lead.tokens))
        await run(rig.node, brought)
    [record] = (await waiting).records
    assert (record[HEADER_BYTES:], bool(HEADER.unpack_from(record)[1] & STALE)) == found
