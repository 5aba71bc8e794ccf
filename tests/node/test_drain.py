"""Write-behind, the other side: queued writes reach their origins, once they can, in order per key."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.core.write_behind import WriteBehindLimits
from cachenode.errors import OriginError
from cachenode.node.drain import LEASE_S, DrainCounters
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import TAGGED
from cachenode_api.tags import pack_tags
from tests.support.behind import BEHIND, FakeSink, Site, policy
from tests.support.cluster import fetch, put, run, view_of

KEY = b"k"
AB = ("a", "b")


def counted(site: Site) -> DrainCounters:
    """Return what a node has counted."""
    found = site.drains["a"].counters(BEHIND)
    assert found is not None
    return found


async def test_queued_writes_reach_the_origin_in_one_call() -> None:
    """Keys of all shards of a node share a call; the newest value of each is sent, a removal as such."""
    site = Site()
    node = await site.node()
    keys = [b"key-%d" % number for number in range(50)]
    for value in (b"old", b"new"):
        await run(node, Batch(Operation.SET, BEHIND, keys, [value] * 50, [7] * 50))
    await run(node, Batch(Operation.DELETE, BEHIND, keys[:1]))
    await site.drain()
    assert [sorted(call) for call in site.sink.written] == [sorted(keys)]
    assert site.sink.value(keys[0]) is None
    assert site.sink.rows[keys[1]][:3] == (keys[1], b"new", 7)
    assert site.waiting() == set()
    assert counted(site).applied == 50


async def test_tags_are_not_for_the_origin() -> None:
    """The origin gets the value without the block of tags before it, and without their flag."""
    site = Site()
    node = await site.node()
    tagged = pack_tags([b"tag"]) + b"value"
    await run(node, Batch(Operation.SET, BEHIND, [KEY], [tagged], [3 | TAGGED]))
    await site.drain()
    assert site.sink.rows[KEY][1:3] == (b"value", 3)


async def test_write_during_a_call_is_sent_next() -> None:
    """A write of a key that is being sent waits for that call, and is sent after it."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"1", namespace=BEHIND)
    site.sink.gate.clear()
    for _ in range(3):
        await site.drains["a"].tick()
    await site.sink.begun.wait()
    await put(node, KEY, b"2", namespace=BEHIND)
    await site.drains["a"].tick()
    assert len(site.sink.calls) == 1
    site.sink.gate.set()
    await site.drain()
    assert [[write.value for write in call] for call in site.sink.calls] == [[b"1"], [b"2"]]
    assert site.waiting() == set()


async def test_write_is_repeated_after_a_death_before_the_acknowledgement() -> None:
    """What the origin has committed and the queue has not heard of is written again by the next node. Scenario 44."""
    site = Site()
    view = view_of(1, *AB)
    a, _ = await site.node("a", view=view), await site.node("b", view=view)
    for number in range(100):
        await put(a, b"%d" % number, b"v", namespace=BEHIND)
    inner = site.memory.done

    async def lost(*_: object) -> object:
        raise asyncio.CancelledError  # the process is gone

    site.memory.done = lost  # type: ignore[method-assign, assignment]
    await site.drain("a")
    await site.drain("b")
    site.memory.done = inner  # type: ignore[method-assign]
    assert len(site.sink.rows) == 100
    assert len(site.waiting()) == 100
    site.clock.advance(LEASE_S + 0.1)
    c = await site.node("c", view=view_of(2, "c"))
    assert c.placement.ready
    await site.drain("c")
    assert site.waiting() == set()
    assert Counter(key for call in site.sink.written for key in call) == {b"%d" % n: 2 for n in range(100)}
    assert site.sink.regressions == 0


async def test_frozen_consumer_acknowledges_nothing() -> None:
    """A consumer that wakes up after its lease is refused, and its old write is not what stays. Scenario 45."""
    site = Site()
    node = await site.node("a")
    await put(node, KEY, b"1", namespace=BEHIND)
    site.sink.gate.clear()
    for _ in range(3):
        await site.drains["a"].tick()
    await site.sink.begun.wait()
    frozen, site.sink = site.sink, FakeSink()
    site.sink.rows, site.sinks["db"] = frozen.rows, site.sink
    site.clock.advance(LEASE_S + 0.1)
    other = await site.node("b")
    await put(other, KEY, b"0", namespace=BEHIND)  # an older version: refused
    await put(node, KEY, b"2", namespace=BEHIND)
    await site.drain("b")
    assert site.sink.value(KEY) == b"2"
    await put(node, KEY, b"3", namespace=BEHIND)
    frozen.gate.set()
    await site.drains["a"].idle()
    assert frozen.regressions == 1
    assert site.sink.value(KEY) == b"2"
    assert site.waiting() == {KEY}
    await site.drain("b")
    assert site.sink.value(KEY) == b"3"


async def test_consumer_begins_nothing_when_its_lease_may_be_over() -> None:
    """A node that has not heard from the queue for the most part of its lease sends nothing more."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"1", namespace=BEHIND)
    await site.drain()
    await put(node, KEY, b"2", namespace=BEHIND)
    (lane,) = site.drains["a"]._lanes
    for shard in lane.shards:
        shard.fetch_at = site.clock.now()
    await site.drains["a"].tick()
    calls = len(site.sink.calls)
    await site.drains["a"].idle()
    await put(node, KEY, b"3", namespace=BEHIND)
    for shard in lane.shards:
        shard.usable_until = site.clock.now()
    await site.drains["a"].tick()
    assert len(site.sink.calls) - calls <= 1
    await site.drains["a"].idle()


async def test_lost_answer_of_a_fetch() -> None:
    """Entries whose delivery was not heard of are claimed, and sent."""
    site = Site()
    node = await site.node()
    for number in range(20):
        await put(node, b"%d" % number, b"v", namespace=BEHIND)
    await site.drains["a"].tick()
    site.queue.lose_reply = 1.0
    await site.drain(rounds=1)
    assert site.sink.calls == []
    site.queue.lose_reply = 0.0
    site.clock.advance(1.0)
    await site.drain()
    assert len(site.sink.rows) == 20
    assert site.waiting() == set()


async def test_shard_is_given_back() -> None:
    """A node that no longer owns a shard gives it back, so that the next need not wait for the lease's end."""
    site = Site()
    view = view_of(1, "a")
    a = await site.node("a", view=view)
    await site.drain("a")
    both = view_of(2, *AB)
    b = await site.node("b", view=both)
    a.placement.apply(both)
    await site.drain("a")
    await site.drain("b")
    held = [sum(shard.usable_until > 0 for shard in site.drains[name]._lanes[0].shards) for name in AB]
    assert sum(held) == 16
    assert min(held) > 0
    for number in range(50):
        await put(a, b"%d" % number, b"v", namespace=BEHIND)
        await put(b, b"b%d" % number, b"v", namespace=BEHIND)
    await site.drain("a")
    await site.drain("b")
    assert site.waiting() == set()


async def test_value_that_never_reached_l2() -> None:
    """A write that was queued and whose writer heard nothing: what L2 has from before goes when the origin has it."""
    site = Site(carries_values=False)
    node = await site.node()
    await put(node, KEY, b"1", namespace=BEHIND)
    await site.drain()
    site.queue.lose_reply = 1.0
    assert (await put(node, KEY, b"2", namespace=BEHIND)).failures[0].reason is Reason.UNCERTAIN
    site.queue.lose_reply = 0.0
    (entry,) = await site.values.read(BEHIND, [KEY])
    assert entry is not None
    assert entry.value == b"1"
    site.clock.advance(1.0)
    await site.drain()
    assert site.sink.value(KEY) == b"2"
    assert await fetch(node, KEY, BEHIND) is None


async def test_node_that_stops_gives_all_back() -> None:
    """A node that stops ends its calls, and leaves every shard to whoever comes next."""
    site = Site()
    node = await site.node()
    await put(node, KEY, b"v", namespace=BEHIND)
    drain = site.drains["a"]
    drain.start()
    await site.sink.begun.wait()
    await drain.stop()
    assert all(place.consumer == "" for place in site.memory._shards.values())
    assert site.sink.value(KEY) == b"v"


async def test_poison_becomes_a_dead_letter_and_others_flow() -> None:
    """A row that violates a constraint is moved aside with the reason; all others are written. Scenario 46."""
    site = Site()
    node = await site.node(limits=WriteBehindLimits(attempts=3))
    site.sink.refuses = lambda write: OriginError("IntegrityError") if write.value == b"bad" else None
    await put(node, b"poison", b"bad", namespace=BEHIND)
    for number in range(10):
        await put(node, b"%d" % number, b"good", namespace=BEHIND)
        await site.drain()
        site.clock.advance(1.0)
    assert len(site.sink.rows) == 10
    assert site.waiting() == set()
    (letter,) = await site.queue.dead_letters(BEHIND, b"", 10)
    assert (letter.key, letter.reason, letter.attempts) == (b"poison", "IntegrityError", 3)
    assert counted(site).dead == 1
    await put(node, b"poison", b"good", namespace=BEHIND)
    await site.drain()
    assert site.sink.value(b"poison") == b"good"


async def test_origin_that_is_away_loses_nothing() -> None:
    """While an origin is away writes wait; when it is back they are written, and none became a dead letter."""
    site = Site()
    node = await site.node()
    site.sink.down = True
    for number in range(30):
        await put(node, b"%d" % number, b"v", namespace=BEHIND)
    for _ in range(60):
        await site.drain(rounds=2)
        site.clock.advance(1.0)
    assert len(site.waiting()) == 30
    assert len(site.sink.calls) < 25
    site.sink.down = False
    for _ in range(40):
        site.clock.advance(1.0)
        await site.drain(rounds=3)
    assert site.waiting() == set()
    assert len(site.sink.rows) == 30
    assert (await site.queue.status(BEHIND)).dead == 0
    assert counted(site).retries > 0


async def test_call_that_takes_too_long() -> None:
    """A call that outlives its time counts as failed; the write is sent again."""
    site = Site()
    node = await site.node(timeout_s=0.001)
    site.sink.gate.clear()
    await put(node, KEY, b"v", namespace=BEHIND)
    await site.drain()
    assert site.waiting() == {KEY}
    site.sink.gate.set()
    site.clock.advance(1.0)
    await site.drain()
    assert site.waiting() == set()


async def test_delay_gathers_writes() -> None:
    """A namespace with a delay sends a key once for all its writes in that time."""
    site = Site()
    node = await site.node(policies=[policy(delay_s=5.0)])
    for value in range(10):
        await put(node, KEY, b"%d" % value, namespace=BEHIND)
        await site.drain()
        site.clock.advance(0.4)
    assert site.sink.calls == []
    site.clock.advance(5.0)
    await site.drain()
    assert [[write.value for write in call] for call in site.sink.calls] == [[b"9"]]


async def test_urgent_namespace_goes_first() -> None:
    """Of the namespaces that share an origin the more urgent is written first."""
    site = Site()
    node = await site.node(policies=[policy("analytics", priority=10), policy("payments", priority=1)], concurrency=1)
    for number in range(3):
        await put(node, b"a%d" % number, b"v", namespace="analytics")
        await put(node, b"p%d" % number, b"v", namespace="payments")
    await site.drain()
    assert [{key[:1] for key in call} for call in site.sink.written] == [{b"p"}, {b"a"}]


async def test_values_of_a_call_are_bounded() -> None:
    """Large values are sent in several calls."""
    site = Site()
    node = await site.node()
    for number in range(9):
        await put(node, b"%d" % number, bytes(1 << 20), namespace=BEHIND)
    await site.drain()
    assert max(len(call) for call in site.sink.calls) <= 4
    assert len(site.sink.rows) == 9
    assert site.waiting() == set()


async def test_counters_say_how_much_waits() -> None:
    """A node counts what waits in its own shards, and since when."""
    site = Site()
    node = await site.node()
    site.sink.down = True
    await put(node, KEY, b"v", namespace=BEHIND)
    site.clock.advance(3.0)
    await site.drain()
    found = counted(site)
    assert found.waiting == 1
    assert found.oldest_s == pytest.approx(3.0)
    assert site.drains["a"].counters("other") is None


async def test_queue_is_looked_at_until_it_is_known_to_be_fit() -> None:
    """A node that could not look at the queue when it started does so before it writes there."""
    site = Site()
    node = await site.node()
    assert node.write_behind is not None
    node.write_behind._unfit = "not known yet"
    site.queue.down = True
    await site.drain()
    assert not node.write_behind.checked
    site.queue.down = False
    await site.drain()
    assert node.write_behind.checked


class Trial:
    """Random writes under random faults, and what the origin must end with."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.site = Site()
        self.site.sink.most_writes = 7
        self.newest: dict[bytes, int] = {}
        self.unsure: dict[bytes, set[int]] = {}

    def strike(self) -> None:
        """Let other faults be in force."""
        random, site = self.random, self.site
        site.queue.lose_call, site.queue.lose_reply = random.choice([(0, 0), (0, 0), (0.3, 0), (0, 0.3), (0.2, 0.2)])
        site.sink.down = random.random() < 0.2
        site.sink.refuses = lambda _: OriginError("busy") if random.random() < 0.2 else None

    def mend(self) -> None:
        site = self.site
        site.queue.lose_call = site.queue.lose_reply = 0.0
        site.sink.down, site.sink.refuses = False, lambda _: None

    async def write(self, nodes: dict[str, Node], number: int) -> None:
        key = b"%d" % self.random.randrange(30)
        owner = nodes["a"].placement.owner(key) or "a"
        result = await put(nodes[owner], key, b"%d" % number, namespace=BEHIND)
        if not result.failures:
            self.newest[key] = number
            self.unsure.pop(key, None)
        elif result.failures[0].reason is Reason.UNCERTAIN:
            self.unsure.setdefault(key, set()).add(number)

    async def lost(self) -> list[bytes]:
        """Return the keys whose newest acknowledged write the origin does not have, nor an uncertain one after it."""
        site = self.site
        dead = {letter.key for letter in await site.queue.dead_letters(BEHIND, b"", 1_000)}
        values = {key: int(site.sink.value(key) or b"-1") for key in self.newest.keys() - dead}
        return [key for key, value in values.items() if value not in {self.newest[key], *self.unsure.get(key, ())}]


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_whatever_fails(seed: int) -> None:
    """Under random faults of queue and origin, and changes of views, the origin ends with each key's newest write."""
    trial = Trial(seed)
    site = trial.site
    views = [view_of(1, *AB), view_of(2, "a"), view_of(3, *AB), view_of(4, "b"), view_of(5, *AB)]
    nodes = {name: await site.node(name, view=views[0]) for name in AB}
    for number in range(100):
        trial.strike()
        await trial.write(nodes, number)
        for node in nodes.values() if number % 20 == 19 else ():
            node.placement.apply(views[number // 20])
        site.clock.advance(trial.random.choice([0.0, 0.1, 1.0, 6.0]))
        for name in AB:
            await site.drain(name, rounds=1)
    trial.mend()
    for _ in range(20):
        site.clock.advance(4.0)
        for name in AB:
            await site.drain(name, rounds=2)
    assert site.waiting() == set()
    assert await trial.lost() == []
