"""Each safeguard of write-behind that is switched off is found by the trial that finds nothing with all of them on.

The trial is that of ``test_drain``: random writes, lost calls and replies, an origin that fails, nodes that die with
their calls under way and come back, shards that move. Of each mutant some seeds must show that something acknowledged
was lost, or written in the wrong order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cachenode.core.queued import Outcome, Put
from cachenode.node.drain import LEASE_S
from tests.node.test_drain import AB, Trial
from tests.support.behind import BEHIND, FakeSink, Site
from tests.support.cluster import put, view_of

SEEDS = range(5)


async def wrong(seed: int, mutate: Callable[[Site], None]) -> bool:
    """Return whether a trial ends with a lost write, or one that undid a newer one."""
    trial = Trial(seed)
    site = trial.site
    mutate(site)
    view = view_of(1, *AB)
    nodes = {name: await site.node(name, view=view) for name in AB}
    for number in range(40):
        site.queue.lose_call, site.queue.lose_reply = trial.random.choice([(0, 0), (0.3, 0), (0, 0.3)])
        site.sink.down = trial.random.random() < 0.3
        await trial.write(nodes, number)
        site.clock.advance(trial.random.choice([0.0, 0.1, 1.0]))
        for name in AB:
            await site.drain(name, rounds=1)
    trial.mend()
    for _ in range(15):
        site.clock.advance(4.0)
        for name in AB:
            await site.drain(name, rounds=2)
    return bool(await trial.lost())


def acknowledges_before_it_is_queued(site: Site) -> None:
    """What may not have arrived counts as queued."""
    inner = site.queue.put

    async def hasty(namespace: str, writes: object, most: int) -> list[Put]:
        answers = await inner(namespace, writes, most)  # type: ignore[arg-type]
        return [Put(Outcome.QUEUED) if answer.outcome is Outcome.UNCERTAIN else answer for answer in answers]

    site.queue.put = hasty  # type: ignore[method-assign]


def acknowledges_before_the_origin_has_it(site: Site) -> None:
    """Entries leave the queue when they are read for a call."""
    inner = site.memory.newest

    async def forgetful(namespace: str, keys: list[bytes], most_bytes: int = 0) -> object:
        found = await inner(namespace, keys, most_bytes)
        for key in keys if most_bytes else ():
            site.memory.records[namespace].pop(key, None)
        return found

    site.memory.newest = forgetful  # type: ignore[method-assign, assignment]


def cuts_the_queue(site: Site) -> None:
    """The queue is kept short, as XTRIM with a length would."""
    inner = site.memory.put

    async def short(namespace: str, writes: object, most: int) -> object:
        answers = await inner(namespace, writes, most)  # type: ignore[arg-type]
        records = site.memory.records[namespace]
        while len(records) > 3:
            del records[next(iter(records))]
        return answers

    site.memory.put = short  # type: ignore[method-assign, assignment]


def forgets_newer_writes(site: Site) -> None:
    """What was written during a call leaves the queue with what the call brought."""
    inner = site.memory.done

    async def greedy(namespace: str, shard: int, consumer: str, applied: list[tuple[bytes, bytes, int]]) -> object:
        highest = (1 << 64) - 1
        return await inner(namespace, shard, consumer, [(id_, key, highest) for id_, key, _ in applied])

    site.memory.done = greedy  # type: ignore[method-assign, assignment]


async def test_nothing_is_found_without_a_mutant() -> None:
    """The trial itself finds nothing wrong."""
    assert not any([await wrong(seed, lambda _: None) for seed in SEEDS])


@pytest.mark.parametrize(
    "mutate", [acknowledges_before_it_is_queued, acknowledges_before_the_origin_has_it, cuts_the_queue]
)
async def test_mutant_is_found(mutate: Callable[[Site], None]) -> None:
    """A safeguard that is switched off costs writes that were acknowledged."""
    for seed in SEEDS:
        if await wrong(seed, mutate):
            return
    pytest.fail("no seed shows it")


async def overlapping(mutate: Callable[[Site], None]) -> Site:
    """Write a key anew while its first write is with the origin."""
    site = Site()
    mutate(site)
    node = await site.node()
    await put(node, b"k", b"1", namespace=BEHIND)
    site.sink.gate.clear()
    for _ in range(3):
        await site.drains["a"].tick()
    await site.sink.begun.wait()
    await put(node, b"k", b"2", namespace=BEHIND)
    site.sink.gate.set()
    await site.drain()
    return site


async def test_mutant_that_forgets_newer_writes_is_found() -> None:
    """A write that came during a call is lost if entries leave the queue whatever their version."""
    assert (await overlapping(lambda _: None)).sink.value(b"k") == b"2"
    assert (await overlapping(forgets_newer_writes)).sink.value(b"k") == b"1"


@pytest.mark.parametrize("fenced", [True, False])
async def test_mutant_without_a_fence_is_found(fenced: bool) -> None:
    """A frozen consumer's late word takes a write out of the queue that nobody has brought to the origin."""
    site = Site()
    if not fenced:
        site.memory._holds = lambda *_: True  # type: ignore[method-assign]
    node = await site.node("a")
    await put(node, b"k", b"1", namespace=BEHIND)
    held = site.sink
    held.gate.clear()
    for _ in range(3):
        await site.drains["a"].tick()
    await held.begun.wait()
    site.clock.advance(LEASE_S + 0.1)
    site.sink = site.sinks["db"] = FakeSink()
    await site.node("b")
    site.sink.gate.clear()
    for _ in range(3):
        await site.drains["b"].tick()
    await site.sink.begun.wait()  # the other is in the middle of the same write, and then its origin fails
    site.sink.down = True
    held.gate.set()
    await site.drains["a"].idle()
    await asyncio.sleep(0)
    assert site.waiting() == ({b"k"} if fenced else set())
    site.sink.gate.set()
    await site.drains["b"].idle()
