from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cachenode.adapters.link import SILENCE_S, Link
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.errors import PeerUnavailable
from cachenode.ports import Clock
from cachenode.wire import member_to_wire, view_to_wire
from cachenode_api.reasons import Reason
from cachenode_api.v1 import common_pb2, peer_pb2
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.cluster import member, view_of
from tests.support.eventually import eventually


class Owner:
    """A node as far as a link sees it."""

    def __init__(self, name: str, clock: ManualClock, *, cluster: str = "c", greets: bool = True) -> None:
        self.me = member(name)
        self.cluster = cluster
        self.clock: Clock = clock
        self.view: View | None = None
        self.greets = greets
        self.views: list[tuple[str, int]] = []
        self.parted: list[str] = []
        self.epoch = 0
        self.words: list[tuple[str, int]] = []
        self.answers: list[tuple[str, float]] = []
        self.batches: list[Batch] = []
        self.held: asyncio.Event | None = None
        self.record = b"r"

    def execute(self, batch: Batch, reply: Any) -> Any:
        self.batches.append(batch)
        count = len(batch.keys)
        is_get = batch.operation is Operation.GET
        records, versions = ([self.record] * count, []) if is_get else ([], [5] * count)
        result = BatchResult(records=records, versions=versions, now_s=self.clock.now())
        held = self.held
        if held is None:
            reply(result)
            return None

        async def rest() -> None:
            await held.wait()
            reply(result)

        return rest()

    def present_view(self) -> View | None:
        return self.view

    def greeted(self, link: Link) -> bool:
        return self.greets

    def viewed(self, peer: Member, view: View) -> None:
        self.views.append((peer.id, view.epoch))

    def present_settled(self) -> int:
        return self.epoch

    def settled(self, peer: Member, epoch: int) -> None:
        self.words.append((peer.id, epoch))

    def alive(self, peer: Member, sent_at: float) -> None:
        self.answers.append((peer.id, sent_at))

    def parting(self, peer: Member) -> None:
        self.parted.append(peer.id)


class Wire:
    """One direction of a stream, as bytes; it can be held and cut."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.count = 0
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, frame: peer_pb2.PeerFrame) -> None:
        await self.open.wait()
        self.count += 1
        self.frames.put_nowait(frame.SerializeToString())

    def cut(self) -> None:
        self.frames.put_nowait(None)

    async def read(self) -> AsyncIterator[peer_pb2.PeerFrame]:
        while (data := await self.frames.get()) is not None:
            yield peer_pb2.PeerFrame.FromString(data)


class Pair:
    """Two owners and the link between them."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.a, self.b = Owner("a", self.clock), Owner("b", self.clock, **options)
        self.to_b, self.to_a = Wire(), Wire()
        self.here = Link(self.a, self.to_b.write, dialled=True)
        self.there = Link(self.b, self.to_a.write, dialled=False)
        self.running = [
            asyncio.create_task(self.here.run(self.to_a.read())),
            asyncio.create_task(self.there.run(self.to_b.read())),
        ]

    async def up(self) -> Pair:
        await eventually(lambda: self.here.peer and self.there.peer)
        return self

    async def end(self) -> None:
        self.here.close()
        self.there.close()
        await asyncio.wait(self.running, timeout=5)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = await Pair().up()
    yield made
    await made.end()


def get(*keys: bytes) -> Batch:
    return Batch(Operation.GET, "default", list(keys))


async def test_both_sides_introduce_themselves() -> None:
    """After the first frames each side knows the other, and its view."""
    pair = Pair()
    pair.b.view = view_of(7, "a", "b")
    await pair.up()
    assert pair.here.peer == pair.b.me
    assert pair.there.peer == pair.a.me
    assert pair.a.views == [("b", 7)]
    await pair.end()


async def test_requests_in_both_directions(pair: Pair) -> None:
    """Either side may ask the other, and gets the results of all keys."""
    found = await pair.here.request(get(b"x", b"y"))
    assert (found.records, found.layers, found.failures) == ([b"r", b"r"], [1, 1], {})
    written = await pair.there.request(Batch(Operation.SET, "users", [b"k"], [b"v"], [1], [2], timeout_s=0.5))
    assert written.versions == [5]
    (arrived,) = pair.a.batches
    assert (arrived.namespace, arrived.values, arrived.flags, arrived.ttls_ms) == ("users", [b"v"], [1], [2])
    assert arrived.timeout_s == 0.5


async def test_requests_of_one_turn_share_a_frame(pair: Pair) -> None:
    """A thousand requests made at once are a few frames, not a thousand."""
    before = pair.to_b.count
    await asyncio.gather(*(pair.here.request(get(b"k%d" % number)) for number in range(1_000)))
    assert pair.to_b.count - before <= 3
    assert len(pair.b.batches) == 1_000


async def test_replies_come_in_any_order(pair: Pair) -> None:
    """A request that takes long does not hold up the next one."""
    pair.b.held = held = asyncio.Event()
    slow = asyncio.create_task(pair.here.request(get(b"slow")))
    await eventually(lambda: pair.b.batches)
    pair.b.held = None
    await asyncio.wait_for(pair.here.request(get(b"quick")), 5)
    assert not slow.done()
    held.set()
    assert (await slow).records == [b"r"]


async def test_large_reply_arrives_in_parts(pair: Pair) -> None:
    """Records beyond a frame's size come in several replies and are one result."""
    pair.b.record = b"r" * 400_000
    found = await pair.here.request(get(*[b"%d" % number for number in range(12)]))
    assert [len(record) for record in found.records] == [400_000] * 12


async def test_silent_peer_is_given_up() -> None:
    """After two seconds without a word `beat` closes the link; before that it sends a heartbeat."""
    pair = await Pair().up()
    pair.to_a.open.clear()  # the peer freezes: it reads, but nothing comes from it
    waiting = asyncio.create_task(pair.here.request(get(b"k")))
    await eventually(lambda: pair.b.batches)
    pair.clock.advance(SILENCE_S)
    assert pair.here.beat(1)
    pair.clock.advance(0.01)
    assert not pair.here.beat(2)
    assert pair.here.closed
    with pytest.raises(PeerUnavailable) as lost:
        await waiting
    assert lost.value.sent
    with pytest.raises(PeerUnavailable) as refused:
        await pair.here.request(get(b"k"))
    assert not refused.value.sent
    await pair.end()


async def test_unsent_requests_say_so() -> None:
    """Of the requests that wait when a link is lost, those that never left are marked as unsent."""
    pair = await Pair().up()
    pair.to_b.open.clear()
    first = asyncio.create_task(pair.here.request(get(b"in the held write")))
    await eventually(lambda: pair.here._waiting and not pair.here._requests)
    second = asyncio.create_task(pair.here.request(get(b"behind it")))
    await eventually(lambda: pair.here._requests)
    pair.here.close()
    lost = await asyncio.gather(first, second, return_exceptions=True)
    assert [error.sent for error in lost if isinstance(error, PeerUnavailable)] == [True, False]
    await pair.end()


async def test_heartbeats_keep_the_link(pair: Pair) -> None:
    """A heartbeat is answered, so that both sides hear each other, and the answer is not answered again."""
    pair.clock.advance(1.5)
    assert pair.here.beat(1)
    now = pair.clock.now()
    await eventually(lambda: pair.here.heard_at == now == pair.there.heard_at)
    pair.clock.advance(1.5)
    assert pair.here.beat(2)
    frames = pair.to_a.count + pair.to_b.count
    for _ in range(50):
        await asyncio.sleep(0)
    assert pair.to_a.count + pair.to_b.count <= frames + 2


async def test_end_of_the_stream_ends_the_waiting(pair: Pair) -> None:
    """When the stream ends, whoever waits for a reply is told at once."""
    pair.b.held = asyncio.Event()
    waiting = asyncio.create_task(pair.here.request(get(b"k")))
    await eventually(lambda: pair.b.batches)
    pair.to_a.cut()
    with pytest.raises(PeerUnavailable):
        await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(pair.running[0], 5)
    assert pair.here.closed


async def test_failing_write_ends_the_link(pair: Pair) -> None:
    """A stream that can no longer be written is over."""

    async def broken(frame: peer_pb2.PeerFrame) -> None:
        raise RuntimeError

    pair.here._outbox._write = broken
    with pytest.raises(PeerUnavailable):
        await asyncio.wait_for(pair.here.request(get(b"k")), 5)
    assert pair.here.closed


async def test_close_ends_what_the_peer_asked_for(pair: Pair) -> None:
    """Work done for a peer is stopped when its link ends; closing twice is harmless."""
    pair.b.held = asyncio.Event()
    asking = asyncio.create_task(pair.here.request(get(b"k")))
    await eventually(lambda: pair.there._tasks)
    pair.there.close()
    pair.there.close()
    await eventually(lambda: not pair.there._tasks)
    pair.here.close()
    with pytest.raises(PeerUnavailable):
        await asking


async def test_caller_that_leaves_takes_its_request_along() -> None:
    """A request that was cancelled before it left is not sent; nothing of it remains."""
    pair = await Pair().up()
    pair.to_b.open.clear()
    first = asyncio.create_task(pair.here.request(get(b"first")))
    await eventually(lambda: pair.here._waiting and not pair.here._requests)
    second = asyncio.create_task(pair.here.request(get(b"second")))
    await eventually(lambda: pair.here._requests)
    second.cancel()
    await asyncio.wait([second])
    pair.to_b.open.set()
    await first
    assert [batch.keys for batch in pair.b.batches] == [[b"first"]]
    assert not pair.here._waiting
    await pair.end()


async def test_another_cluster_is_refused() -> None:
    """A peer with another cluster's name is not greeted, and its link ends."""
    pair = Pair(cluster="other")
    await asyncio.wait(pair.running, timeout=5)
    assert pair.here.peer is None
    assert pair.here.closed
    assert pair.there.closed


async def test_refused_peer_gets_no_link() -> None:
    """When the node does not want the link, it ends before anything is executed over it."""
    pair = Pair(greets=False)
    await asyncio.wait_for(pair.running[1], 5)
    assert pair.there.closed
    await pair.end()


async def test_stranger_who_does_not_say_hello_is_dropped() -> None:
    """A first frame without a hello ends the link, and its requests are not executed."""
    owner, wire = Owner("a", ManualClock()), Wire()
    link = Link(owner, Wire().write, dialled=False)
    batch = common_pb2.Batch(id=1, operation=common_pb2.OPERATION_GET, keys=[b"k"])
    await wire.write(peer_pb2.PeerFrame(requests=[batch]))
    await asyncio.wait_for(link.run(wire.read()), 5)
    assert (owner.batches, link.closed) == ([], True)


async def test_views_and_leaving_are_told(pair: Pair) -> None:
    """A view that is sent, and the word that a node leaves, arrive at the other side's node."""
    pair.here.send_view(view_of(3, "a", "b"))
    await eventually(lambda: pair.b.views == [("a", 3)])
    await pair.here.say_leaving()
    await eventually(lambda: pair.b.parted == ["a"])


@pytest.mark.parametrize(
    "batch",
    [
        common_pb2.Batch(id=1, operation=55, keys=[b"a", b"b"]),  # type: ignore[arg-type]
        common_pb2.Batch(id=1, operation=common_pb2.OPERATION_SET, keys=[b"a", b"b"], values=[b"v"]),
    ],
)
async def test_malformed_request_fails_per_key(batch: common_pb2.Batch) -> None:
    """A batch of a peer that does not fit is answered with a reason for each key; the link stays."""
    owner, incoming, outgoing = Owner("a", ManualClock()), Wire(), Wire()
    link = Link(owner, outgoing.write, dialled=False)
    running = asyncio.create_task(link.run(incoming.read()))
    hello = peer_pb2.PeerHello(member=member_to_wire(member("b")), cluster="c")
    await incoming.write(peer_pb2.PeerFrame(hello=hello, requests=[batch]))
    frames = outgoing.read()
    replies: list[common_pb2.Reply] = []
    while not replies:
        replies.extend((await asyncio.wait_for(anext(frames), 5)).replies)
    assert list(replies[0].reasons) == [Reason.INVALID_REQUEST] * 2
    assert (owner.batches, link.closed) == ([], False)
    incoming.cut()
    await asyncio.wait_for(running, 5)


@pytest.mark.parametrize(
    "reply",
    [
        common_pb2.Reply(id=1, records=[b"r"]),
        common_pb2.Reply(id=1, indices=[7], records=[b"r"]),
        common_pb2.Reply(id=1, indices=[0], versions=[1]),
        common_pb2.Reply(id=1, indices=[0, 1], records=[b"r", b"r"], reasons=[1]),
    ],
)
async def test_malformed_reply_fails_its_request_only(reply: common_pb2.Reply) -> None:
    """A reply that does not fit its request is a failure of the peer, and the link stays."""
    link = Link(Owner("a", ManualClock()), Wire().write, dialled=True)
    incoming = Wire()
    running = asyncio.create_task(link.run(incoming.read()))
    hello = peer_pb2.PeerHello(member=member_to_wire(member("b")), cluster="c")
    await incoming.write(peer_pb2.PeerFrame(hello=hello))
    await eventually(lambda: link.peer)
    asking = asyncio.create_task(link.request(get(b"x", b"y")))
    await eventually(lambda: link._waiting)
    await incoming.write(peer_pb2.PeerFrame(replies=[common_pb2.Reply(id=99, records=[b"r"]), reply]))
    with pytest.raises(PeerUnavailable, match="malformed") as failed:
        await asyncio.wait_for(asking, 5)
    assert failed.value.sent
    assert not link.closed
    incoming.cut()
    await asyncio.wait_for(running, 5)


async def test_view_that_breaks_the_contract_ends_the_link() -> None:
    """A view that this node cannot use is an error of the link, which its owner sees."""
    link = Link(Owner("a", ManualClock()), Wire().write, dialled=True)
    incoming = Wire()
    hello = peer_pb2.PeerHello(member=member_to_wire(member("b")), cluster="c")
    view = view_to_wire(view_of(1, "b"))
    view.ring_hash = "other"
    await incoming.write(peer_pb2.PeerFrame(hello=hello, view=view))
    with pytest.raises(ValueError, match="ring hash"):
        await asyncio.wait_for(link.run(incoming.read()), 5)
    assert link.closed


async def test_settled_epoch_comes_with_the_first_frames() -> None:
    """A new link brings the epoch that its node has settled, after the view, and later ones as they come."""
    pair = Pair()
    pair.b.view, pair.b.epoch = view_of(7, "a", "b"), 6
    await pair.up()
    await eventually(lambda: pair.a.words == [("b", 6)])
    pair.there.send_settled(7)
    await eventually(lambda: pair.a.words == [("b", 6), ("b", 7)])
    assert pair.b.words == []
    await pair.end()


async def test_answered_heartbeat_tells_when_it_was_sent(pair: Pair) -> None:
    """An answer counts from the moment when its heartbeat was sent, and each heartbeat counts once."""
    sent_at = pair.clock.now()
    pair.to_a.open.clear()
    assert pair.here.beat(1)
    await eventually(lambda: pair.there.heard_at == sent_at)
    pair.clock.advance(1.0)
    assert pair.a.answers == []
    pair.to_a.open.set()
    await eventually(lambda: pair.a.answers == [("b", sent_at)])
    await pair.to_a.write(peer_pb2.PeerFrame(heartbeat=common_pb2.Heartbeat(nonce=1, answer=True)))
    pair.here.beat(2)
    await eventually(lambda: len(pair.a.answers) == 2)
    assert pair.a.answers[1] == ("b", sent_at + 1.0)
    assert pair.here._beats == {}


async def test_unanswered_heartbeats_are_few(pair: Pair) -> None:
    """A peer that answers nothing does not make the link remember every heartbeat."""
    pair.to_b.open.clear()
    for nonce in range(100):
        assert pair.here.beat(nonce)
    assert len(pair.here._beats) == 16


async def test_what_changes_between_the_hellos_is_told() -> None:
    """A view that comes in force after this side's hello and before the peer's is told, with its settled epoch."""
    owner, incoming, outgoing = Owner("a", ManualClock()), Wire(), Wire()
    owner.view, owner.epoch = view_of(6, "a", "b"), 6
    running = asyncio.create_task(Link(owner, outgoing.write, dialled=True).run(incoming.read()))
    frames = outgoing.read()
    first = await asyncio.wait_for(anext(frames), 5)
    assert (first.view.epoch, first.settled_epoch) == (6, 6)
    owner.view, owner.epoch = view_of(7, "a", "b"), 7
    hello = peer_pb2.PeerHello(member=member_to_wire(member("b")), cluster="c")
    await incoming.write(peer_pb2.PeerFrame(hello=hello))
    second = await asyncio.wait_for(anext(frames), 5)
    assert (second.view.epoch, second.settled_epoch) == (7, 7)
    incoming.cut()
    await asyncio.wait_for(running, 5)
