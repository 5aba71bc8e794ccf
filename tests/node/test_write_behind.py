"""Write-behind, the writing side: what is acknowledged, what is refused, and what reads find meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.core.entries import Batch, BatchResult, Operation, QueuedWrite
from cachenode.core.origin_limits import OriginLimits
from cachenode.core.write_behind import WriteBehindLimits
from cachenode.node.origins import Origin
from cachenode.node.service import Node
from cachenode_api.reasons import RETRYABLE, Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from tests.support.behind import BEHIND, Site
from tests.support.cluster import fetch, owned_by, put, run, view_of
from tests.support.eventually import eventually
from tests.support.origin import ScriptedLoader

KEY = b"k"


async def drop(node: Node, key: bytes = KEY, operation: Operation = Operation.DELETE) -> BatchResult:
    return await run(node, Batch(operation, BEHIND, [key]))


async def lease(node: Node, key: bytes = KEY) -> BatchResult:
    return await run(node, Batch(Operation.LEASE, BEHIND, [key], lease_s=5.0, timeout_s=5.0), holder="caller")


def origin_of(site: Site, loader: ScriptedLoader) -> dict[str, Origin]:
    return {"db": Origin("db", loader, OriginLimits(), site.clock, site.sink)}


def forget(site: Site, node: Node, key: bytes = KEY) -> None:
    """Let a key leave memory and L2, as if there were no room for it."""
    namespace = node.namespaces.get(BEHIND)
    assert namespace is not None
    namespace.store.remove(key)
    site.values._slots.pop((BEHIND, key), None)


async def test_write_is_queued_before_it_is_acknowledged() -> None:
    """A set, a removal, a conditional set and a counter are in the queue once they have succeeded, and in L2."""
    site = Site()
    node = await site.node()
    version = (await put(node, KEY, b"v", namespace=BEHIND)).versions[0]
    assert site.memory.records[BEHIND][KEY][:4] == (KEY, b"v", 0, version)
    (entry,) = await site.values.read(BEHIND, [KEY])
    assert entry is not None
    assert entry.value == b"v"
    await run(node, Batch(Operation.SET, BEHIND, [b"c"], [b"1"], [0], if_versions=[(1 << 64) - 2]))
    await run(node, Batch(Operation.INCR, BEHIND, [b"n"], deltas=[5]))
    assert (await drop(node)).versions[0] > version
    queued = site.memory.records[BEHIND]
    assert (queued[b"c"].value, queued[b"n"].value, queued[KEY].value) == (b"1", b"5", None)
    assert node.write_behind is not None
    assert node.write_behind.coalesced[BEHIND] == 1


async def test_write_is_not_acknowledged_without_the_queue() -> None:
    """While the queue is away writes fail at once, retryably, and change nothing; afterwards they succeed again."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"old", namespace=BEHIND)
    site.queue.down = True
    for _ in range(5):
        result = await put(node, KEY, b"new", namespace=BEHIND)
        assert result.failures[0].reason is Reason.QUEUE_UNAVAILABLE
    assert Reason.QUEUE_UNAVAILABLE in RETRYABLE
    assert (await drop(node)).failures[0].reason is Reason.QUEUE_UNAVAILABLE
    assert await fetch(node, KEY, BEHIND) == b"old"
    assert site.memory.records[BEHIND][KEY].value == b"old"
    site.queue.down = False
    site.clock.advance(1.1)
    assert not (await put(node, KEY, b"new", namespace=BEHIND)).failures


async def test_write_is_not_acknowledged_while_l2_is_not_believed() -> None:
    """Queue and values lie on one server: while that is not to be believed nothing is written there."""
    site = Site()
    node = await site.node()
    assert node.tier is not None
    node.tier.must_adopt = True
    result = await put(node, KEY, b"v", namespace=BEHIND)
    assert result.failures[0].reason is Reason.QUEUE_UNAVAILABLE
    assert site.waiting() == set()


async def test_queue_that_was_not_looked_at_gets_nothing() -> None:
    """Before it is known whether the queue can keep what it promises nothing is written."""
    site = Site()
    node = await site.node()
    assert node.write_behind is not None
    node.write_behind._unfit = "it evicts"
    result = await put(node, KEY, b"v", namespace=BEHIND)
    assert result.failures[0][:2] == (Reason.QUEUE_UNAVAILABLE, "the write-behind queue takes no writes: it evicts")


async def test_full_backlog_refuses_new_keys() -> None:
    """At its limit the queue refuses keys that do not wait yet, with nothing changed. Scenario 47."""
    site = Site()
    node = await site.node(limits=WriteBehindLimits(max_backlog=2))
    for key in (b"a", b"b"):
        await put(node, key, b"1", namespace=BEHIND)
    result = await put(node, b"c", b"1", namespace=BEHIND)
    assert result.failures[0].reason is Reason.BACKLOG_FULL
    assert "retry" in result.failures[0].detail
    assert await fetch(node, b"c", BEHIND) is None
    assert not (await put(node, b"a", b"2", namespace=BEHIND)).failures
    await site.drain()
    assert not (await put(node, b"c", b"1", namespace=BEHIND)).failures


async def test_refused_removal_leaves_the_value() -> None:
    """A removal that was not done does not hide the value from reads, nor from conditions."""
    site = Site()
    node = await site.node(limits=WriteBehindLimits(max_backlog=1))
    await run(node, Batch(Operation.INCR, BEHIND, [KEY], deltas=[5]))
    await site.drain()
    await put(node, b"other", b"1", namespace=BEHIND)
    assert (await drop(node)).failures[0].reason is Reason.BACKLOG_FULL
    assert await fetch(node, KEY, BEHIND) == b"5"
    await site.drain()
    result = await run(node, Batch(Operation.INCR, BEHIND, [KEY], deltas=[1]))
    assert result.records[0][HEADER_BYTES:] == b"6"


async def test_lost_answer_is_uncertain() -> None:
    """Whether a write is queued whose answer was lost is not known: memory keeps nothing older, L2 says what is."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"old", namespace=BEHIND)
    site.queue.lose_reply = 1.0
    assert (await put(node, KEY, b"new", namespace=BEHIND)).failures[0].reason is Reason.UNCERTAIN
    site.queue.lose_reply = 0.0
    assert await fetch(node, KEY, BEHIND) == b"new"
    assert site.memory.records[BEHIND][KEY].value == b"new"


async def test_dirty_key_is_not_loaded_from_the_origin() -> None:
    """What waits for its origin is served out of the queue when it has left memory and L2. Scenario 48."""
    site = Site()
    loader = ScriptedLoader()
    loader.put(KEY, b"old")
    node = await site.node(origins=origin_of(site, loader))
    await put(node, KEY, b"new", namespace=BEHIND)
    forget(site, node)
    assert await fetch(node, KEY, BEHIND) == b"new"
    assert loader.calls == []
    await drop(node)
    forget(site, node)
    assert await fetch(node, KEY, BEHIND) is None
    assert loader.calls == []


async def test_clean_key_is_loaded_from_the_origin() -> None:
    """Once the origin has the write it is asked again."""
    site = Site()
    loader = ScriptedLoader()
    node = await site.node(origins=origin_of(site, loader))
    await put(node, KEY, b"new", namespace=BEHIND)
    await site.drain()
    forget(site, node)
    loader.put(KEY, site.sink.value(KEY) or b"")
    assert await fetch(node, KEY, BEHIND) == b"new"
    assert len(loader.calls) == 1


async def test_caller_does_not_load_a_dirty_key() -> None:
    """A caller of `get_or_load` gets the queued value, or hears that there is none, and never the right to load."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"new", namespace=BEHIND)
    forget(site, node)
    found = await lease(node)
    assert (found.records[0][HEADER_BYTES:], list(found.tokens)) == (b"new", [])
    await drop(node)
    forget(site, node)
    found = await lease(node)
    assert (found.records, list(found.tokens)) == ([b""], [])
    await site.drain()
    assert (await lease(node)).tokens[0] > 0


async def test_nobody_loads_while_the_queue_is_away() -> None:
    """Where it is not known whether a key is dirty, neither a caller nor the node loads it."""
    site = Site()
    loader = ScriptedLoader()
    loader.put(KEY, b"old")
    node = await site.node(origins=origin_of(site, loader))
    site.queue.down = True
    assert (await lease(node)).failures[0].reason is Reason.QUEUE_UNAVAILABLE
    assert await fetch(node, KEY, BEHIND) is Reason.LOAD_FAILED
    assert loader.calls == []


async def test_dirty_key_of_an_owner_out_of_reach() -> None:
    """A caller whose key's owner is dead gets the queued value through another node. Scenario 48."""
    site = Site()
    view = view_of(1, "a", "b")
    a, b = await site.node("a", view=view), await site.node("b", view=view)
    [key] = owned_by(view, "a")
    await put(a, key, b"new", namespace=BEHIND)
    site.peers.cut.add("a")
    assert await fetch(b, key, BEHIND) == b"new"
    site.values._slots.clear()
    found = await lease(b, key)
    assert (found.records[0][HEADER_BYTES:], list(found.tokens)) == (b"new", [])
    site.queue.down = True
    assert (await lease(b, key)).failures[0].reason is Reason.QUEUE_UNAVAILABLE


async def test_load_during_a_write_does_not_overtake_it() -> None:
    """What a load brings while a write is on its way to the queue is not stored, or the write would lose to it."""
    site = Site()
    node = await site.node()
    queue_gate, arrived = asyncio.Event(), asyncio.Event()
    inner = site.memory.put

    async def held(*arguments: object) -> object:
        arrived.set()
        await queue_gate.wait()
        return await inner(*arguments)  # type: ignore[arg-type]

    site.memory.put = held  # type: ignore[method-assign, assignment]
    writing = asyncio.create_task(put(node, KEY, b"new", namespace=BEHIND))
    await arrived.wait()
    token = (await lease(node)).tokens[0]
    fulfil = Batch(Operation.FULFILL, BEHIND, [KEY], [b"old"], [0], tokens=[token])
    assert (await run(node, fulfil)).versions == [0]
    queue_gate.set()
    assert not (await writing).failures
    assert await fetch(node, KEY, BEHIND) == b"new"
    assert site.memory.records[BEHIND][KEY].value == b"new"


async def test_reads_do_not_go_back_behind_the_queue() -> None:
    """Who has read a queued write that is not in memory yet does not find the one before it there afterwards."""
    site = Site(carries_values=False)
    node = await site.node(origins=origin_of(site, ScriptedLoader()))
    gates = [asyncio.Event(), asyncio.Event()]
    inner, calls = site.l2.write, iter(gates)

    async def held(*arguments: object) -> object:
        await next(calls).wait()
        return await inner(*arguments)  # type: ignore[arg-type]

    site.l2.write = held  # type: ignore[method-assign, assignment]
    first, second = (asyncio.create_task(put(node, KEY, value, namespace=BEHIND)) for value in (b"1", b"2"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert site.memory.records[BEHIND][KEY].value == b"2"
    assert await fetch(node, KEY, BEHIND) == b"2"
    gates[0].set()
    assert not (await first).failures
    assert await fetch(node, KEY, BEHIND) == b"2"
    gates[1].set()
    assert not (await second).failures
    assert await fetch(node, KEY, BEHIND) == b"2"


async def test_what_is_older_than_the_queue_leaves_memory() -> None:
    """A write is done while the queue tells a reader of a later one: nobody finds the earlier one in memory then."""
    site = Site(carries_values=False)
    node = await site.node(origins=origin_of(site, ScriptedLoader()))
    inner, asked, answer = site.queue.newest, asyncio.Event(), asyncio.Event()

    async def held(*arguments: object) -> object:
        asked.set()
        await answer.wait()
        return await inner(*arguments)  # type: ignore[arg-type]

    site.queue.newest = held  # type: ignore[method-assign, assignment]
    reader = asyncio.create_task(fetch(node, KEY, BEHIND))
    await asked.wait()
    assert not (await put(node, KEY, b"1", namespace=BEHIND)).failures
    write, to_l2 = site.l2.write, asyncio.Event()

    async def held_write(*arguments: object) -> object:
        await to_l2.wait()
        return await write(*arguments)  # type: ignore[arg-type]

    site.l2.write = held_write  # type: ignore[method-assign, assignment]
    second = asyncio.create_task(put(node, KEY, b"2", namespace=BEHIND))
    await eventually(lambda: site.memory.records[BEHIND][KEY].value == b"2")
    answer.set()
    assert await reader == b"2"
    assert await fetch(node, KEY, BEHIND) == b"2"
    to_l2.set()
    assert not (await second).failures
    assert await fetch(node, KEY, BEHIND) == b"2"


async def test_caller_does_not_renew() -> None:
    """No caller loads a value anew that is still there: it might bring what the origin had before a queued write."""
    site = Site()
    node = await site.node()
    namespace = node.namespaces.get(BEHIND)
    assert namespace is not None
    await put(node, KEY, b"v", namespace=BEHIND)
    batch = Batch(Operation.LEASE, BEHIND, [KEY], lease_s=5.0)
    assert node.loads.renew(batch, namespace, KEY, "caller", site.clock.now()) == 0


@pytest.mark.parametrize("how", ["key", "all"])
async def test_invalidation_keeps_the_queued_write(how: str) -> None:
    """An invalidation drops what is cached of a dirty key; the write stays queued, and the next read gets it."""
    site = Site()
    node = await site.node(origins=origin_of(site, ScriptedLoader()))
    await put(node, KEY, b"v", namespace=BEHIND)
    if how == "key":
        await drop(node, operation=Operation.INVALIDATE)
    else:
        selector = make_selector(SelectorKind.NAMESPACE, EVERYTHING)
        barrier = Batch(Operation.BARRIER, BEHIND, [selector.text], flags=[selector.kind.value])
        await run(node, barrier)
    assert site.waiting() == {KEY}
    assert await fetch(node, KEY, BEHIND) == b"v"
    await site.drain()
    assert site.sink.value(KEY) == b"v"


async def test_only_what_callers_bring_is_queued() -> None:
    """Loaded values and longer lives are no news for the origin."""
    site = Site()
    node = await site.node()
    token = (await lease(node)).tokens[0]
    await run(node, Batch(Operation.FULFILL, BEHIND, [KEY], [b"loaded"], [0], tokens=[token]))
    await run(node, Batch(Operation.TOUCH, BEHIND, [KEY], ttls_ms=[1_000]))
    await put(node, KEY, b"elsewhere")
    assert site.waiting() == set()
    assert await fetch(node, KEY, BEHIND) == b"loaded"


async def test_write_of_a_former_owner_is_refused() -> None:
    """A write, or removal, that a newer owner has overtaken is not acknowledged, and its record is not queued."""
    site = Site()
    node = await site.node()
    await site.memory.put(BEHIND, [QueuedWrite(KEY, b"newer", 0, 1 << 62)], 10)
    assert (await put(node, KEY, b"late", namespace=BEHIND)).failures[0].reason is Reason.SUPERSEDED
    assert (await drop(node)).failures[0].reason is Reason.SUPERSEDED


async def test_queue_on_a_server_of_its_own() -> None:
    """The queue comes first, then L2; L2 alone being away does not stop writes, the queue being away does."""
    site = Site(carries_values=False)
    node = await site.node()
    await put(node, KEY, b"v", namespace=BEHIND)
    assert site.waiting() == {KEY}
    (entry,) = await site.values.read(BEHIND, [KEY])
    assert entry is not None
    assert (await drop(node)).versions[0] > entry.version
    assert await site.values.read(BEHIND, [KEY]) == [None]
    assert node.tier is not None
    node.tier.must_adopt = True
    assert not (await put(node, KEY, b"w", namespace=BEHIND)).failures
    site.queue.down = True
    assert (await put(node, b"other", b"w", namespace=BEHIND)).failures[0].reason is Reason.QUEUE_UNAVAILABLE
    assert await site.values.read(BEHIND, [b"other"]) == [None]
