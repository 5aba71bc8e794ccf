"""Interleavings of the hand-over; see `cachenode.node.handover`."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node import handover as handover_module
from cachenode.node.handover import HANDOVER_S, WINDOW_S
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.ring import Ring
from cachenode_api.selectors import SelectorKind, make_selector
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import (
    DirectPeers,
    HeldL2,
    drop,
    fetch,
    new_node,
    owned_by,
    put,
    run,
    version_of,
    view_of,
)
from tests.support.eventually import eventually

BOTH = view_of(2, "a", "b")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "_ASK_AGAIN_S", 0.001)


class HeldPeers(DirectPeers):
    """Peers whose hand-overs wait at a gate."""

    def __init__(self, *, settles: bool = True) -> None:
        super().__init__(settles=settles)
        self.gate = asyncio.Event()
        self.gate.set()
        self.held: list[Batch] = []
        self.offers = 0

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        self.offers += batch.operation is Operation.OFFER
        if batch.operation is Operation.HAND_OVER:
            self.held.append(batch)
            await self.gate.wait()
        return await super().forward(owner, batch)


class Pair:
    """A node with an entry for each of some keys that `b` owns under `BOTH`, alone until `join`."""

    def __init__(self, *, l2: bool = False, settles: bool = True, count: int = 1) -> None:
        self.clock = ManualClock(100.0)
        self.peers = HeldPeers(settles=settles)
        self.l2 = HeldL2(MemoryL2(self.clock)) if l2 else None
        self.a = new_node("a", self.clock, peers=self.peers, l2=self.l2)
        self.keys = owned_by(BOTH, "b", count)
        self.key = self.keys[0]

    async def fill(self) -> None:
        for key in self.keys:
            await put(self.a, key, b"old", ttl_ms=60_000)

    def join(self) -> Node:
        """Let b be a member, first in its own eyes, then in a's."""
        self.b = new_node("b", self.clock, peers=self.peers, l2=self.l2, view=BOTH)
        self.a.placement.apply(BOTH)
        return self.b

    async def hand_over(self) -> None:
        await hand_over(self.a, self.clock)

    async def begin(self) -> None:
        """Begin a hand-over that is held on its way."""
        self.peers.gate.clear()
        walk(self.a)
        self.a.handover.tick(self.clock.now())
        await eventually(lambda: self.peers.held)

    async def end(self) -> None:
        self.peers.gate.set()
        await ended(self.a)

    def counts(self) -> tuple[int, int, int, int]:
        a, b = self.a.handover, self.b.handover
        return a.sent, a.declined, b.accepted, b.refused


def walk(node: Node) -> None:
    while node.mover.moving:
        node.mover.step(50)


async def ended(node: Node) -> None:
    if node.handover._sending is not None:
        await asyncio.wait([node.handover._sending])


async def never(_view: View) -> None:
    await asyncio.Event().wait()


async def hand_over(node: Node, clock: ManualClock) -> None:
    walk(node)
    node.handover.tick(clock.now())
    await ended(node)


def space(node: Node) -> Namespace:
    found = node.namespaces.get("default")
    assert found is not None
    return found


def in_memory(node: Node, key: bytes) -> bytes | None:
    return space(node).store.peek(key, node.clock.now())


def without_slot(record: bytes | None) -> bytes:
    assert record is not None
    return record[4:]


async def test_joiner_gets_the_entries_as_they_were() -> None:
    """Whoever joins without an L2 finds its keys' values, with their versions, flags, lives and tags; others stay."""
    pair = Pair(count=20)
    await pair.fill()
    mine = owned_by(BOTH, "a")[0]
    await put(pair.a, mine, b"mine")
    before = {key: without_slot(in_memory(pair.a, key)) for key in pair.keys}
    b = pair.join()
    await pair.hand_over()
    assert {key: without_slot(in_memory(b, key)) for key in pair.keys} == before
    assert pair.counts() == (20, 0, 20, 0)
    assert not any(in_memory(pair.a, key) for key in pair.keys)
    assert await fetch(pair.a, mine) == b"mine"
    assert await fetch(pair.a, pair.key) == b"old"


@pytest.mark.parametrize("operation", [Operation.GET, Operation.LEASE])
async def test_moved_key_that_is_read_here(operation: Operation) -> None:
    """A read that comes to the former owner before the walk does finds nothing there, and takes nothing from it."""
    pair = Pair(count=3)
    await pair.fill()
    b = pair.join()
    await asyncio.wait_for(run(pair.a, Batch(operation, "default", [pair.key], lease_s=0.01)), 5)
    await pair.hand_over()
    assert all(in_memory(b, key) for key in pair.keys)


async def test_who_leaves_hands_over_to_all_that_stay() -> None:
    """A node that has resigned hands over by its peers' next view, which leaves it out."""
    clock, peers = ManualClock(), DirectPeers()
    three, two = view_of(1, "a", "b", "c"), view_of(2, "b", "c")
    a, b, c = (new_node(name, clock, peers=peers, view=three) for name in "abc")
    keys = owned_by(three, "a", 40)
    for key in keys:
        await put(a, key, b"v")
    a.placement.resign()
    for node in (b, c):
        node.placement.apply(two)
    a.placement.peer_view(two)
    await a.handover.leave()
    assert (a.handover.sent, b.handover.accepted + c.handover.accepted) == (40, 40)
    heirs = {"b": b, "c": c}
    assert all(in_memory(heirs[Ring(two).owner(key) or ""], key) for key in keys)


async def test_last_node_gets_everything() -> None:
    """Of two nodes one leaves: the other, alone from then on, has what both had."""
    clock, peers = ManualClock(), DirectPeers()
    both = view_of(1, "a", "b")
    a, b = (new_node(name, clock, peers=peers, view=both) for name in "ab")
    keys = owned_by(both, "a", 10)
    for key in keys:
        await put(a, key, b"v")
    a.placement.resign()
    b.placement.apply(view_of(2, "b"))
    a.placement.peer_view(view_of(2, "b"))
    await a.handover.leave()
    assert [await fetch(b, key) for key in keys] == [b"v"] * 10


async def test_who_only_loses_keys_remembers_nothing() -> None:
    """Whoever gains nothing with a view need not remember what it touches."""
    pair = Pair()
    b = pair.join()
    assert (space(pair.a).gains.open, space(b).gains.open) == (False, True)


async def test_who_leaves_hands_over_by_no_other_view() -> None:
    """A view after the next one may have moved keys twice; an old one, or one with this node in it, says nothing."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    pair.a.placement.peer_view(view_of(3, "b"))
    assert pair.a.placement.successors is None, "not before it has resigned"
    pair.a.placement.resign()
    pair.a.placement.peer_view(view_of(2, "b"))
    pair.a.placement.peer_view(view_of(3, "a", "b", "c"))
    pair.a.placement.peer_view(view_of(4, "b"))
    await pair.a.handover.leave()
    assert (pair.a.placement.successors, b.handover.accepted) == (None, 0)


async def test_who_leaves_last_does_not_wait() -> None:
    """Where all others have left too, or there are none, there is nobody to hand over to."""
    pair = Pair()
    await pair.fill()
    pair.join()
    pair.a.placement.resign()
    leaving = asyncio.create_task(pair.a.handover.leave())
    await asyncio.sleep(0)
    assert not leaving.done()
    pair.a.placement.peer_left(pair.b.placement.me)
    await leaving
    lone = new_node("l", pair.clock)
    lone.placement.resign()
    await lone.handover.leave()
    assert pair.a.handover.sent == 0


async def test_unsettled_node_leaves_without_a_hand_over() -> None:
    """Whose gained keys are not settled does not give its lease back, so there is no view for its hand-over."""
    clock, peers = ManualClock(), DirectPeers(settles=False)
    a = new_node("a", clock, peers=peers, view=view_of(1, "a", "b"))
    assert a.placement.unsettled
    a.placement.resign()
    a.placement.peer_view(view_of(2, "b"))
    await a.handover.leave()
    assert a.handover.sent == 0


@pytest.mark.parametrize("remove", [Operation.DELETE, Operation.INVALIDATE])
async def test_removed_key_does_not_come_back(remove: Operation) -> None:
    """The new owner removes the key while the entry is on its way: it is refused."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    await run(b, Batch(remove, "default", [pair.key]))
    await pair.end()
    assert await fetch(b, pair.key) is None
    assert pair.counts() == (1, 1, 0, 1)


async def test_written_and_evicted_key_does_not_come_back() -> None:
    """The new owner writes the key and evicts it again: nothing in memory says so, and the entry is refused."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    await put(b, pair.key, b"new")
    assert space(b).store.evict() == pair.key
    await pair.end()
    assert await fetch(b, pair.key) is None


async def test_newer_entry_stays() -> None:
    """What the new owner has written stays when the older entry comes."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    await put(b, pair.key, b"new")
    await pair.end()
    assert await fetch(b, pair.key) == b"new"


async def test_key_with_a_write_under_way_is_not_handed_over() -> None:
    """L2 may have a newer value than memory: the write at the former owner has not ended, or ended after the view."""
    for late in (False, True):
        pair = Pair(l2=True)
        await pair.fill()
        assert pair.l2 is not None
        pair.l2.gate.clear()
        writing = asyncio.create_task(put(pair.a, pair.key, b"new"))
        await pair.l2.held.wait()
        pair.join()
        if late:
            pair.l2.gate.set()
            assert (await writing).failures[0].reason is Reason.NOT_OWNER
        await pair.hand_over()
        pair.l2.gate.set()
        await writing
        assert pair.counts() == (0, 0, 0, 0)
        assert await fetch(pair.b, pair.key) == b"new"


async def test_key_with_a_removal_under_way_is_not_handed_over() -> None:
    """A removal at the former owner that waits for L2 has begun: the entry is not sent, now or later."""
    pair = Pair(l2=True)
    await pair.fill()
    assert pair.l2 is not None
    pair.l2.gate.clear()
    removing = asyncio.create_task(drop(pair.a, pair.key))
    await pair.l2.held.wait()
    pair.join()
    await pair.hand_over()
    pair.l2.gate.set()
    await removing
    assert pair.counts() == (0, 0, 0, 0)
    assert await fetch(pair.b, pair.key) is None


async def test_removed_lately_is_not_handed_over() -> None:
    """What a tombstone of the former owner covers is not sent."""
    pair = Pair()
    await pair.fill()
    space(pair.a).tombstones.note(pair.key, version_of(in_memory(pair.a, pair.key) or b""), pair.clock.now())
    pair.join()
    await pair.hand_over()
    assert pair.counts() == (0, 0, 0, 0)


def bar(node: Node, position: int, prefix: bytes = b"k") -> None:
    node.barriers.note(space(node), position, make_selector(SelectorKind.PREFIX, prefix))


async def test_barrier_at_the_new_owner_covers_what_was_taken_before() -> None:
    """A barrier comes to the new owner, then an entry that was taken out of memory before it."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    bar(b, 9 << 40)
    await pair.end()
    assert in_memory(b, pair.key) is None
    assert pair.counts() == (1, 1, 0, 1)


async def test_barrier_at_the_former_owner_stops_what_waits() -> None:
    """A barrier comes to the former owner before it has sent: it sends nothing; what only waits to be swept neither."""
    pair = Pair()
    await pair.fill()
    pair.join()
    walk(pair.a)
    bar(pair.a, 9 << 40)
    await pair.hand_over()
    assert pair.counts() == (0, 0, 0, 0)
    other = Pair()
    await other.fill()
    bar(other.a, 9 << 40)
    assert space(other.a).sweep.active
    other.join()
    await other.hand_over()
    assert other.counts() == (0, 0, 0, 0)


async def test_barrier_after_the_hand_over() -> None:
    """A barrier that comes to the new owner after the entry makes it untrue as any other."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.hand_over()
    assert in_memory(b, pair.key)
    bar(b, 9 << 40)
    assert await fetch(b, pair.key) is None


async def test_entry_for_another_view_is_refused() -> None:
    """The new owner has a newer view, though it still owns the key: others may have owned it in between."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    b.placement.apply(view_of(3, "a", "b", "c"))
    b.placement.apply(view_of(4, "a", "b"))
    await pair.end()
    assert await fetch(b, pair.key) is None
    assert (pair.a.handover.sent, b.handover.refused) == (0, 1)


async def test_offer_for_an_older_view_is_declined() -> None:
    """A new owner that has a newer view says so at once, and nothing is sent."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    b.placement.apply(view_of(3, "a", "b", "c"))
    await pair.hand_over()
    assert (pair.peers.held, b.handover.refused) == ([], 0)


async def test_next_view_ends_the_hand_over() -> None:
    """When the former owner has another view, what waits for the one before is not sent any more, nor taken."""
    pair = Pair()
    await pair.fill()
    pair.join()
    await pair.begin()
    sending = pair.a.handover._sending
    assert sending is not None
    pair.a.placement.apply(view_of(3, "a", "b", "c"))
    pair.peers.gate.set()
    await asyncio.wait([sending])
    await pair.hand_over()
    assert sending.cancelled()
    assert pair.counts() == (0, 0, 0, 0)


async def test_offer_waits_for_the_new_owner() -> None:
    """A new owner that has not heard of the view yet, or has no link yet, gets the entries when it has."""
    pair = Pair()
    await pair.fill()
    both = view_of(2, "a", "c")
    keys = owned_by(both, "c", 5)
    for key in keys:
        await put(pair.a, key, b"v")
    pair.a.placement.apply(both)
    walk(pair.a)
    pair.a.handover.tick(pair.clock.now())
    await eventually(lambda: pair.peers.offers > 1)
    c = new_node("c", pair.clock, peers=pair.peers, view=view_of(1, "a"))
    await eventually(lambda: pair.peers.offers > 2)
    assert pair.peers.held == []
    c.placement.apply(both)
    await ended(pair.a)
    assert [await fetch(c, key) for key in keys] == [b"v"] * 5


async def test_new_owner_walks_its_own_memory_first() -> None:
    """While a new owner still drops what it lost, nothing is sent: it could not tell new from old."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    b.mover.moving = True
    walk(pair.a)
    pair.a.handover.tick(pair.clock.now())
    await eventually(lambda: pair.peers.offers == 1)
    assert pair.peers.held == []
    b.mover.moving = False
    await ended(pair.a)
    assert pair.counts() == (1, 0, 1, 0)


async def test_only_what_left_with_the_newest_view_is_offered() -> None:
    """A key that left with an earlier view is dropped as it is: its owner in between may have written it."""
    pair = Pair(count=5)
    await pair.fill()
    b = pair.join()
    third = view_of(3, "b")
    pair.a.placement.apply(third)
    b.placement.apply(third)
    await pair.hand_over()
    assert pair.a.handover.sent == 0


async def test_fenced_node_hands_nothing_over() -> None:
    """Whose ownership lease is over sends nothing: not what it takes out of memory, not what waits, not on leaving."""
    early = Pair()
    await early.fill()
    early.join()
    early.a.placement.set_lease(early.clock.now())
    await early.hand_over()
    assert early.counts() == (0, 0, 0, 0)
    late = Pair()
    await late.fill()
    late.join()
    walk(late.a)
    late.a.placement.set_lease(late.clock.now())
    await late.hand_over()
    assert late.counts() == (0, 0, 0, 0)
    leaving = Pair()
    await leaving.fill()
    leaving.join()
    leaving.a.placement.set_lease(leaving.clock.now())
    leaving.a.placement.resign()
    leaving.a.placement.peer_view(view_of(3, "b"))
    await leaving.a.handover.leave()
    assert leaving.counts() == (0, 0, 0, 0)


async def test_fenced_owner_takes_nothing() -> None:
    """A new owner without a lease may be out of the view: it takes nothing."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    b.placement.set_lease(pair.clock.now())
    await pair.end()
    assert in_memory(b, pair.key) is None


async def test_answered_from_l2_is_not_overtaken() -> None:
    """What an unsettled owner answers from L2 may be newer than the entry that comes, so that is not taken."""
    pair = Pair(l2=True, settles=False)
    await pair.fill()
    pair.a.placement.releasing.append(never)
    b = pair.join()
    assert b.placement.unsettled
    await pair.begin()
    assert await fetch(b, pair.key) == b"old"
    await pair.end()
    assert in_memory(b, pair.key) is None
    assert pair.counts() == (1, 1, 0, 1)


async def test_unsettled_owner_serves_what_it_was_given() -> None:
    """Before the others' word a new owner already answers from what it was handed; a write still waits for them."""
    pair = Pair(settles=False)
    await pair.fill()
    pair.a.placement.releasing.append(never)
    b = pair.join()
    assert b.placement.unsettled
    await pair.hand_over()
    assert await fetch(b, pair.key) == b"old"
    writing = asyncio.create_task(put(b, pair.key, b"new"))
    await asyncio.sleep(0)
    assert not writing.done()
    b.placement.peer_settled("a", "1", 2)
    await writing
    assert await fetch(b, pair.key) == b"new"


async def test_key_that_is_being_filled_is_not_taken() -> None:
    """While the new owner reads the key from L2 to keep it, it takes nothing else for it."""
    pair = Pair(l2=True)
    await pair.fill()
    assert pair.l2 is not None
    b = pair.join()
    await pair.begin()
    pair.l2.gate.clear()
    reading = asyncio.create_task(fetch(b, pair.key))
    await pair.l2.held.wait()
    await pair.end()
    assert in_memory(b, pair.key) is None
    pair.l2.gate.set()
    assert await reading == b"old"
    assert pair.counts() == (1, 1, 0, 1)


async def test_key_that_is_being_written_is_not_taken() -> None:
    """While a write of the new owner waits for L2, the older entry does not appear in memory."""
    pair = Pair(l2=True)
    await pair.fill()
    assert pair.l2 is not None
    b = pair.join()
    await pair.begin()
    pair.l2.gate.clear()
    writing = asyncio.create_task(put(b, pair.key, b"new"))
    await pair.l2.held.wait()
    await pair.end()
    assert in_memory(b, pair.key) is None
    pair.l2.gate.set()
    await writing
    assert await fetch(b, pair.key) == b"new"


async def test_time_on_the_way_counts() -> None:
    """An entry that waits for seconds on its way ends when it would have ended where it was; some end before."""
    pair = Pair()
    await put(pair.a, pair.key, b"old", ttl_ms=3_000)
    b = pair.join()
    await pair.begin()
    pair.clock.advance(2.0)
    await pair.end()
    assert await fetch(b, pair.key) == b"old"
    pair.clock.advance(1.0)
    assert await fetch(b, pair.key) is None
    short = Pair()
    await put(short.a, short.key, b"old", ttl_ms=1_000)
    short.join()
    await short.begin()
    short.clock.advance(1.0)
    await short.end()
    assert short.counts() == (1, 1, 0, 1)


async def test_window_closes() -> None:
    """What comes later than the new owner remembers what it has done is refused; the former one gives up before."""
    assert HANDOVER_S < WINDOW_S
    pair = Pair()
    await pair.fill()
    b = pair.join()
    await pair.begin()
    pair.clock.advance(WINDOW_S)
    await pair.end()
    b.handover.tick(pair.clock.now())
    assert (in_memory(b, pair.key), space(b).gains.open) == (None, False)
    late = Pair()
    await late.fill()
    late.join()
    late.clock.advance(HANDOVER_S)
    await late.hand_over()
    assert (late.peers.held, late.counts()) == ([], (0, 0, 0, 0))


async def test_key_that_was_not_gained_is_refused() -> None:
    """What a node has owned before nobody can hand it, whoever believes so."""
    pair = Pair()
    await pair.fill()
    b = pair.join()
    b.placement.former_ring = Ring(view_of(1, "b"))
    await pair.hand_over()
    assert pair.counts() == (1, 1, 0, 1)


async def test_lost_link_ends_the_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the new owner is lost the rest is not sent."""
    monkeypatch.setattr(handover_module, "_BATCH_ENTRIES", 2)
    pair = Pair(count=6)
    await pair.fill()
    b = pair.join()
    await pair.begin()
    pair.peers.cut.add("b")
    await pair.end()
    assert (len(pair.peers.held), b.handover.accepted) == (1, 0)


async def test_slices_are_small_and_namespaces_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries travel in small batches of one namespace each, the hottest first."""
    monkeypatch.setattr(handover_module, "_BATCH_BYTES", 1_000)
    pair = Pair(count=8)
    await pair.fill()
    for key in pair.keys:
        await put(pair.a, key, b"s" * 400, namespace="side")
    hot = pair.keys[5]
    for _ in range(3):
        await fetch(pair.a, hot)
    b = pair.join()
    await pair.hand_over()
    assert len(pair.peers.held) > 4
    assert {batch.namespace for batch in pair.peers.held} == {"default", "side"}
    assert pair.peers.held[0].keys[0] == hot
    assert b.handover.accepted == 16
    assert await fetch(b, hot, namespace="side") == b"s" * 400


async def test_switched_off() -> None:
    """With a limit of 0 nothing is handed over, and nothing is taken."""
    clock, peers = ManualClock(), HeldPeers()
    a = new_node("a", clock, peers=peers, handover_bytes=0)
    keys = owned_by(BOTH, "b", 3)
    for key in keys:
        await put(a, key, b"v")
    b = new_node("b", clock, peers=peers, view=BOTH, handover_bytes=0)
    a.placement.apply(BOTH)
    await hand_over(a, clock)
    assert (a.handover.sent, peers.held, space(b).gains.open) == (0, [], False)
    a.placement.resign()
    a.placement.peer_view(view_of(3, "b"))
    await a.handover.leave()
    assert a.handover.sent == 0


async def test_only_peers_may_hand_over() -> None:
    """A client that hands over, or offers, is refused."""
    pair = Pair()
    b = pair.join()
    for batch in (
        Batch(Operation.OFFER, "default", [b"offer"], epoch=2),
        Batch(Operation.HAND_OVER, "default", [pair.key], [b"x"], [0], [1_000], tokens=[1], epoch=2, since_s=100.0),
    ):
        result = await run(b, batch)
        assert result.failures[0].reason is Reason.INVALID_REQUEST
    assert in_memory(b, pair.key) is None


async def test_stopped_hand_over_sends_nothing_more() -> None:
    """A node that stops ends what is under way."""
    pair = Pair()
    await pair.fill()
    pair.join()
    await pair.begin()
    sending = pair.a.handover._sending
    pair.a.handover.stop()
    assert sending is not None
    await asyncio.wait([sending])
    assert (sending.cancelled(), pair.a.handover._sending) == (True, None)


async def test_longest_life_goes_with_the_entry() -> None:
    """However often it is read, and whoever its owner is: also after some time on its way."""
    clock, peers = ManualClock(100.0), HeldPeers()
    policy = NamespacePolicy(
        name="n", ttl_s=10.0, max_value_bytes=100, sliding=True, max_life_s=30.0, l2=False, share=1.0
    )
    a = new_node("a", clock, peers=peers, policies=[policy])
    key = owned_by(BOTH, "b", 1)[0]
    await put(a, key, b"v", namespace="n")
    for _ in range(3):
        clock.advance(7.0)
        assert await fetch(a, key, namespace="n") == b"v"
    b = new_node("b", clock, peers=peers, view=BOTH, policies=[policy])
    a.placement.apply(BOTH)
    peers.gate.clear()
    walk(a)
    a.handover.tick(clock.now())
    await eventually(lambda: peers.held)
    clock.advance(1.0)
    peers.gate.set()
    await ended(a)
    assert b.handover.accepted == 1
    clock.advance(5.0)
    assert await fetch(b, key, namespace="n") == b"v"
    clock.advance(2.9)
    assert await fetch(b, key, namespace="n") == b"v"
    clock.advance(0.2)
    assert await fetch(b, key, namespace="n") is None
