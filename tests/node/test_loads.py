"""Loads by callers: one leads, the others wait, and whatever happens nobody gets or stores what is too old."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, L2Write, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.loops import Loops
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.selectors import SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, new_node, owned_by, put, run, version_of, view_of
from tests.support.eventually import eventually

K = b"k"


def lease_of(*keys: bytes, lease_s: float = 5.0, timeout_s: float = 30.0) -> Batch:
    """Return a LEASE."""
    return Batch(Operation.LEASE, "default", list(keys), timeout_s=timeout_s, lease_s=lease_s)


async def token_for(node: Node, key: bytes = K, *, holder: object = None, lease_s: float = 5.0) -> int:
    """Ask for a key that is absent; return the token."""
    result = await run(node, lease_of(key, lease_s=lease_s), holder=holder)
    assert result.tokens, result
    return result.tokens[0]


async def waiter_on(node: Node, *keys: bytes, holder: object = None) -> asyncio.Task[BatchResult]:
    """Ask for keys that others load; return once the question waits."""
    before = waits(node)
    task = asyncio.create_task(run(node, lease_of(*(keys or (K,))), holder=holder))
    await eventually(lambda: waits(node) > before)
    return task


def waits(node: Node) -> int:
    """Return how many keys have waited so far."""
    return node.namespaces.get("default").load_waits


async def fulfil(node: Node, token: int, value: bytes, key: bytes = K, *, from_peer: bool = False) -> BatchResult:
    """Bring a loaded value."""
    batch = Batch(Operation.FULFILL, "default", [key], [value], tokens=[token])
    return await run(node, batch, from_peer=from_peer)


async def abandon(node: Node, token: int, text: str = "", key: bytes = K) -> BatchResult:
    """Give a lease back."""
    return await run(node, Batch(Operation.ABANDON, "default", [key], tokens=[token], details=[text]))


def values(result: BatchResult) -> Sequence[bytes]:
    """Return the values without their headers."""
    return [record[HEADER_BYTES:] for record in result.records]


async def test_one_leads_and_the_others_get_its_value() -> None:
    """Of many who ask for an absent key one gets a token; the others wait and get what it brings, which is stored."""
    node = new_node("a", ManualClock())
    token = await token_for(node)
    waiting = [await waiter_on(node) for _ in range(20)]
    result = await fulfil(node, token, b"v")
    assert result.versions[0] > token
    for task in waiting:
        (record,) = (await task).records
        assert (record[HEADER_BYTES:], version_of(record)) == (b"v", result.versions[0])
    assert await fetch(node, K) == b"v"
    assert values(await run(node, lease_of(K))) == [b"v"]
    namespace = node.namespaces.get("default")
    assert (namespace.loads, namespace.load_waits, len(namespace.flights)) == (1, 20, 0)


async def test_value_in_l2_is_not_loaded() -> None:
    """Who asks for a key that L2 has gets it from there, once for all who ask at the same time."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    await l2.write("default", [L2Write(K, b"v", 0, 1, math.inf)])
    results = await asyncio.gather(*(run(node, lease_of(K)) for _ in range(3)))
    assert [values(result) for result in results] == [[b"v"]] * 3
    assert node.namespaces.get("default").loads == 0


async def test_loaded_value_is_written_through_to_l2() -> None:
    """What was loaded lies in L2 too, with its TTL; who asks while L2 takes it waits instead of loading again."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    token = await token_for(node)
    l2.gate.clear()
    landing = asyncio.create_task(fulfil(node, token, b"v"))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    late = await waiter_on(node)
    gate.set()
    version = (await landing).versions[0]
    assert values(await late) == [b"v"]
    assert [entry and (entry.value, entry.version) for entry in await l2.read("default", [K])] == [(b"v", version)]


async def test_write_during_a_load_detaches_it() -> None:
    """Who waited gets the loaded value; it is not stored, neither in memory nor in L2, and the written one stays.

    Scenario 1.
    """
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    token = await token_for(node)
    waiting = await waiter_on(node)
    await put(node, K, b"written")
    assert (await fulfil(node, token, b"loaded")).versions == [0]
    assert values(await waiting) == [b"loaded"]
    assert await fetch(node, K) == b"written"
    (entry,) = await l2.read("default", [K])
    assert entry is not None
    assert entry.value == b"written"


async def test_delete_during_a_load_makes_the_next_caller_load_again() -> None:
    """After a delete the flight under way serves those who waited; who asks now leads a flight of its own.

    Scenario 5.
    """
    node = new_node("a", ManualClock(), l2=MemoryL2(ManualClock()))
    old = await token_for(node)
    waiting = await waiter_on(node)
    await drop(node, K)
    new = await token_for(node)
    assert new > old
    assert (await fulfil(node, old, b"old")).versions == [0]
    assert values(await waiting) == [b"old"]
    assert await fetch(node, K) is None
    assert (await fulfil(node, new, b"new")).versions[0] > new
    assert await fetch(node, K) == b"new"


@pytest.mark.parametrize("how", [Operation.DELETE, Operation.INVALIDATE, Operation.BARRIER])
async def test_load_shortly_after_a_removal_is_held_off(how: Operation) -> None:
    """Scenario 14: what a lagging replica may have given is handed out and not stored, until it must have caught up."""
    clock = ManualClock()
    policy = NamespacePolicy(name="lagging", ttl_s=60, max_value_bytes=100, l2=False, share=1, holdoff_s=2.0)
    node = new_node("a", clock, policies=[policy])

    async def load(value: bytes) -> int:
        token = (await run(node, Batch(Operation.LEASE, "lagging", [K]))).tokens[0]
        clock.advance(1.0)
        batch = Batch(Operation.FULFILL, "lagging", [K], [value], tokens=[token])
        return (await run(node, batch)).versions[0]

    clock.advance(2.1)  # since the view
    assert await load(b"old")
    flags = [SelectorKind.PREFIX.value] if how is Operation.BARRIER else []
    await run(node, Batch(how, "lagging", [K], flags=flags))
    assert await load(b"old") == 0
    assert await fetch(node, K, "lagging") is None
    assert await load(b"old") == 0, "it began 1 s after"
    clock.advance(1.0)
    assert await load(b"new")
    assert await fetch(node, K, "lagging") == b"new"
    node.placement.apply(view_of(2, "a", "b"))
    mine = owned_by(view_of(2, "a", "b"), "a")[0]
    assert not (await run(node, Batch(Operation.SET, "lagging", [mine], [b"set"]))).failures, "a write brings the value"


async def test_delete_while_a_load_lands_wins() -> None:
    """A delete that is done while L2 takes the loaded value leaves nothing behind."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    token = await token_for(node)
    l2.gate.clear()
    landing = asyncio.create_task(fulfil(node, token, b"old"))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    await drop(node, K)
    gate.set()
    await landing
    assert await fetch(node, K) is None


async def test_load_from_before_a_delete_is_not_stored_while_that_is_under_way() -> None:
    """A delete voids the loads under way when it begins: what they bring meanwhile would outlive it in L2.

    Scenario 1.
    """
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    token = await token_for(node)
    l2.gate.clear()
    dropping = asyncio.create_task(drop(node, K))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    assert (await fulfil(node, token, b"old")).versions == [0]
    gate.set()
    await dropping
    assert await l2.read("default", [K]) == [None]


async def test_lease_that_ends_while_its_value_is_stored() -> None:
    """Neither the lease's end nor the holder's takes a flight away once the value has come."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    token = await token_for(node, holder="h", lease_s=1.0)
    waiting = await waiter_on(node)
    l2.gate.clear()
    landing = asyncio.create_task(fulfil(node, token, b"v"))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    clock.advance(2.0)
    node.loads.expire(clock.now())
    node.loads.release("h")
    for _ in range(20):
        await asyncio.sleep(0)
    gate.set()
    assert (await landing).versions[0]
    assert values(await waiting) == [b"v"]
    assert node.namespaces.get("default").loads == 1


async def test_late_holder_stores_nothing() -> None:
    """When a lease ends another leads; the first holder's value, should it come, is nobody's. Scenario 4."""
    clock = ManualClock()
    node = new_node("a", clock)
    token = await token_for(node, lease_s=2.0)
    waiting = await waiter_on(node)
    clock.advance(1.9)
    node.loads.expire(clock.now())
    assert not waiting.done()
    clock.advance(0.1)
    node.loads.expire(clock.now())
    result = await waiting
    assert result.tokens[0] > token
    assert (await fulfil(node, token, b"late")).versions == [0]
    assert await fetch(node, K) is None
    assert (await fulfil(node, result.tokens[0], b"v")).versions[0]
    assert await fetch(node, K) == b"v"


async def test_loops_end_leases() -> None:
    """The node's own duty ends what is overdue."""
    clock = ManualClock()
    node = new_node("a", clock)
    await token_for(node, lease_s=1.0)
    waiting = await waiter_on(node)
    clock.advance(1.0)
    await Loops(node, lambda _: 0)._tick()
    assert (await waiting).tokens


async def test_holder_that_is_gone_is_replaced_at_once() -> None:
    """The end of a holder's session lets one of those who wait lead, and leaves other holders alone. Scenario 3."""
    node = new_node("a", ManualClock())
    await token_for(node, holder="gone")
    kept = await token_for(node, b"other", holder="here")
    waiting = [await waiter_on(node, holder="here") for _ in range(3)]
    node.loads.release("gone")
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (leader,) = done
    assert len(pending) == 2
    await fulfil(node, leader.result().tokens[0], b"v")
    assert [values(await task) for task in pending] == [[b"v"]] * 2
    assert (await fulfil(node, kept, b"v", b"other")).versions[0]


async def test_failure_reaches_those_who_wait_and_then_backs_off() -> None:
    """A load's failure is told to the callers of that flight; the next load begins after a pause, and not before."""
    clock = ManualClock()
    node = new_node("a", clock)
    token = await token_for(node)
    waiting = await waiter_on(node)
    await abandon(node, token, "ValueError")
    failure = (await waiting).failures[0]
    assert (failure.reason, failure.detail) == (Reason.LOAD_FAILED, "the load failed: ValueError")
    refused = (await run(node, lease_of(K))).failures[0]
    assert (refused.reason, refused.detail) == (
        Reason.LOAD_FAILED,
        "the last load failed; the next may begin in 0.1 s",
    )
    assert await fetch(node, K) is None, "an error is not a value"
    clock.advance(0.1)
    token = await token_for(node)
    await fulfil(node, token, b"v")
    assert await fetch(node, K) == b"v"
    assert node.namespaces.get("default").load_failures == 1


async def test_lease_given_back_lets_another_lead_at_once() -> None:
    """Without a text a lease was merely given up: no failure, no pause."""
    node = new_node("a", ManualClock())
    token = await token_for(node)
    waiting = await waiter_on(node)
    await abandon(node, token)
    assert (await waiting).tokens[0] > token


async def test_value_that_cannot_be_taken_fails_for_all() -> None:
    """A loaded value over the namespace's limit fails for who brought it and for who waited."""
    policy = NamespacePolicy(name="tiny", ttl_s=math.inf, max_value_bytes=4, l2=False, share=1.0)
    node = new_node("a", ManualClock(), policies=[policy])
    lease = Batch(Operation.LEASE, "tiny", [K], timeout_s=30.0)
    token = (await run(node, lease)).tokens[0]
    waiting = asyncio.create_task(run(node, lease))
    await asyncio.sleep(0)
    result = await run(node, Batch(Operation.FULFILL, "tiny", [K], [b"12345"], tokens=[token]))
    assert result.failures[0].reason is Reason.VALUE_TOO_LARGE
    assert (await waiting).failures[0].reason is Reason.VALUE_TOO_LARGE
    assert (await run(node, lease)).tokens


async def test_each_key_of_a_batch_is_answered_as_soon_as_it_can_be() -> None:
    """Hits and tokens do not wait for keys that others load: two batches that lead for each other do not deadlock."""
    node = new_node("a", ManualClock())
    answers: list[BatchResult] = []
    await put(node, b"hit", b"v")
    await token_for(node, b"a")
    batch = lease_of(b"a", b"b", b"hit", b"a")
    rest = node.execute(batch, answers.append)
    assert rest is not None
    task = asyncio.ensure_future(rest)
    await eventually(lambda: len(answers) == 2)
    assert [list(answer.indices or ()) for answer in answers] == [[2], [1]]
    assert answers[1].tokens
    task.cancel()
    await asyncio.wait([task])


async def test_waiting_ends_with_the_callers_time() -> None:
    """A caller whose time is over gets a timeout for the keys that are not answered, and the flight goes on."""
    node = new_node("a", ManualClock())
    await put(node, b"hit", b"v")
    token = await token_for(node)
    result = await run(node, lease_of(K, b"hit", timeout_s=0.01))
    assert {at: failure.reason for at, failure in result.failures.items()} == {0: Reason.DEADLINE_EXCEEDED}
    assert (await fulfil(node, token, b"v")).versions[0]


async def test_view_change_sends_everybody_round() -> None:
    """After a view change who waits asks again, where the key now is; what was being loaded is not stored."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    node = new_node("a", clock, peers=peers)
    (mine,), (theirs,) = owned_by(view, "a"), owned_by(view, "b")
    tokens = [await token_for(node, key) for key in (mine, theirs)]
    waiting = [await waiter_on(node, key) for key in (mine, theirs)]
    node.placement.apply(view)
    assert (await waiting[0]).tokens[0] > tokens[0]
    assert (await waiting[1]).failures[0].reason is Reason.NOT_OWNER
    assert (await fulfil(node, tokens[0], b"old", mine)).versions == [0]
    assert await fetch(node, mine) is None


async def test_lease_through_another_node() -> None:
    """A caller that asks the wrong node gets the owner's token there, and brings the value there."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    nodes = [new_node(name, clock, peers=peers, view=view) for name in "ab"]
    (theirs,) = owned_by(view, "b")
    token = await token_for(nodes[0], theirs)
    waiting = await waiter_on(nodes[1], theirs)
    assert (await fulfil(nodes[0], token, b"v", theirs)).versions[0]
    assert values(await waiting) == [b"v"]
    assert await fetch(nodes[1], theirs) == b"v"


async def test_lease_got_through_another_node_ends_with_its_holder() -> None:
    """The node through which a lease was got tells the owner when the holder is gone, before or after the answer."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    nodes = [new_node(name, clock, peers=peers, view=view) for name in "ab"]
    first, second = owned_by(view, "b", 2)
    await token_for(nodes[0], first, holder="h")
    waiting = await waiter_on(nodes[1], first)
    nodes[0].loads.release("h")
    assert (await waiting).tokens
    # The holder goes while its question is at the owner, where it waits for another's load.
    lease = await token_for(nodes[1], second)
    asking = await waiter_on(nodes[1], second)  # only to see the next one wait
    gone = asyncio.create_task(run(nodes[0], lease_of(second), holder="h"))
    await eventually(lambda: waits(nodes[1]) == 3)
    gone.cancel()
    await asyncio.wait([gone])
    nodes[0].loads.release("h")
    asking.cancel()
    await asyncio.wait([asking])
    await abandon(nodes[1], lease, key=second)
    token = (await asyncio.wait_for(run(nodes[1], lease_of(second)), 10)).tokens[0]
    assert (await fulfil(nodes[1], token, b"v", second)).versions[0]


async def test_owner_out_of_reach_is_asked_in_vain() -> None:
    """Without its owner a key that L2 has is answered from there; one that is absent is loaded all the same."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    l2 = MemoryL2(clock)
    node = new_node("a", clock, peers=peers, view=view, l2=l2)
    absent, there = owned_by(view, "b", 2)
    await l2.write("default", [L2Write(there, b"v", 0, 1, math.inf)])
    result = await run(node, lease_of(absent, there))
    assert not result.failures
    assert result.tokens[0]
    assert values(result)[1] == b"v"


async def test_value_that_cannot_be_taken_fails_for_all_who_wait_elsewhere() -> None:
    """The owner hears of a value that the node on the way has refused: nobody waits for it until the lease ends."""
    policy = NamespacePolicy(name="tiny", ttl_s=math.inf, max_value_bytes=4, l2=False, share=1.0)
    clock, peers, view = ManualClock(), DirectPeers(), view_of(2, "a", "b")
    nodes = [new_node(name, clock, peers=peers, view=view, policies=[policy]) for name in "ab"]
    (theirs,) = owned_by(view, "b")
    lease = Batch(Operation.LEASE, "tiny", [theirs], timeout_s=30.0)
    token = (await run(nodes[0], lease, holder="h")).tokens[0]
    waiting = asyncio.create_task(run(nodes[1], lease))
    await asyncio.sleep(0)
    result = await run(nodes[0], Batch(Operation.FULFILL, "tiny", [theirs], [b"12345"], tokens=[token]))
    assert result.failures[0].reason is Reason.VALUE_TOO_LARGE
    failure = (await waiting).failures[0]
    assert (failure.reason, failure.detail[:31]) == (Reason.LOAD_FAILED, "the load failed: value: 5 bytes")


async def test_tokens_are_not_guessed() -> None:
    """A token of another key, or one that was never given, stores nothing and tells nobody anything."""
    node = new_node("a", ManualClock())
    token = await token_for(node)
    waiting = await waiter_on(node)
    assert (await fulfil(node, token + 1, b"x")).versions == [0]
    assert (await fulfil(node, token, b"x", b"other")).versions == [0]
    assert not waiting.done()
    assert (await fulfil(node, token, b"v")).versions[0]
    assert (await fulfil(node, token, b"again")).versions == [0]
    assert values(await waiting) == [b"v"]
