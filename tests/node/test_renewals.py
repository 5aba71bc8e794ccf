"""Values that are loaded anew before they end: who loads, who is served meanwhile, and what stops it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.service import Node
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from cachenode_api.selectors import SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import fetch, new_node, owned_by, run, view_of
from tests.support.copies import NearSession, settled

K = b"k"
TTL_S = 10.0


class Rig:
    """A node with a namespace whose values live 10 s and are served 5 s longer."""

    def __init__(self, *, l2: bool = False, **numbers: Any) -> None:
        self.clock = ManualClock()
        policy = NamespacePolicy(
            name="n", ttl_s=TTL_S, max_value_bytes=100, l2=l2, share=1, **(numbers or {"stale_s": 5.0})
        )
        self.node: Node = new_node("a", self.clock, policies=[policy], l2=MemoryL2(self.clock) if l2 else None)

    async def ask(self, key: bytes = K) -> tuple[bytes, int]:
        """Ask for a key with a LEASE; return value and token."""
        result = await run(self.node, Batch(Operation.LEASE, "n", [key], lease_s=5.0, timeout_s=30.0))
        assert not result.failures, result
        return result.records[0][HEADER_BYTES:], result.tokens[0] if result.tokens else 0

    async def fulfil(self, token: int, value: bytes, key: bytes = K) -> int:
        batch = Batch(Operation.FULFILL, "n", [key], [value], tokens=[token])
        return (await run(self.node, batch)).versions[0]

    async def abandon(self, token: int, *, text: str = "", absent: bool = False) -> BatchResult:
        batch = Batch(Operation.ABANDON, "n", [K], flags=[int(absent)], tokens=[token], details=[text])
        return await run(self.node, batch)

    async def load(self, value: bytes = b"old") -> None:
        found, token = await self.ask()
        assert (found, bool(token)) == (b"", True)
        assert await self.fulfil(token, value)

    async def due(self) -> int:
        """Load a value and let it become due; return the token of the first who asks."""
        await self.load()
        self.clock.advance(TTL_S + 1)
        found, token = await self.ask()
        assert found == b"old"
        return token

    async def record(self, session: NearSession | None = None) -> bytes:
        batch = Batch(Operation.GET, "n", [K])
        return (await (session.execute(batch) if session else run(self.node, batch))).records[0]


@pytest.mark.parametrize("l2", [False, True])
async def test_first_who_asks_loads_anew_and_all_are_served(l2: bool) -> None:
    """After its TTL a value is served for a while longer; one caller in all is to load it, and then it is fresh."""
    rig = Rig(l2=l2)
    token = await rig.due()
    assert token
    assert [await rig.ask() for _ in range(3)] == [(b"old", 0)] * 3
    assert HEADER.unpack_from(await rig.record())[1] & STALE
    assert await rig.fulfil(token, b"new")
    assert await rig.ask() == (b"new", 0)
    assert not HEADER.unpack_from(await rig.record())[1] & STALE
    space = rig.node.namespaces.get("n")
    assert (space.loads, space.renewed) == (2, 1)


@pytest.mark.parametrize(
    ("numbers", "fresh_s"),
    [({"stale_s": 5.0}, 9.9), ({"refresh_ahead": 0.25}, 7.4), ({"stale_s": 1, "refresh_ahead": 0.5}, 4.9)],
)
async def test_when_a_value_is_due(numbers: dict[str, Any], fresh_s: float) -> None:
    """With `stale_s` at the end of its TTL, with `refresh_ahead` that part of it before."""
    rig = Rig(**numbers)
    await rig.load()
    rig.clock.advance(fresh_s)
    assert await rig.ask() == (b"old", 0)
    rig.clock.advance(0.2)
    found, token = await rig.ask()
    assert found == b"old"
    assert token


async def test_nobody_asks_nobody_loads() -> None:
    """What is not asked for is not renewed; at its hard end it is gone."""
    rig = Rig()
    await rig.load()
    rig.clock.advance(TTL_S + 5.1)
    found, token = await rig.ask()
    assert (found, bool(token)) == (b"", True)


async def test_plain_write_ends_with_its_ttl() -> None:
    """Only what was loaded is served longer: who stores a value with a TTL means that."""
    rig = Rig()
    await run(rig.node, Batch(Operation.SET, "n", [K], [b"set"]))
    rig.clock.advance(TTL_S + 0.1)
    assert await fetch(rig.node, K, "n") is None


async def test_failed_renewal_leaves_the_value() -> None:
    """Stale if error: the value is served on, the next attempt waits for the back-off, and the hard end stays."""
    rig = Rig()
    assert not (await rig.abandon(await rig.due(), text="OSError")).failures
    assert await rig.ask() == (b"old", 0)
    rig.clock.advance(2.0)
    found, token = await rig.ask()
    assert found == b"old"
    assert token
    await rig.abandon(token, text="OSError")
    rig.clock.advance(2.0)
    assert await fetch(rig.node, K, "n") is None


async def test_holder_that_is_gone_is_replaced() -> None:
    """A lease that is over without a value goes to the next who asks."""
    rig = Rig()
    token = await rig.due()
    await rig.abandon(token)
    found, again = await rig.ask()
    assert found == b"old"
    assert again > token


async def test_origin_without_a_value_any_more() -> None:
    """When the renewal finds nothing, the value is removed: it is known to be untrue."""
    rig = Rig()
    await rig.abandon(await rig.due(), absent=True)
    assert await fetch(rig.node, K, "n") is None


@pytest.mark.parametrize("how", ["set", "delete", "barrier"])
async def test_write_during_a_renewal_is_not_undone(how: str) -> None:
    """What was loaded before the key was written or declared untrue is not stored, and the next caller loads again."""
    rig = Rig()
    token = await rig.due()
    batch = {
        "set": Batch(Operation.SET, "n", [K], [b"set"]),
        "delete": Batch(Operation.DELETE, "n", [K]),
        "barrier": Batch(Operation.BARRIER, "n", [K], flags=[SelectorKind.PREFIX.value]),
    }[how]
    assert not (await run(rig.node, batch)).failures
    assert await rig.fulfil(token, b"late") == 0
    assert await fetch(rig.node, K, "n") == (b"set" if how == "set" else None)
    assert (await rig.ask())[1] > 0 or how == "set"


async def test_caller_after_the_hard_end_waits_for_the_renewal() -> None:
    """The value ends while it is being loaded anew: there is one load, and its value for all."""
    rig = Rig()
    token = await rig.due()
    rig.clock.advance(4.5)
    asking = asyncio.create_task(rig.ask())
    assert not await settled(asking)
    assert await rig.fulfil(token, b"new")
    assert await asking == (b"new", 0)


async def test_copies_end_when_the_value_is_due() -> None:
    """A near cache is given the due time as the end: it asks again while there is still a value to serve."""
    rig = Rig(refresh_ahead=0.3)
    await rig.load()
    session = NearSession(rig.node)
    assert HEADER.unpack_from(await rig.record(session))[3] == pytest.approx(rig.clock.now() + 7.0)
    assert HEADER.unpack_from(await rig.record())[3] == pytest.approx(rig.clock.now() + TTL_S)


async def test_new_owner_renews_nothing_of_its_predecessor() -> None:
    """Whoever does not own the key, or may not act for it yet, lets nobody load it."""
    rig = Rig()
    both = view_of(2, "a", "b")
    (key,) = owned_by(both, "b")
    _, token = await rig.ask(key)
    assert await rig.fulfil(token, b"old", key)
    rig.clock.advance(TTL_S + 1)
    space = rig.node.namespaces.get("n")
    assert space is not None
    rig.node.placement.apply(both)
    assert rig.node.loads.renew(Batch(Operation.LEASE, "n", [key]), space, key, None, rig.clock.now()) == 0


@pytest.mark.parametrize("operation", [Operation.SET, Operation.FULFILL])
async def test_lives_are_spread(operation: Operation) -> None:
    """With jitter values that are stored together do not end together, and none lives longer than its TTL."""
    rig = Rig(ttl_jitter=0.5)
    keys = [b"k%d" % number for number in range(50)]
    for key in keys:
        batch = Batch(operation, "n", [key], [b"v"])
        if operation is Operation.FULFILL:
            batch.tokens = [(await rig.ask(key))[1]]
        assert not (await run(rig.node, batch)).failures
    records = (await run(rig.node, Batch(Operation.GET, "n", keys))).records
    lives = {round(HEADER.unpack_from(record)[3] - rig.clock.now(), 6) for record in records}
    assert len(lives) > 40
    assert all(TTL_S / 2 <= life <= TTL_S for life in lives)


async def test_hot_key_under_xfetch_has_no_stampede() -> None:
    """Asked for without a pause, a key is loaded once for each of its lives, whenever that ends: never twice at a time.

    Loads take half a second, lives ten at most.
    """
    rig = Rig(xfetch_beta=1.5)
    step_s, load_s, lives = 0.05, 0.5, 40
    loads, early, under_way, due_s = 0, 0, 0, 0.0
    while loads < lives:
        for _ in range(5):
            rest: list[BatchResult] = []
            batch = Batch(Operation.LEASE, "n", [K], lease_s=5.0, timeout_s=0.001)
            waiting = rig.node.execute(batch, rest.append)
            if waiting is not None and not under_way:
                await waiting
            elif waiting is not None:
                waiting.close()
                continue
            if rest[0].tokens and rest[0].tokens[0]:
                assert not under_way, "a second load beside the first"
                loads, early = loads + 1, early + bool(rest[0].records[0])
                under_way, due_s = rest[0].tokens[0], rig.clock.now() + load_s
        rig.clock.advance(step_s)
        if under_way and rig.clock.now() >= due_s:
            assert await rig.fulfil(under_way, b"v")
            under_way = 0
    assert early > lives / 4, "about every second life is followed by the next before its end"
