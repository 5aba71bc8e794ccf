"""Writers and the holders of copies: who is told, who is waited for, and what may be copied meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.holders import DRIFT, GENERATION_S, NEAR_LEASE_S
from cachenode.node import invalidations
from cachenode.node.invalidations import Event, Watch
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import INT_FLAGS
from tests.support.clock import ManualClock
from tests.support.cluster import HeldL2, drop, fetch, new_node, owned_by, put, run, view_of
from tests.support.copies import NearSession, settled

LEASE_S = NEAR_LEASE_S * (1 + DRIFT)
LEASE, FULFILL = Operation.LEASE, Operation.FULFILL


def node_with(l2: bool) -> tuple[Node, ManualClock]:
    clock = ManualClock()
    return new_node("a", clock, l2=MemoryL2(clock) if l2 else None), clock


def pass_time(node: Node, clock: ManualClock, seconds: float) -> None:
    """Let time pass, and the node's duty look at the leases."""
    clock.advance(seconds)
    node.invalidations.expire(clock.now())


async def change(
    node: Node, what: str, session: NearSession | None = None, *, acknowledged: bool = True
) -> BatchResult:
    """Change key `k` in one of the ways there are."""
    batch = Batch(Operation.SET, "default", [b"k"], [b"2"], [INT_FLAGS])
    if what in {"delete", "invalidate", "touch", "incr"}:
        batch = Batch(Operation[what.upper()], "default", [b"k"], ttls_ms=[90_000])
        batch.deltas = [1] if what == "incr" else ()
        batch.ttls_ms = () if what in {"delete", "invalidate"} else [90_000]
    if what == "set_if":
        batch.if_versions = [(1 << 64) - 1]
    batch.acknowledged = acknowledged
    return await (session.execute(batch) if session else run(node, batch))


CHANGES = ["set", "delete", "invalidate", "touch", "incr", "set_if"]


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("what", CHANGES)
async def test_write_waits_for_holders(what: str, l2: bool) -> None:
    """No change of a key is answered before who holds a copy has dropped it."""
    node, _ = node_with(l2)
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"1"], [INT_FLAGS]))
    session = NearSession(node)
    assert await session.read(b"k")
    writing = asyncio.create_task(change(node, what))
    assert not await settled(writing)
    assert session.serves(b"k") == b"1"
    assert session.told == [("default", [b"k"], [])]
    session.acknowledge()
    assert not (await writing).failures
    assert (node.invalidations.announced, node.invalidations.waits) == (1, 1)


@pytest.mark.parametrize("l2", [False, True])
async def test_loaded_value_waits_for_holders(l2: bool) -> None:
    """A value loaded by a lease that outlived a copy is announced as any write: the key was set and read meanwhile."""
    node, _ = node_with(l2)
    lease = await run(node, Batch(LEASE, "default", [b"k"], lease_s=9.0))
    namespace = node.namespaces.get("default")
    assert namespace is not None
    session = NearSession(node)
    namespace.exposure.note([b"k"], session.holder)
    landing = asyncio.create_task(run(node, Batch(FULFILL, "default", [b"k"], [b"v"], tokens=lease.tokens)))
    assert not await settled(landing)
    session.acknowledge()
    assert (await landing).versions[0] > 0


async def test_nobody_is_waited_for_where_nobody_holds() -> None:
    """Sessions that read other keys, or keep nothing, are neither told nor waited for."""
    node, _ = node_with(l2=False)
    await put(node, b"k", b"1")
    await put(node, b"other", b"1")
    session = NearSession(node)
    await session.read(b"other")
    await put(node, b"k", b"2")
    assert (session.told, node.invalidations.waits) == ([], 0)


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("what", CHANGES)
async def test_write_does_not_wait_for_its_own_session(what: str, l2: bool) -> None:
    """The session that writes is told too, ahead of the reply in its stream, so that its readers drop their copies."""
    node, _ = node_with(l2)
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"1"], [INT_FLAGS]))
    session = NearSession(node)
    await session.read(b"k")
    result = await asyncio.wait_for(change(node, what, session), 5)
    assert not result.failures
    assert session.told == [("default", [b"k"], [])]


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("what", CHANGES)
async def test_write_need_not_wait(what: str, l2: bool) -> None:
    """Who wants the owner's part alone is answered at once; the holders are told all the same."""
    node, _ = node_with(l2)
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"1"], [INT_FLAGS]))
    session = NearSession(node)
    await session.read(b"k")
    result = await asyncio.wait_for(change(node, what, acknowledged=False), 5)
    assert not result.failures
    assert session.told == [("default", [b"k"], [])]


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("first", ["waits", "has given up", "did not wait", "is the holder"])
async def test_second_writer_waits_too(first: str, l2: bool) -> None:
    """A holder that was told by an earlier writer, and has not acknowledged, may still serve what both overwrite."""
    node, _ = node_with(l2)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    if first == "did not wait":
        await change(node, "set", acknowledged=False)
    elif first == "is the holder":
        await change(node, "set", session)
    else:
        writing = asyncio.create_task(change(node, "set"))
        assert not await settled(writing)
        if first == "has given up":
            writing.cancel()
    second = asyncio.create_task(put(node, b"k", b"3"))
    assert not await settled(second)
    assert session.serves(b"k") == b"1"
    assert len(session.told) == 1, "it need not be told twice"
    session.acknowledge()
    assert (await second).versions[0] > 0


async def test_third_writer_does_not_wait() -> None:
    """Once all has been acknowledged the key's writers wait for nobody."""
    node, _ = node_with(l2=False)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    await change(node, "set", acknowledged=False)
    session.acknowledge()
    before = node.invalidations.waits
    await asyncio.wait_for(put(node, b"k", b"3"), 5)
    assert node.invalidations.waits == before


async def test_holder_without_a_live_lease_is_not_waited_for() -> None:
    """Who was never granted a lease, or whose lease is over, serves nothing: it is told, and that is all."""
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    never, former = NearSession(node, lease=False), NearSession(node)
    await never.read(b"k")
    await former.read(b"k")
    clock.advance(LEASE_S)
    await asyncio.wait_for(put(node, b"k", b"2"), 5)
    assert (len(never.told), len(former.told)) == (1, 1)


async def test_expired_lease_ends_the_wait() -> None:
    """A holder that says nothing holds a writer up until its lease is over, and not longer. Scenario 7."""
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    writing = asyncio.create_task(put(node, b"k", b"2"))
    assert not await settled(writing)
    pass_time(node, clock, LEASE_S - 0.01)
    assert not await settled(writing)
    assert session.renew() == 0.0, "a laggard gets no further lease"
    assert node.invalidations.late == 1
    pass_time(node, clock, 0.01)
    assert await settled(writing)
    assert node.invalidations.waited_s == pytest.approx(LEASE_S)


async def test_laggard_holds_up_writers_of_one_lease_only() -> None:
    """While a holder is silent its lease is not renewed: who writes after that waits for nobody. Scenario 7."""
    node, clock = node_with(l2=False)
    await put(node, b"a", b"1")
    await put(node, b"b", b"1")
    session = NearSession(node)
    await session.read(b"a", b"b")
    writing = asyncio.create_task(put(node, b"a", b"2"))
    assert not await settled(writing)
    for _ in range(5):
        pass_time(node, clock, 0.5)
        session.renew()
    assert await settled(writing)
    await asyncio.wait_for(put(node, b"b", b"2"), 5)


@pytest.mark.parametrize("l2", [False, True])
async def test_read_during_a_write_is_not_copied(l2: bool) -> None:
    """Until memory has the new value readers get the older one, and may not keep it."""
    clock = ManualClock()
    held = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=held)
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await put(node, b"k", b"1")
    await put(node, b"other", b"1")
    session = NearSession(node)
    held.gate.clear()
    writing = asyncio.create_task(put(node, b"k", b"2") if l2 else drop(node, b"k"))
    await held.held.wait()
    assert not await session.read(b"k")
    assert not await session.read(b"other", b"k")
    assert await session.read(b"other")
    held.gate.set()
    await writing
    assert not namespace.changing
    assert session.serves(b"k") is None
    assert await session.read(b"k")
    assert session.serves(b"k") == (b"2" if l2 else None)


async def test_fill_during_a_write_is_not_copied() -> None:
    """What was read from L2 before a write, and comes after it began, may not be kept either."""
    clock = ManualClock()
    held = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=held)
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await put(node, b"k", b"1")
    namespace.store.clear()
    session = NearSession(node)
    held.gate.clear()
    reading = asyncio.create_task(session.read(b"k"))
    await held.held.wait()
    writing = asyncio.create_task(put(node, b"k", b"2"))
    assert not await settled(writing)
    held.gate.set()
    copied = await reading
    await writing
    assert not copied or session.serves(b"k") == b"2"
    assert await fetch(node, b"k") == b"2"


async def test_overlapping_writes_keep_a_key_changing() -> None:
    """The end of the first of two writes does not let readers copy what the second overwrites."""
    node, _ = node_with(l2=False)
    namespace = node.namespaces.get("default")
    assert namespace is not None
    with namespace.change([b"k", b"l"]):
        with namespace.change([b"k"]):
            assert namespace.changing == {b"k": 2, b"l": 1}
        assert namespace.changing == {b"k": 1, b"l": 1}
    assert not namespace.changing


@pytest.mark.parametrize("said_so", [False, True])
async def test_ended_stream_keeps_its_lease(said_so: bool) -> None:
    """A client whose stream broke may not know it yet: writers wait for its lease, unless it has said goodbye."""
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    node.invalidations.ended(session.holder, said_so=said_so)
    writing = asyncio.create_task(put(node, b"k", b"2"))
    assert await settled(writing) is said_so
    pass_time(node, clock, LEASE_S)
    assert await settled(writing)
    assert session.told == []
    assert len(node.invalidations) == 0, "nothing can be held any more"


async def test_stream_that_ends_during_the_wait() -> None:
    """A goodbye ends the waits for it; the mere end of the stream does not."""
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    sessions = NearSession(node), NearSession(node)
    for session in sessions:
        await session.read(b"k")
    writing = asyncio.create_task(put(node, b"k", b"2"))
    assert not await settled(writing)
    node.invalidations.ended(sessions[0].holder, said_so=True)
    node.invalidations.ended(sessions[1].holder, said_so=False)
    assert not await settled(writing)
    pass_time(node, clock, LEASE_S)
    assert await settled(writing)


async def test_write_is_not_acknowledged_without_the_right_to() -> None:
    """A node that has lost its ownership lease, or the key, while it waited does not say that the write is done.

    Scenario 23.
    """
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    writing = asyncio.create_task(put(node, b"k", b"2"))
    assert not await settled(writing)
    node.placement.lease_until = clock.now()
    session.acknowledge()
    assert (await writing).failures[0].reason is Reason.NOT_READY


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("l2", [False, True])
async def test_write_whose_key_moves_while_it_waits_is_done(l2: bool, released: bool) -> None:
    """Readers have seen it, and nobody else may act for its key before this node gives its word: so it is answered.

    After the word another may have written the key, and the write must not be acknowledged as if that came later.
    """
    node, _ = node_with(l2)
    (key,) = owned_by(view_of(2, "a", "b"), "b")
    await put(node, key, b"1")
    session, other = NearSession(node), NearSession(node)
    await put(node, b"other", b"1")
    assert await session.read(key)
    assert await other.read(b"other")
    writing = asyncio.create_task(put(node, key, b"2"))
    assert not await settled(writing)
    node.placement.apply(view_of(2, "a", "b"))
    assert not await settled(writing)
    assert node.placement.released_epoch == 1, "it waits for both sessions"
    if released:
        node.placement.released_epoch = 2
    session.acknowledge()
    result = await writing
    assert [failure.reason for failure in result.failures.values()] == [Reason.NOT_OWNER] * released


async def test_exposures_are_forgotten_by_generations() -> None:
    """The node's duty turns the generations: a copy that may still be used is known, an old one is not."""
    node, clock = node_with(l2=False)
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    pass_time(node, clock, GENERATION_S)
    assert namespace.exposure.of(b"k") == [session.holder]
    pass_time(node, clock, GENERATION_S - 0.1)
    assert namespace.exposure.of(b"k") == [session.holder]
    pass_time(node, clock, 0.1)
    assert namespace.exposure.of(b"k") == []


async def test_no_lease_without_a_place_in_the_cluster() -> None:
    """A node that is in no view, or stops, grants nothing; and none beyond its own lease."""
    node, clock = node_with(l2=False)
    session = NearSession(node, lease=False)
    node.placement.lease_until = clock.now() + 1.1
    assert session.renew() == pytest.approx(1 - DRIFT)
    node.placement.ready = False
    assert session.renew() == 0.0


async def test_release_waits_for_all_copies() -> None:
    """A node that stops waits until nobody serves what came from it."""
    node, _ = node_with(l2=False)
    await put(node, b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    releasing = asyncio.create_task(node.invalidations.release())
    assert not await settled(releasing)
    session.acknowledge()
    await releasing
    assert session.serves(b"k") is None


async def test_view_waits_for_every_lease() -> None:
    """A view is settled here once every session has acted on it, also those whose stream has ended."""
    node, clock = node_with(l2=False)
    await put(node, b"k", b"1")
    alive, ended = NearSession(node), NearSession(node)
    assert await alive.read(b"k")
    assert await ended.read(b"k")
    node.invalidations.ended(ended.holder, said_so=False)
    node.placement.apply(view_of(2, "a", "b"))
    assert node.placement.released_epoch == 1
    alive.acknowledge()
    for _ in range(10):
        await asyncio.sleep(0)
    assert node.placement.released_epoch == 1
    pass_time(node, clock, LEASE_S)
    for _ in range(10):
        await asyncio.sleep(0)
    assert node.placement.released_epoch == 2


async def test_view_waits_for_nobody_who_has_no_copy() -> None:
    """A session that has read nothing serves nothing: the others need not wait for its word, nor for its lease."""
    node, _ = node_with(l2=False)
    session = NearSession(node)
    node.placement.apply(view_of(2, "a", "b"))
    assert node.placement.released_epoch == 2
    assert session.told == []


# Watchers.


async def some(events: AsyncIterator[Event | None], count: int) -> list[int | None]:
    """Return the numbers of the next events."""
    found = [await asyncio.wait_for(anext(events), 5) for _ in range(count)]
    return [event and event.sequence for event in found]


def follow(log: Watch, after: int) -> Any:
    return log.follow(after)


async def test_watch_from_now_on() -> None:
    """A watcher is told of what comes, in order; nothing is remembered before there is one."""
    log = Watch()
    assert not log.wanted
    events = follow(log, log.sequence)
    first = asyncio.create_task(some(events, 3))
    assert not await settled(first)
    assert log.wanted
    for number in range(3):
        log.add("n", [b"%d" % number], ())
    assert await first == [1, 2, 3]
    await events.aclose()


async def test_watch_resumes() -> None:
    """Who comes back gets what it has missed, and then what comes."""
    log = Watch()
    for _ in range(5):
        log.add("n", [b"k"], ())
    events = follow(log, 3)
    assert await some(events, 2) == [4, 5]
    log.add("n", [b"k"], ())
    assert await some(events, 1) == [6]
    await events.aclose()


@pytest.mark.parametrize("after", [0, 1, 99])
async def test_watch_tells_of_a_gap(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where events are no longer known, or never were, None stands for them, and the watch goes on from there."""
    monkeypatch.setattr(invalidations, "_REMEMBERED", 3)
    log = Watch()
    for _ in range(5):
        log.add("n", [b"k"], ())
    events = follow(log, after)
    assert await some(events, 1) == [None]
    log.add("n", [b"k"], ())
    assert await some(events, 1) == [6]
    await events.aclose()


async def test_slow_watcher_gets_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that does not keep up is told that it has missed something, not held in memory for."""
    monkeypatch.setattr(invalidations, "_REMEMBERED", 3)
    log = Watch()
    log.add("n", [b"k"], ())
    events = follow(log, 0)
    assert await some(events, 1) == [1]
    for _ in range(5):
        log.add("n", [b"k"], ())
    assert await some(events, 1) == [None]
    await events.aclose()


async def test_several_watchers() -> None:
    """Each follows on its own; one that leaves while it waits leaves nothing behind."""
    log = Watch()
    one, two = follow(log, 0), follow(log, 0)
    waiting = [asyncio.create_task(some(events, 1)) for events in (one, two)]
    assert not await settled(waiting[0])
    waiting[1].cancel()
    await asyncio.wait(waiting[1:])
    log.add("n", [b"k"], ())
    assert await waiting[0] == [1]
    assert not log._news
    await one.aclose()
    await two.aclose()


async def test_writes_are_watched() -> None:
    """A watcher hears of keys and barriers of the node, whether anybody holds them or not."""
    node, _ = node_with(l2=False)
    events: Any = node.invalidations.log.follow(0)
    waiting = asyncio.create_task(anext(events))
    assert not await settled(waiting)
    await put(node, b"k", b"v")
    event = await waiting
    assert (event.namespace, event.keys) == ("default", [b"k"])
    await run(node, Batch(Operation.BARRIER, "default", [b"u"], flags=[2]))
    event = await anext(events)
    assert (list(event.keys), [selector.text for selector in event.selectors]) == ([], [b"u"])
    await events.aclose()


async def test_watchers_hear_when_it_is_done() -> None:
    """A key is told once memory has the change, or the write has failed: who reads it upon that word finds it."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"old")
    events: Any = node.invalidations.log.follow(node.invalidations.log.sequence)
    hearing = asyncio.create_task(anext(events))
    assert not await settled(hearing)
    for change in (put(node, b"k", b"new"), drop(node, b"k")):
        l2.gate.clear()
        changing = asyncio.create_task(change)
        assert not await settled(hearing)
        l2.gate.set()
        assert (await hearing).keys == [b"k"]
        await changing
        hearing = asyncio.create_task(anext(events))
    l2.gate.clear()
    given_up = asyncio.create_task(put(node, b"k", b"lost"))
    assert not await settled(hearing)
    given_up.cancel()
    assert (await hearing).keys == [b"k"]
    await events.aclose()


async def test_closed_log_ends_after_what_is_remembered() -> None:
    """A node that leaves tells its watchers the rest, and then nothing more."""
    log = Watch()
    events = follow(log, 0)
    first = asyncio.create_task(some(events, 1))
    assert not await settled(first)
    log.add("n", [b"k"], ())
    log.add("n", [b"k"], ())
    log.close()
    assert await first == [1]
    assert [event.sequence async for event in events] == [2]
    assert [event async for event in follow(log, 2)] == []


async def test_leaving_is_not_told_as_an_invalidation() -> None:
    """A node that leaves has its clients drop their copies; watchers are told nothing, since nothing is untrue."""
    node, _ = node_with(l2=False)
    session = NearSession(node)
    await put(node, b"k", b"v")
    assert await session.read(b"k")
    node.invalidations.log.wanted = True
    releasing = asyncio.create_task(node.invalidations.release())
    assert not await settled(releasing)
    assert session.told
    session.acknowledge()
    await releasing
    assert node.invalidations.log.sequence == 0
