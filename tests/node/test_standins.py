"""Loads while an owner cannot be reached: at once, one at a time, and never shared by who asked after they began."""

from __future__ import annotations

import asyncio
import math
from random import Random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import PeerUnavailable
from cachenode.node.explain import explain
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode.ports import L2Store
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.ring import Ring
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, new_node, run, version_of, view_of
from tests.support.eventually import eventually

VIEW = view_of(2, "a", "b", "c")


def key_of(*order: str) -> bytes:
    """Return a key that belongs to the first of some nodes, and after it to the others in turn."""
    ring, number = Ring(VIEW), 0
    while ring.owners(b"k%d" % number, 3) != list(order):
        number += 1
    return b"k%d" % number


K = key_of("b", "c", "a")
"""Its owner is b, and c stands in for it."""


class Trio:
    """Three nodes, of which nobody reaches b."""

    def __init__(
        self, l2: L2Store | None = None, peers: DirectPeers | None = None, policies: tuple[NamespacePolicy, ...] = ()
    ) -> None:
        self.clock = ManualClock()
        self.peers = peers or DirectPeers()
        self.peers.cut = {"b"}
        self.l2 = l2
        self.a, self.b, self.c = (
            new_node(name, self.clock, peers=self.peers, view=VIEW, l2=l2, policies=policies) for name in "abc"
        )

    def space(self, node: Node) -> Namespace:
        """Return the namespace of a node."""
        found = node.namespaces.get("default")
        assert found is not None
        return found

    def waiting(self, node: Node) -> int:
        """Return how many callers wait at a stand-in for the next round."""
        return len(node.stand_ins._rounds.queue(("default", K)))


def lease(lease_s: float = 5.0, timeout_s: float = 30.0, *, stand_in: bool = False) -> Batch:
    return Batch(Operation.LEASE, "default", [K], timeout_s=timeout_s, lease_s=lease_s, stand_in=stand_in)


def ask(node: Node, *, holder: object = None, lease_s: float = 5.0) -> asyncio.Task[BatchResult]:
    """Ask a node for the key, as a client does."""
    return asyncio.create_task(run(node, lease(lease_s), holder=holder))


async def fulfil(node: Node, token: int, value: bytes) -> BatchResult:
    """Bring a loaded value."""
    return await run(node, Batch(Operation.FULFILL, "default", [K], [value], tokens=[token]))


async def abandon(node: Node, token: int, text: str = "", *, absent: bool = False) -> BatchResult:
    """Give the right to load back."""
    flags = [int(absent)]
    return await run(node, Batch(Operation.ABANDON, "default", [K], flags=flags, tokens=[token], details=[text]))


def value_of(result: BatchResult) -> bytes:
    """Return the value without its header."""
    assert not result.failures, result.failures
    return result.records[0][HEADER_BYTES:]


async def token_and_others(tasks: list[asyncio.Task[BatchResult]]) -> tuple[int, list[asyncio.Task[BatchResult]]]:
    """Return the token of who leads among some callers, and the others, who wait."""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    (leader,) = done
    return leader.result().tokens[0], list(pending)


async def led(trio: Trio, sharing: int = 1, *, holder: object = None, lease_s: float = 5.0) -> tuple[int, list]:
    """Begin a round with some callers that share it; return its token and them."""
    trio.c.stand_ins.gather_s = 0.02
    tasks = [ask(trio.a, holder=holder, lease_s=lease_s) for _ in range(1 + sharing)]
    found = await token_and_others(tasks)
    trio.c.stand_ins.gather_s = 0.0
    return found


async def late(trio: Trio) -> asyncio.Task[BatchResult]:
    """Ask while a load is under way; return once the question waits."""
    before = trio.waiting(trio.c)
    task = ask(trio.a)
    await eventually(lambda: trio.waiting(trio.c) > before)
    return task


@pytest.mark.parametrize("with_l2", [False, True])
async def test_absent_key_of_a_lost_owner_is_loaded_once(with_l2: bool) -> None:
    """Of all who ask the other nodes one loads, at once; the others share it, and it is stored nowhere."""
    trio = Trio(MemoryL2(ManualClock()) if with_l2 else None)
    trio.c.stand_ins.gather_s = 0.05
    token, others = await token_and_others([ask(node) for node in (trio.a, trio.c) for _ in range(10)])
    assert (await fulfil(trio.a, token, b"v")).versions == [0]
    for task in others:
        assert value_of(await task) == b"v"
        assert version_of(task.result().records[0]) == 0
    trio.peers.cut = set()
    assert [await fetch(node, K) for node in (trio.a, trio.b, trio.c)] == [None] * 3
    assert trio.l2 is None or await trio.l2.read("default", [K]) == [None]
    counts = trio.space(trio.c)
    assert (counts.loads, counts.stand_in_loads, counts.load_waits) == (1, 1, 19)
    assert not trio.c.failures


async def test_who_asks_during_a_load_gets_a_later_one() -> None:
    """The owner is there for others, and acknowledges a removal: who asks afterwards gets nothing from before it."""
    trio = Trio()
    first, sharing = await led(trio)
    await drop(trio.b, K)
    after = await late(trio)
    assert (await fulfil(trio.a, first, b"old")).versions == [0]
    assert value_of(await sharing[0]) == b"old"
    second = (await after).tokens[0]
    assert second not in {0, first}
    await fulfil(trio.a, second, b"new")
    assert await fetch(trio.c, K) in {None, Reason.OWNER_UNREACHABLE}


async def test_late_callers_share_the_next_load() -> None:
    """Everybody who comes during a load shares the one after it: two loads for all of them."""
    trio = Trio()
    first, _ = await led(trio, 0)
    tasks = [await late(trio) for _ in range(5)]
    await fulfil(trio.a, first, b"1")
    second, others = await token_and_others(tasks)
    await fulfil(trio.c, second, b"2")
    assert [value_of(await task) for task in others] == [b"2"] * 4
    assert trio.space(trio.c).stand_in_loads == 2


async def test_holder_that_is_gone_is_replaced() -> None:
    """The end of a holder's session, on the node that asked, lets one lead who shared the round, before later ones."""
    trio = Trio()
    _, sharing = await led(trio, holder="gone")
    after = await late(trio)
    trio.a.loads.release("gone")
    second = (await sharing[0]).tokens[0]
    await fulfil(trio.a, second, b"v")
    assert value_of(await after) == b"v"


async def test_holder_that_is_gone_from_the_stand_in_is_replaced() -> None:
    """The same where the stand-in itself was asked."""
    trio = Trio()
    await ask(trio.c, holder="gone")
    after = await late(trio)
    trio.c.loads.release("gone")
    assert (await after).tokens[0]


async def test_late_holder_is_nobodys() -> None:
    """When a lease ends another leads, and what the first holder brings then is given to nobody."""
    trio = Trio()
    first, sharing = await led(trio, 2, lease_s=2.0)
    trio.clock.advance(1.9)
    trio.c.loads.expire(trio.clock.now())
    await asyncio.sleep(0)
    assert not any(task.done() for task in sharing)
    trio.clock.advance(0.1)
    trio.c.loads.expire(trio.clock.now())
    second, others = await token_and_others(sharing)
    assert (await fulfil(trio.a, first, b"late")).versions == [0]
    assert not others[0].done()
    await fulfil(trio.a, second, b"v")
    assert value_of(await others[0]) == b"v"


async def test_leader_that_is_cancelled_with_its_token() -> None:
    """Who goes in the very turn in which it is to lead holds nobody up."""
    trio = Trio()
    trio.c.stand_ins.gather_s = 30.0
    leader = ask(trio.c)
    await eventually(lambda: trio.waiting(trio.c) == 1)
    place = ("default", K)
    assert trio.c.stand_ins._begin(trio.space(trio.c), place) is not None
    leader.cancel()
    await asyncio.wait([leader])
    assert trio.c.stand_ins.under_way(place) is None
    trio.c.stand_ins._drivers[place].cancel()
    await eventually(lambda: not trio.c.stand_ins._drivers)
    trio.c.stand_ins.gather_s = 0.0
    assert (await ask(trio.c)).tokens[0]


async def test_caller_whose_time_is_over_leads_nothing() -> None:
    """Who no longer waits is passed over."""
    trio = Trio()
    first, _ = await led(trio, 0)
    result = await run(trio.c, lease(timeout_s=0.01))
    assert result.failures[0].reason is Reason.DEADLINE_EXCEEDED
    assert trio.waiting(trio.c) == 0
    after = await late(trio)
    await fulfil(trio.a, first, b"v")
    assert (await after).tokens[0]


async def test_failure_reaches_those_who_share_and_then_backs_off() -> None:
    """The failure is told to its round; who waited for the next, and who comes, is told to wait, as at an owner."""
    trio = Trio()
    first, sharing = await led(trio)
    after = await late(trio)
    await abandon(trio.a, first, "ValueError")
    failures = [(await task).failures[0] for task in (sharing[0], after, ask(trio.a))]
    assert {failure.reason for failure in failures} == {Reason.LOAD_FAILED}
    paused = "the last load failed; the next may begin in 0.1 s"
    assert [failure.detail for failure in failures] == ["the load failed: ValueError", paused, paused]
    trio.clock.advance(0.1)
    second = (await ask(trio.a)).tokens[0]
    await fulfil(trio.a, second, b"v")
    assert trio.space(trio.c).load_failures == 1


async def test_absence_is_told() -> None:
    """A load that finds that there is no value tells those who share it."""
    trio = Trio()
    first, sharing = await led(trio)
    await abandon(trio.a, first, absent=True)
    assert (await sharing[0]).records == [b""]


async def test_lease_given_back_lets_another_lead() -> None:
    """Without a text a lease was merely given up."""
    trio = Trio()
    first, sharing = await led(trio)
    await abandon(trio.a, first)
    assert (await sharing[0]).tokens[0] not in {0, first}


@pytest.mark.parametrize("name", ["a", "c"])
async def test_value_that_cannot_be_taken_fails_for_all(name: str) -> None:
    """A value over the limit, refused here or on its way, fails for those who share the round."""
    trio = Trio(policies=(NamespacePolicy(name="tiny", ttl_s=math.inf, max_value_bytes=4, l2=False, share=1.0),))
    trio.c.stand_ins.gather_s = 0.02
    asked = Batch(Operation.LEASE, "tiny", [K], timeout_s=30.0)
    node = getattr(trio, name)
    tasks = [asyncio.create_task(run(node, asked, holder="h")) for _ in range(2)]
    token, sharing = await token_and_others(tasks)
    result = await run(node, Batch(Operation.FULFILL, "tiny", [K], [b"12345"], tokens=[token]))
    assert result.failures[0].reason is Reason.VALUE_TOO_LARGE
    assert (await sharing[0]).failures[0].reason in {Reason.VALUE_TOO_LARGE, Reason.LOAD_FAILED}


async def test_view_ends_the_rounds() -> None:
    """With a new view everybody asks again where the key is now; what is loaded under the old one is nobody's."""
    trio = Trio()
    first, sharing = await led(trio)
    after = await late(trio)
    view = view_of(3, "a", "c")
    for node in (trio.a, trio.c):
        node.placement.apply(view)
    assert [(await task).failures[0].reason for task in (sharing[0], after)] == [Reason.NOT_OWNER] * 2
    owner = trio.a if Ring(view).owner(K) == "a" else trio.c
    new = (await ask(owner)).tokens[0]
    waiting = ask(owner)
    assert (await fulfil(trio.a, first, b"old")).versions == [0]
    assert (await fulfil(owner, new, b"new")).versions[0]
    assert value_of(await waiting) == b"new"


async def test_stand_in_that_resigns_sends_its_callers_on() -> None:
    """A stand-in that leaves lets nobody wait for nothing: who asked there asks the next one."""
    trio = Trio()
    _, sharing = await led(trio)
    trio.c.placement.resign()
    trio.c.loads.resign()
    assert (await sharing[0]).tokens[0]
    assert trio.space(trio.a).stand_in_loads == 1


async def test_lock_keeps_two_stand_ins_apart() -> None:
    """The callers of a second stand-in wait until the first has loaded, and then load themselves."""
    trio = Trio(MemoryL2(ManualClock()))
    first = (await run(trio.c, lease(stand_in=True), from_peer=True)).tokens[0]
    other = asyncio.create_task(run(trio.a, lease(stand_in=True), from_peer=True))
    assert trio.l2 is not None
    assert not await trio.l2.lock("default", K, b"somebody", 1.0)
    await eventually(lambda: trio.waiting(trio.a) == 1)
    assert not other.done()
    await fulfil(trio.c, first, b"v")
    second = (await other).tokens[0]
    await abandon(trio.a, second)
    await eventually(lambda: not trio.a.stand_ins._drivers)
    assert await trio.l2.lock("default", K, b"somebody", 1.0), "nobody has it any more"


async def test_lock_is_prolonged_as_long_as_the_load_lasts() -> None:
    """A short lock does for a long load, and ends soon with a stand-in that dies."""
    clock, taken = ManualClock(), []

    class Counting(MemoryL2):
        async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
            taken.append(ttl_s)
            return await super().lock(namespace, key, token, ttl_s)

    trio = Trio(Counting(clock))
    trio.c.stand_ins.lock_s = 0.01
    first = (await ask(trio.a)).tokens[0]
    await eventually(lambda: len(taken) > 3)
    await fulfil(trio.a, first, b"v")
    await eventually(lambda: not trio.c.stand_ins._drivers)
    assert set(taken) == {0.01}


@pytest.mark.parametrize("fails_at", ["first", "while waiting", "while loading"])
async def test_load_goes_on_without_l2(fails_at: str) -> None:
    """L2 may fail before the lock is asked for, while it is another's, or during the load: nobody waits for it."""
    l2 = ChaosL2(MemoryL2(ManualClock()), Random(1))
    trio = Trio(l2)
    trio.c.stand_ins.lock_s = 0.01
    if fails_at == "while waiting":
        await l2.lock("default", K, b"somebody", 60.0)
    asked = ask(trio.c)
    if fails_at == "first":
        l2.down = True
    elif fails_at == "while waiting":
        await eventually(lambda: trio.waiting(trio.c) == 1)
        l2.down = True
    token = (await asked).tokens[0]
    l2.down = True
    after = await late(trio)
    await fulfil(trio.c, token, b"v")
    assert (await after).tokens[0]


async def test_lock_of_nobody_is_not_waited_for_for_ever() -> None:
    """Who waits for another's lock waits no longer than its time; when nobody waits, nobody asks for it."""
    l2 = MemoryL2(ManualClock())
    trio = Trio(l2)
    await l2.lock("default", K, b"somebody", 60.0)
    assert (await run(trio.c, lease(timeout_s=0.01))).failures[0].reason is Reason.DEADLINE_EXCEEDED
    await eventually(lambda: not trio.c.stand_ins._drivers)


class BreakingPeers(DirectPeers):
    """Peers of which one is lost while it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.lost_now = asyncio.Event()

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        tasks = [asyncio.create_task(super().forward(owner, batch)), asyncio.create_task(self.lost_now.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[1].cancel()
            return tasks[0].result()  # type: ignore[return-value]
        tasks[0].cancel()
        raise PeerUnavailable("lost", sent=True)


async def test_stand_in_that_is_lost() -> None:
    """Callers who wait at a stand-in that dies go on at the next one, here the node that they asked."""
    peers = BreakingPeers()
    trio = Trio(peers=peers)
    _, sharing = await led(trio, 2)
    peers.cut = {"b", "c"}
    trio.a.stand_ins.gather_s = 0.02
    peers.lost_now.set()
    token, others = await token_and_others(sharing)
    assert trio.a.stand_ins.under_way(("default", K)) is not None
    peers.lost_now.clear()
    await fulfil(trio.a, token, b"v")
    assert value_of(await others[0]) == b"v"


async def test_stand_in_out_of_reach_is_passed_over() -> None:
    """The node after the owner cannot be reached either: the next one is asked."""
    trio = Trio()
    trio.peers.cut = {"b", "c"}
    assert (await ask(trio.a)).tokens[0]
    assert trio.space(trio.a).stand_in_loads == 1


async def test_value_that_comes_to_the_owner() -> None:
    """The client has found the owner again while it loaded: the value finds those who wait, and is not stored."""
    trio = Trio()
    first, sharing = await led(trio)
    trio.peers.cut = set()
    assert (await fulfil(trio.b, first, b"v")).versions == [0]
    assert value_of(await sharing[0]) == b"v"
    assert await fetch(trio.b, K) is None


async def test_owner_in_reach_again_is_asked_again() -> None:
    """Who asks once the owner is back gets the owner's token, whatever its stand-in is doing."""
    trio = Trio()
    first, _ = await led(trio, 0)
    trio.peers.cut = set()
    second = (await ask(trio.a)).tokens[0]
    assert (await fulfil(trio.a, second, b"v")).versions[0] > second
    assert (await fulfil(trio.a, first, b"old")).versions == [0]
    assert await fetch(trio.a, K) == b"v"


async def test_token_of_a_former_stand_in_is_nobodys() -> None:
    """A token whose lender is no member any more, or lives a new life, stores nothing and is passed on to nobody."""
    trio = Trio()
    first, _ = await led(trio, 0)
    for node in (trio.a, trio.b):
        node.placement.apply(view_of(3, "a", "b"))
    before = len(trio.peers.forwards)
    assert (await fulfil(trio.a, first, b"v")).versions == [0]
    assert len(trio.peers.forwards) == before


async def test_only_nodes_ask_for_stand_ins() -> None:
    """A client's mark means nothing; a node that owns the key itself refuses to stand in for anybody."""
    trio = Trio()
    trio.peers.cut = set()
    token = (await run(trio.a, lease(stand_in=True))).tokens[0]
    refused = await run(trio.b, lease(stand_in=True), from_peer=True)
    assert refused.failures[0].reason is Reason.NOT_OWNER
    assert (await fulfil(trio.b, token, b"v")).versions[0], "the owner lent it"


async def test_fenced_node_stands_in_for_nobody() -> None:
    """A node whose lease is over lets nobody load, nor go on waiting for it."""
    trio = Trio()
    first, sharing = await led(trio)
    trio.c.placement.set_lease(trio.clock.now())
    refused = await run(trio.c, lease(stand_in=True), from_peer=True)
    assert refused.failures[0].reason is Reason.NOT_READY
    await run(trio.c, Batch(Operation.ABANDON, "default", [K], tokens=[first]), from_peer=True)
    trio.clock.advance(5.0)
    trio.c.loads.expire(trio.clock.now())
    assert (await sharing[0]).tokens[0], "the next stand-in's"


async def test_round_is_explained() -> None:
    """A stand-in's load is shown beside the owner's."""
    trio = Trio()
    await led(trio, 2)
    (load,) = (await explain(trio.c, trio.space(trio.c), K)).loads
    assert (load.lease_s, load.waiting, load.storable) == (5.0, 2, False)


async def test_many_keys_are_answered_one_by_one() -> None:
    """Keys of one batch whose owner is lost wait each for its own load."""
    trio = Trio(HeldL2(MemoryL2(ManualClock())))
    ring = Ring(VIEW)
    keys = [key for number in range(100) if ring.owner(key := b"m%d" % number) == "b"][:5]
    result = await run(trio.a, Batch(Operation.LEASE, "default", keys, timeout_s=30.0))
    assert all(result.tokens)
    assert len(set(zip(keys, result.tokens, strict=True))) == 5
    ends = await run(trio.a, Batch(Operation.FULFILL, "default", keys, [b"v"] * 5, tokens=result.tokens))
    assert (ends.versions, ends.failures) == ([0] * 5, {})
