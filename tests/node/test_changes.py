"""Changes by what is there: conditions, counters, and the interleavings of the module's header."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, L2Entry, L2Write, Operation
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, INT_FLAGS, NO_TTL_MS
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, new_node, owned_by, put, run, view_of

K = b"k"


def set_if(expected: int, *, key: bytes = K, value: bytes = b"new", ttl_ms: int = 0) -> Batch:
    """Return a SET with a condition."""
    return Batch(Operation.SET, "default", [key], [value], [0], [ttl_ms], if_versions=[expected])


def incr(delta: int = 1, *, key: bytes = K, ttl_ms: int = 0) -> Batch:
    """Return an INCR."""
    return Batch(Operation.INCR, "default", [key], ttls_ms=[ttl_ms] if ttl_ms else (), deltas=[delta], timeout_s=30.0)


def reason(result: BatchResult) -> Reason | None:
    """Return why the only key failed."""
    return result.failures[0].reason if result.failures else None


def number(result: BatchResult) -> int:
    """Return the number that an INCR gave."""
    return int(result.records[0][HEADER_BYTES:])


async def with_number(node: Node, value: bytes, *, flags: int = INT_FLAGS, ttl_ms: int = 0) -> None:
    """Store a value as the SDK stores a whole number."""
    await run(node, Batch(Operation.SET, "default", [K], [value], [flags], [ttl_ms]))


@pytest.fixture(params=["memory", "l2"])
def node(request: pytest.FixtureRequest) -> Node:
    """A node alone, with and without an L2."""
    clock = ManualClock()
    return new_node("a", clock, l2=MemoryL2(clock) if request.param == "l2" else None)


async def test_conditions(node: Node) -> None:
    """A set with a condition is done if it holds, else it changes nothing."""
    assert reason(await run(node, set_if(ANY_VERSION))) is Reason.CONDITION_FAILED
    assert reason(await run(node, set_if(7))) is Reason.CONDITION_FAILED
    assert await fetch(node, K) is None
    first = (await run(node, set_if(ABSENT_VERSION, value=b"1"))).versions[0]
    assert reason(await run(node, set_if(ABSENT_VERSION))) is Reason.CONDITION_FAILED
    assert reason(await run(node, set_if(first - 1))) is Reason.CONDITION_FAILED
    assert await fetch(node, K) == b"1"
    second = (await run(node, set_if(first, value=b"2"))).versions[0]
    assert second > first
    third = (await run(node, set_if(ANY_VERSION, value=b"3"))).versions[0]
    assert third > second
    assert await fetch(node, K) == b"3"


async def test_condition_on_what_is_only_in_l2() -> None:
    """A value that memory has lost counts as there, with its version."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    version = (await put(node, K, b"old")).versions[0]
    node.namespaces.get("default").store.remove(K)
    assert reason(await run(node, set_if(ABSENT_VERSION))) is Reason.CONDITION_FAILED
    assert (await run(node, set_if(version))).versions[0] > version
    assert await fetch(node, K) == b"new"


async def test_of_many_who_add_one_does(node: Node) -> None:
    """Of concurrent adds exactly one succeeds; of concurrent sets on one version too."""
    results = await asyncio.gather(*(run(node, set_if(ABSENT_VERSION, value=b"%d" % at)) for at in range(20)))
    (winner,) = [at for at, result in enumerate(results) if not result.failures]
    assert await fetch(node, K) == b"%d" % winner
    version = results[winner].versions[0]
    results = await asyncio.gather(*(run(node, set_if(version)) for _ in range(20)))
    assert sum(not result.failures for result in results) == 1


async def test_every_key_of_a_batch_by_itself(node: Node) -> None:
    """Conditions may differ by key; each holds or fails alone, also for a key that is there twice."""
    await put(node, b"a", b"old")
    batch = Batch(Operation.SET, "default", [b"a", b"b", b"b"], [b"1", b"2", b"3"], if_versions=[ABSENT_VERSION] * 3)
    result = await run(node, batch)
    assert {at: failure.reason for at, failure in result.failures.items()} == {
        0: Reason.CONDITION_FAILED,
        2: Reason.CONDITION_FAILED,
    }
    assert [await fetch(node, key) for key in (b"a", b"b")] == [b"old", b"2"]


async def test_counters_lose_nothing(node: Node) -> None:
    """Concurrent increments all count, up and down, from zero."""
    results = await asyncio.gather(*(run(node, incr(2)) for _ in range(50)), *(run(node, incr(-1)) for _ in range(50)))
    assert number(results[0]) == 2
    assert await fetch(node, K) == b"50"
    versions = [HEADER.unpack_from(result.records[0])[2] for result in results]
    assert len(set(versions)) == 100


async def test_life_of_a_counter(node: Node) -> None:
    """A counter keeps the life that it has, unless the call gives it another."""
    clock = node.clock
    assert isinstance(clock, ManualClock)

    def left(result: BatchResult) -> float:
        return float(HEADER.unpack_from(result.records[0])[3]) - result.now_s

    assert left(await run(node, incr(ttl_ms=60_000))) == 60
    clock.advance(20)
    assert left(await run(node, incr())) == 40
    assert left(await run(node, incr(ttl_ms=50_000))) == 50
    assert left(await run(node, incr(ttl_ms=NO_TTL_MS))) == math.inf
    assert left(await run(node, incr())) == math.inf
    assert await fetch(node, K) == b"5"


@pytest.mark.parametrize(
    ("value", "flags", "delta"),
    [
        (b"5", 0, 1),
        (b"5.0", 3, 1),
        (b"{}", INT_FLAGS, 1),
        (b"9223372036854775807", INT_FLAGS, 1),
        (b"-9223372036854775807", INT_FLAGS, -1),
        (b"9" * 30, INT_FLAGS, 1),
    ],
)
async def test_what_is_no_counter(node: Node, value: bytes, flags: int, delta: int) -> None:
    """A value of another kind, or a result beyond 64 bits, is refused and stays."""
    await with_number(node, value, flags=flags)
    assert reason(await run(node, incr(delta))) is Reason.NOT_A_COUNTER
    assert await fetch(node, K) == value


async def test_failed_key_of_a_counter(node: Node) -> None:
    """A key that cannot be is refused with a record's column, not a version's."""
    result = await run(node, incr(key=b""))
    assert (reason(result), list(result.records)) == (Reason.INVALID_KEY, [b""])


class Gates:
    """An L2 whose writes and drops can be held separately."""

    def __init__(self, clock: ManualClock) -> None:
        self.l2 = HeldL2(MemoryL2(clock))

    async def hold_next(self, work: asyncio.Task[BatchResult]) -> asyncio.Event:
        """Let a call of the task reach L2 and stay there; others pass. Return what lets it go on."""
        await self.l2.held.wait()
        assert not work.done()
        gate, self.l2.gate = self.l2.gate, asyncio.Event()
        self.l2.gate.set()
        return gate


async def test_condition_sees_a_set_under_way() -> None:
    """While L2 takes a plain set its version is the present one: older conditions fail, "absent" too."""
    clock = ManualClock()
    gates = Gates(clock)
    node = new_node("a", clock, l2=gates.l2)
    old = (await put(node, K, b"old")).versions[0]
    gates.l2.gate.clear()
    setting = asyncio.create_task(put(node, K, b"set"))
    gate = await gates.hold_next(setting)
    assert reason(await run(node, set_if(old))) is Reason.CONDITION_FAILED
    assert reason(await run(node, set_if(ABSENT_VERSION))) is Reason.CONDITION_FAILED
    gate.set()
    version = (await setting).versions[0]
    assert (await run(node, set_if(version))).versions[0] > version


async def test_counter_waits_for_a_set_under_way() -> None:
    """An increment counts from the value that a set brings, not from the one before."""
    clock = ManualClock()
    gates = Gates(clock)
    node = new_node("a", clock, l2=gates.l2)
    await with_number(node, b"1")
    gates.l2.gate.clear()
    setting = asyncio.create_task(run(node, Batch(Operation.SET, "default", [K], [b"10"], [INT_FLAGS])))
    gate = await gates.hold_next(setting)
    counting = asyncio.create_task(run(node, incr()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not counting.done()
    gate.set()
    await setting
    assert number(await counting) == 11


async def test_condition_sees_a_delete_under_way() -> None:
    """From the moment a delete is ordered there is nothing to build on, though readers may still find the value."""
    clock = ManualClock()
    gates = Gates(clock)
    node = new_node("a", clock, l2=gates.l2)
    old = (await put(node, K, b"old")).versions[0]
    gates.l2.gate.clear()
    dropping = asyncio.create_task(drop(node, K))
    gate = await gates.hold_next(dropping)
    assert reason(await run(node, set_if(old))) is Reason.CONDITION_FAILED
    assert reason(await run(node, set_if(ANY_VERSION))) is Reason.CONDITION_FAILED
    assert number(await run(node, incr(3))) == 3
    gate.set()
    await dropping


async def test_set_during_a_change_stays() -> None:
    """A plain set that comes while L2 takes a change has the higher version, and is what remains."""
    clock = ManualClock()
    gates = Gates(clock)
    node = new_node("a", clock, l2=gates.l2)
    await put(node, K, b"old")
    gates.l2.gate.clear()
    changing = asyncio.create_task(run(node, set_if(ANY_VERSION, value=b"change")))
    gate = await gates.hold_next(changing)
    version = (await put(node, K, b"set")).versions[0]
    gate.set()
    assert version > (await changing).versions[0]
    assert await fetch(node, K) == b"set"


class SlowL2(MemoryL2):
    """An L2 whose calls take some turns of the loop, no two the same."""

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        found = await super().read(namespace, keys)
        await turns(40)  # so late that a whole write fits in between
        return found

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        await turns(2)
        done = await super().write(namespace, writes)
        await turns(2)
        return done


RNG = random.Random(7)


async def turns(most: int) -> None:
    """Let others go first."""
    for _ in range(RNG.randrange(most)):
        await asyncio.sleep(0)


async def test_changes_that_read_together_build_on_each_other() -> None:
    """Increments of a value that only L2 has, and that memory loses again and again, all count."""
    clock = ManualClock()
    node = new_node("a", clock, l2=SlowL2(clock))
    await with_number(node, b"1000")
    store = node.namespaces.get("default").store
    store.remove(K)

    async def count() -> None:
        for _ in range(10):
            await turns(9)
            await run(node, incr())
            store.remove(K)

    await asyncio.gather(*(count() for _ in range(10)))
    assert await fetch(node, K) == b"1100"


async def test_adds_that_read_together() -> None:
    """Of many who find nothing in L2 at the same time one adds."""
    clock = ManualClock()
    node = new_node("a", clock, l2=SlowL2(clock))
    results = await asyncio.gather(*(run(node, set_if(ABSENT_VERSION)) for _ in range(20)))
    assert sum(not result.failures for result in results) == 1


async def test_counter_is_cancelled_while_it_waits() -> None:
    """One of several who wait for a set is cancelled; the others count on."""
    clock = ManualClock()
    gates = Gates(clock)
    node = new_node("a", clock, l2=gates.l2)
    gates.l2.gate.clear()
    setting = asyncio.create_task(run(node, Batch(Operation.SET, "default", [K], [b"10"], [INT_FLAGS])))
    gate = await gates.hold_next(setting)
    counting = [asyncio.create_task(run(node, incr())) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0)
    counting[0].cancel()
    gate.set()
    await asyncio.wait([setting, *counting])
    assert sorted(number(task.result()) for task in counting[1:]) == [11, 12]


async def test_changes_through_another_node() -> None:
    """A change asked of the wrong node is decided by the owner, and answered alike."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    nodes = [new_node(name, clock, peers=peers, view=view) for name in "ab"]
    (theirs,) = owned_by(view, "b")
    assert (await run(nodes[0], set_if(ABSENT_VERSION, key=theirs))).versions[0]
    assert reason(await run(nodes[0], set_if(ABSENT_VERSION, key=theirs))) is Reason.CONDITION_FAILED
    (counter,) = owned_by(view, "b", prefix="n")
    assert [number(await run(nodes[at], incr(key=counter))) for at in (0, 1, 0)] == [1, 2, 3]


async def test_newer_owner_wins() -> None:
    """A change that L2 refuses for a newer owner's write is not acknowledged."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    version = (await put(node, K, b"mine")).versions[0]

    async def newer(namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        return [False] * len(writes)

    l2.write = newer  # type: ignore[method-assign]
    assert reason(await run(node, set_if(version))) is Reason.SUPERSEDED
    assert reason(await run(node, incr(key=b"n"))) is Reason.SUPERSEDED
