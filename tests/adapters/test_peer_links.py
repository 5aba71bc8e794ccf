"""Links over real gRPC on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio
from structlog.testing import capture_logs

from cachenode.adapters import peer_links as peer_links_module
from cachenode.adapters.link import Link
from cachenode.adapters.peer_links import PeerLinks
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.errors import PeerUnavailable
from cachenode.node.service import Node
from cachenode.rpc.peer import PeerService
from cachenode.wire import member_to_wire, view_to_wire
from cachenode_api.reasons import Reason
from cachenode_api.v1 import peer_pb2, peer_pb2_grpc
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.cluster import SEED, fetch, new_node, owned_by, put, run, view_of
from tests.support.eventually import eventually

BEAT_S = 0.02


class Peer:
    """A node with real links: a listener, links, and what they told."""

    def __init__(self, name: str, *, incarnation: str = "1", cluster: str = "c") -> None:
        self.name = name
        self.incarnation = incarnation
        self.cluster = cluster
        self.clock = ManualClock()
        self.events: list[str] = []
        self.views: list[int] = []
        self.words: list[tuple[str, int]] = []
        self.answers: list[tuple[str, float]] = []

    async def start(self, address: str = "127.0.0.1:0") -> Peer:
        self.server = aio.server(options=[("grpc.so_reuseport", 0)])
        port = self.server.add_insecure_port(address)
        self.me = Member(self.name, self.incarnation, f"127.0.0.1:{port}")
        self.node: Node = new_node(self.name, self.clock)
        self.links = PeerLinks(
            me=self.me,
            cluster=self.cluster,
            clock=self.clock,
            execute=lambda batch, reply: self.node.execute(batch, reply, from_peer=True),
            heartbeat_s=BEAT_S,
        )
        self.node._peers = self.links
        self.links.events = self
        self.placement = self.node.placement
        self.placement.me, self.placement.view, self.placement.ready = self.me, None, False
        self.placement.listeners.append(self.links.view_changed)
        self.placement.release_listeners.append(self.links.epoch_settled)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(self.links), self.server)
        await self.server.start()
        self.links.start()
        return self

    async def stop(self) -> None:
        await self.links.stop()
        await self.server.stop(0.2)

    async def vanish(self) -> None:
        """End without a word."""
        self.links._beating.cancel()
        for task in self.links._dialers.values():
            task.cancel()
        await self.server.stop(0)

    def linked(self) -> list[str]:
        return sorted(peer.id for peer in self.links.linked())

    def peer_up(self, peer: Member) -> None:
        self.events.append(f"up {peer.id}")

    def peer_down(self, peer: Member) -> None:
        self.events.append(f"down {peer.id}")

    def peer_view(self, peer: Member, view: View) -> None:
        self.views.append(view.epoch)

    def peer_alive(self, peer: Member, sent_at: float) -> None:
        self.answers.append((peer.id, sent_at))

    def peer_settled(self, peer: Member, epoch: int) -> None:
        self.words.append((peer.id, epoch))

    def peer_leaving(self, peer: Member) -> None:
        self.events.append(f"leaving {peer.id}")


@pytest.fixture
async def start() -> AsyncIterator[Any]:
    """Starts peers, and stops them after the test."""
    peers: list[Peer] = []

    async def started(name: str, address: str = "127.0.0.1:0", **options: Any) -> Peer:
        peer = await Peer(name, **options).start(address)
        peers.append(peer)
        return peer

    yield started
    for peer in peers:
        await peer.stop()


def view_with(epoch: int, *peers: Peer) -> View:
    return View(epoch, SEED, tuple(peer.me for peer in peers))


async def join(epoch: int, *peers: Peer) -> View:
    """Put a view of all in force everywhere, after one of each alone, and wait for the links."""
    for peer in peers:
        peer.placement.view = peer.placement.view or view_with(0, peer)
    view = view_with(epoch, *peers)
    for peer in peers:
        peer.placement.apply(view)
    await eventually(lambda: all(len(peer.linked()) == len(peers) - 1 for peer in peers))
    return view


def links_of(peer: Peer, other: Peer) -> list[Any]:
    link = peer.links._links.get(other.name)
    return [link] if link is not None and not link.closed else []


async def test_one_link_per_pair_dialled_by_the_smaller(start: Any) -> None:
    """Members of a view are linked pair by pair, and the member with the smaller id dials."""
    a, b, c = [await start(name) for name in "abc"]
    await join(1, a, b, c)
    assert [links_of(a, b)[0].dialled, links_of(b, a)[0].dialled] == [True, False]
    assert [links_of(b, c)[0].dialled, links_of(c, b)[0].dialled] == [True, False]
    assert sorted(a.events) == ["up b", "up c"]
    assert (len(a.links._dialers), len(c.links._dialers)) == (2, 0)


async def test_newcomer_dials_members_that_do_not_know_it(start: Any) -> None:
    """Who is in a view for the first time is linked before the others have heard of it, whatever its id."""
    a, b = await start("a"), await start("b")
    a.placement.apply(view_with(1, a))
    b.placement.apply(view_with(2, a, b))
    await eventually(lambda: a.linked() == ["b"] and b.linked() == ["a"])
    assert a.links._links["b"].dialled is False
    await join(3, a, b)
    b.placement.apply(view_with(4, a, b))
    assert set(b.links._dialers) == {a.me.address}
    assert (a.events, b.events) == (["up b"], ["up a"])
    b.placement.apply(view_with(5, b))
    assert b.links._dialers == {}


async def test_link_to_a_member_that_leaves_stays_for_its_hand_over(start: Any) -> None:
    """Who has said that it leaves is not cut off by the view without it, and is not dialled again when it ends."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    await b.links.say_leaving()
    await eventually(lambda: "leaving b" in a.events)
    a.placement.apply(view_with(2, a))
    assert a.links._dialers == {}
    await b.links.forward("a", Batch(Operation.GET, "default", [b"k"]))
    await b.links.stop()
    await eventually(lambda: not a.links._leaving)
    assert a.events == ["up b", "leaving b", "down b"]


async def test_link_to_a_member_that_left_does_not_stay_for_long(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has said that it leaves, and then does not, is cut off."""
    monkeypatch.setattr(peer_links_module, "_LINGER_S", 0.0)
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    await b.links.say_leaving()
    await eventually(lambda: "leaving b" in a.events)
    a.placement.apply(view_with(2, a))
    await eventually(lambda: not a.links._leaving)
    await eventually(lambda: "down b" in a.events)


async def test_link_to_a_member_that_vanished_does_not_stay(start: Any) -> None:
    """Who has said nothing is cut off by the view without it."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    a.placement.apply(view_with(2, a))
    assert a.links._parted == set()
    await eventually(lambda: "down b" in a.events)


async def test_forward_reaches_the_owner_once(start: Any) -> None:
    """A key of another member is set and read there over the link, and is not sent on from there."""
    a, b = await start("a"), await start("b")
    view = await join(1, a, b)
    (key,) = owned_by(view, "b")
    stored = await put(a.node, key, b"v")
    assert stored.versions[0] > 0
    assert (await fetch(a.node, key), await fetch(b.node, key)) == (b"v", b"v")
    assert len(b.node.namespaces.get("default").store) == 1
    assert (a.node.forwarded, b.node.forwarded) == (2, 0)


async def test_peers_request_is_never_sent_on(start: Any) -> None:
    """A peer that is asked for a key of a third member says so instead of asking it."""
    a, b, c = [await start(name) for name in "abc"]
    view = await join(1, a, b, c)
    (key,) = owned_by(view, "c")
    result = await a.links.forward("b", Batch(Operation.GET, "default", [key]))
    assert result.failures[0].reason is Reason.NOT_OWNER
    assert b.node.forwarded == 0


async def test_without_a_link_nothing_was_sent(start: Any) -> None:
    """Forwarding to a peer that is not linked fails at once, and says that nothing left."""
    a = await start("a")
    with pytest.raises(PeerUnavailable) as failed:
        await a.links.forward("b", Batch(Operation.GET, "default", [b"k"]))
    assert not failed.value.sent


async def test_views_are_passed_on(start: Any) -> None:
    """A view that comes in force at one member is told to the peers, and to those who are linked later."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    a.placement.apply(view_with(5, a, b))
    await eventually(lambda: 5 in b.views)
    c = await start("c")
    c.links.set_seeds([a.me.address])
    await eventually(lambda: 5 in c.views)


async def test_settled_epochs_are_passed_on(start: Any) -> None:
    """That nothing is left from before a view is told to the peers, and to those who are linked later."""
    a, b = await start("a"), await start("b")
    await join(5, a, b)
    await eventually(lambda: ("a", 5) in b.words and ("b", 5) in a.words)
    a.links.epoch_settled(6)
    await eventually(lambda: ("a", 6) in b.words)
    c = await start("c")
    c.links.set_seeds([a.me.address])
    await eventually(lambda: ("a", 6) in c.words)


async def test_first_heartbeat_is_answered_without_waiting(start: Any) -> None:
    """A new link has its first heartbeat answered at once, in both directions: a lease may rest on it."""
    a, b = await start("a"), await start("b")
    a.links._beating.cancel()
    b.links._beating.cancel()
    await join(1, a, b)
    await eventually(lambda: a.answers and b.answers)
    assert a.answers == [("b", a.clock.now())]
    assert b.answers == [("a", b.clock.now())]


async def test_farewell_before_the_end(start: Any) -> None:
    """Peers can be told that the node leaves while the links go on."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    await a.links.say_leaving()
    await eventually(lambda: b.events == ["up a", "leaving a"])
    assert a.linked() == ["b"]


async def test_another_cluster_is_refused(start: Any) -> None:
    """Nodes of different clusters do not link, whatever their seeds say."""
    a, b = await start("a"), await start("b", cluster="other")
    accepted = asyncio.Event()
    accept = b.links.accept

    async def spy(frames: Any, context: Any) -> None:
        await accept(frames, context)
        accepted.set()

    b.links.accept = spy
    a.links.set_seeds([b.me.address])
    await asyncio.wait_for(accepted.wait(), 10)
    assert (a.linked(), b.linked(), a.events, b.events) == ([], [], [], [])
    assert a.links.unanswered_seeds() == {b.me.address}


async def test_twin_is_refused(start: Any) -> None:
    """Another process with this node's id is not taken for a peer, and the log says where it is. Scenario 31."""
    a, twin = await start("a"), await start("a", incarnation="2")
    with capture_logs() as logs:
        a.links.set_seeds([twin.me.address])
        await eventually(lambda: any(line["event"] == "twin_refused" for line in logs))
    assert (a.linked(), twin.linked()) == ([], [])


async def test_own_address_among_the_seeds_is_forgotten(start: Any) -> None:
    """A node that dials itself under another name notices, and does not dial there again."""
    a = await start("a")
    other_name = a.me.address.replace("127.0.0.1", "localhost")
    a.links.set_seeds([a.me.address, other_name])
    assert set(a.links._dialers) == {other_name}
    await eventually(lambda: a.me.address in a.links._own_addresses and not a.linked())
    assert a.events == []


async def test_members_of_a_view_that_a_seed_tells_are_dialled(start: Any) -> None:
    """Whose one seed tells a view without it meets the others of that view too, and no more once it has a newer one.

    Scenario 32.
    """
    a, b, c = [await start(name) for name in "abc"]
    gone = Member("d", "1", "127.0.0.1:1")
    for peer in (a, b):
        peer.placement.apply(View(1, SEED, (a.me, b.me, gone)))
    await eventually(lambda: (a.linked(), b.linked()) == (["b"], ["a"]))
    c.links.set_seeds([b.me.address])
    await eventually(lambda: (a.linked(), c.linked()) == (["b", "c"], ["a", "b"]))
    assert gone.address in c.links._dialers
    for peer in (a, b, c):
        peer.placement.apply(view_with(2, a, b, c))
    assert gone.address not in c.links._dialers
    assert (a.linked(), b.linked(), c.linked()) == (["b", "c"], ["a", "c"], ["a", "b"])


async def test_two_links_between_a_pair_end_as_one(start: Any) -> None:
    """Both dial each other, as seeds make them do: one link stays, the one that the smaller id dialled."""
    a, b = await start("a"), await start("b")
    a.links.set_seeds([b.me.address])
    b.links.set_seeds([a.me.address])

    def settled() -> bool:
        mine, theirs = links_of(a, b), links_of(b, a)
        return bool(mine and theirs) and mine[0].dialled and not theirs[0].dialled

    await eventually(settled)
    result = await a.links.forward("b", Batch(Operation.GET, "default", [b"k"]))
    assert result.failures[0].reason is Reason.NOT_READY
    assert (a.linked(), b.linked()) == (["b"], ["a"])
    assert (a.links.unanswered_seeds(), b.links.unanswered_seeds()) == (set(), set())


@pytest.mark.parametrize("ends", ["view", "stop"])
async def test_what_is_under_way_is_answered(start: Any, ends: str) -> None:
    """A node that leaves the view, or stops, answers what it was asked before; then the link ends."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    asked, go = asyncio.Event(), asyncio.Event()

    async def answer(batch: Batch, reply: Any) -> None:
        asked.set()
        await go.wait()
        reply(BatchResult(records=[b"late"], now_s=1.0))

    b.links.execute = answer
    asking = asyncio.create_task(a.links.forward("b", Batch(Operation.GET, "default", [b"k"])))
    await asked.wait()
    if ends == "view":
        a.placement.apply(View(2, SEED, (a.me,)))
        stopping = None
    else:
        stopping = asyncio.create_task(b.links.stop())
    await asyncio.sleep(0)
    go.set()
    assert (await asking).records == [b"late"]
    await eventually(lambda: a.linked() == [])
    if stopping is not None:
        await stopping


async def test_lesser_link_is_closed_when_the_better_comes() -> None:
    """Whichever of two links comes first, the one that the smaller id dialled stays open, and the other ends."""
    me, peer = Member("a", "1", "a:1"), Member("b", "1", "b:1")
    links = PeerLinks(me=me, cluster="c", clock=ManualClock(), execute=lambda *_: None)

    async def write(frame: object) -> None:
        del frame

    accepted, dialled, late = (Link(links, write, dialled=mine) for mine in (False, True, False))
    accepted.peer = dialled.peer = late.peer = peer
    assert links.greeted(accepted)
    asked = asyncio.create_task(accepted.request(Batch(Operation.GET, "default", [b"k"])))
    await asyncio.sleep(0)
    assert links.greeted(dialled)
    await asyncio.sleep(0)
    assert not accepted.closed, "something is under way on it"
    asked.cancel()
    await eventually(lambda: accepted.closed)
    assert not links.greeted(late)
    assert not dialled.closed
    assert links.linked() == [peer]


async def test_new_incarnation_takes_the_link_over() -> None:
    """A peer that has restarted gets its link at once, though that of its former life has not ended yet."""
    me = Member("a", "1", "a:1")
    links = PeerLinks(me=me, cluster="c", clock=ManualClock(), execute=lambda *_: None)

    async def write(frame: object) -> None:
        del frame

    former, present = (Link(links, write, dialled=mine) for mine in (True, False))
    former.peer, present.peer = Member("b", "1", "b:1"), Member("b", "2", "b:1")
    assert links.greeted(former)
    assert links.greeted(present)
    assert (former.closed, present.closed) == (True, False)
    assert links.linked() == [present.peer]


async def test_dialler_dials_again_after_a_restart(start: Any) -> None:
    """When the other side comes back at its address under another incarnation, the link does too."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    await b.vanish()
    await eventually(lambda: "down b" in a.events)
    again = await start("b", b.me.address, incarnation="2")
    await eventually(lambda: a.linked() == ["b"])
    assert a.links.linked() == [again.me]
    assert a.events == ["up b", "down b", "up b"]


async def test_requests_under_way_fail_when_the_peer_goes(start: Any) -> None:
    """Whoever waits for a peer that goes away is told, and that the request had left."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    b.node.execute = lambda batch, reply, from_peer: hang()
    waiting = asyncio.create_task(a.links.forward("b", Batch(Operation.GET, "default", [b"k"])))
    await asyncio.wait_for(asked.wait(), 10)
    await b.vanish()
    with pytest.raises(PeerUnavailable) as lost:
        await asyncio.wait_for(waiting, 10)
    assert lost.value.sent


async def test_silent_peer_is_dropped(start: Any) -> None:
    """A peer from which nothing comes is given up after two seconds of the clock, and the log says which."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    never = asyncio.Event()

    async def frozen(frame: object) -> None:
        await never.wait()

    def down_some_time_later() -> bool:
        a.clock.advance(0.5)  # again and again: what was on the way may come after the first
        return "down b" in a.events

    b.links._links["a"]._outbox._write = frozen

    with capture_logs() as logs:
        await eventually(down_some_time_later)
    assert [line["peer"] for line in logs if line["event"] == "peer_silent"] == ["b"]


async def test_silences_of_the_other_members(start: Any) -> None:
    """For each other member of the view the time since it was heard from is known, negative if it never was."""
    a, b = await start("a"), await start("b")
    assert a.links.silences() == {}
    c = Member("c", "1", "127.0.0.1:1")
    a.placement.apply(View(1, SEED, (a.me, b.me, c)))
    b.placement.apply(View(1, SEED, (a.me, b.me)))
    await eventually(lambda: a.links.silences() == {"b": 0.0, "c": -1.0})
    await b.vanish()
    await eventually(lambda: "down b" in a.events)
    a.clock.advance(7.0)
    assert a.links.silences() == {"b": 7.0, "c": -1.0}


async def test_stop_ends_all_tasks(start: Any) -> None:
    """When the links end, no dialling or heartbeat is left behind."""
    a, b = await start("a"), await start("b")
    unreachable = "127.0.0.1:1"
    a.links.set_seeds([unreachable])
    await join(1, a, b)
    tasks = [*a.links._dialers.values(), a.links._beating]
    assert len(tasks) == 3
    await asyncio.wait_for(a.links.stop(), 10)
    await eventually(lambda: b.events == ["up a", "down a"])
    await eventually(lambda: all(task.done() for task in tasks))
    assert a.linked() == []


async def test_stop_before_start_and_twice() -> None:
    """Links that were never started can be stopped, more than once."""
    links = PeerLinks(me=Member("a", "1", "a:1"), cluster="c", clock=ManualClock(), execute=lambda *_: None)
    await links.stop()
    await links.stop()


async def test_departed_member_is_not_dialled(start: Any) -> None:
    """A member that a new view leaves out is no longer dialled."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    a.placement.apply(view_with(2, a))
    assert a.links._dialers == {}
    assert a.links.silences() == {}
    await eventually(lambda: a.linked() == [])


async def test_peer_that_breaks_the_contract_is_dialled_again(start: Any) -> None:
    """A peer whose view this node cannot use costs the link, never the dialling."""
    a = await start("a")
    calls = 0
    view = view_to_wire(view_of(1, "z"))
    view.ring_hash = "other"

    class Broken(peer_pb2_grpc.PeerServiceServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
            nonlocal calls
            calls += 1
            hello = peer_pb2.PeerHello(member=member_to_wire(Member("z", "1", "z:1")), cluster="c")
            await context.write(peer_pb2.PeerFrame(hello=hello, view=view))
            async for _ in request_iterator:
                pass

    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    peer_pb2_grpc.add_PeerServiceServicer_to_server(Broken(), server)
    await server.start()
    a.links.set_seeds([f"127.0.0.1:{port}"])
    await eventually(lambda: calls >= 2)
    await a.links.stop()
    await server.stop(0.2)


async def test_many_keys_to_several_owners(start: Any) -> None:
    """A batch of keys of all members is answered completely, each key by its owner."""
    a, b, c = [await start(name) for name in "abc"]
    view = await join(1, a, b, c)
    keys = [key for name in "abc" for key in owned_by(view, name, 20)]
    stored = await run(a.node, Batch(Operation.SET, "default", keys, [b"v"] * 60, [0] * 60, [0] * 60))
    assert stored.failures == {}
    assert all(stored.versions)
    for peer in (a, b, c):
        assert len(peer.node.namespaces.get("default").store) == 20
    found = await run(b.node, Batch(Operation.GET, "default", keys))
    assert all(found.records)


async def test_node_that_has_left_is_not_met_again(start: Any) -> None:
    """Its links are closed for good, though it still listens: its peers would count it as live after a while."""
    a, b = await start("a"), await start("b")
    await join(1, a, b)
    await a.links.stop()
    await eventually(lambda: not b.links.linked())
    a.events.clear()
    async with aio.insecure_channel(a.me.address) as channel:
        assert await peer_pb2_grpc.PeerServiceStub(channel).Link().read() is aio.EOF
    assert (a.links.linked(), a.events) == ([], [])
