"""Sessions whose client keeps copies: leases, invalidations, and which records may be kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, Operation
from cachenode.core.holders import DRIFT, NEAR_LEASE_S
from cachenode.node.service import Node
from cachenode.rpc import session
from cachenode.rpc.session import SessionLimits, SessionService
from cachenode_api.records import HEADER_BYTES
from cachenode_api.v1 import common_pb2, session_pb2
from tests.support.clock import ManualClock
from tests.support.cluster import HeldL2, new_node, put, run, view_of
from tests.support.copies import settled
from tests.support.eventually import eventually

GET, SET = common_pb2.OPERATION_GET, common_pb2.OPERATION_SET
LEASE_MS = int(NEAR_LEASE_S * (1 - DRIFT) * 1_000)


class Context:
    """A stream's writing side that can be held."""

    def __init__(self) -> None:
        self.frames: list[session_pb2.ServerFrame] = []
        self.free = asyncio.Event()
        self.free.set()
        self.waiting = False

    async def write(self, frame: session_pb2.ServerFrame) -> None:
        self.waiting = True
        await self.free.wait()
        self.waiting = False
        self.frames.append(frame)

    async def abort(self, *_what: object, **_told: object) -> NoReturn:
        raise asyncio.CancelledError  # ends the task and leaves no failure that nobody asks for


class Client:
    """One stream to a service, as raw frames."""

    def __init__(self, service: SessionService, *, near: bool = True) -> None:
        context: Any = Context()
        self.context = context
        self._incoming: asyncio.Queue[session_pb2.ClientFrame | None] = asyncio.Queue()
        self.serving = asyncio.create_task(service.Session(self._frames(), context))
        self._near = near

    async def _frames(self) -> AsyncIterator[session_pb2.ClientFrame]:
        while (frame := await self._incoming.get()) is not None:
            yield frame

    async def open(self) -> Client:
        """Greet, and get the first lease."""
        beat = common_pb2.Heartbeat(nonce=1)
        self.send(hello=session_pb2.ClientHello(near_cache=self._near), heartbeat=beat)
        await eventually(lambda: any(frame.HasField("heartbeat") for frame in self.frames))
        return self

    def send(self, **fields: Any) -> None:
        """Send a frame."""
        self._incoming.put_nowait(session_pb2.ClientFrame(**fields))

    def finish(self) -> None:
        """End the sending side."""
        self._incoming.put_nowait(None)

    def hold(self) -> None:
        self.context.free.clear()

    def let_go(self) -> None:
        self.context.free.set()

    @property
    def frames(self) -> list[session_pb2.ServerFrame]:
        frames: list[session_pb2.ServerFrame] = self.context.frames
        return frames

    def replies(self) -> list[common_pb2.Reply]:
        return [reply for frame in self.frames for reply in frame.replies]

    async def read(self, *keys: bytes, number: int = 1) -> common_pb2.Reply:
        """Read keys; return the reply."""
        before = len(self.replies())
        self.send(batches=[common_pb2.Batch(id=number, operation=GET, keys=keys)])
        await eventually(lambda: len(self.replies()) > before)
        return self.replies()[-1]

    def told(self) -> list[common_pb2.Invalidation]:
        return [one for frame in self.frames for one in frame.invalidations]


class Rig:
    """A node with a service, and clients of it."""

    def __init__(self, *, held: HeldL2 | None = None) -> None:
        self.clock = ManualClock()
        self.node: Node = new_node("a", self.clock, l2=held)
        limits = SessionLimits(max_sessions=10, max_batch_keys=1_000, max_frame_bytes=1 << 22)
        self.service = SessionService(self.node, limits)
        self.clients: list[Client] = []

    async def client(self, *, near: bool = True) -> Client:
        client = Client(self.service, near=near)
        self.clients.append(client)
        return await client.open()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    for client in made.clients:
        client.serving.cancel()
    await asyncio.gather(*(client.serving for client in made.clients), return_exceptions=True)


def answered(client: Client, before: int) -> bool:
    """Return whether a heartbeat has been answered since so many frames."""
    return any(frame.heartbeat.answer for frame in client.frames[before:])


def barrier(text: bytes) -> Batch:
    return Batch(Operation.BARRIER, "default", [text], flags=[1])


# Leases.


async def test_heartbeats_bring_the_lease(rig: Rig) -> None:
    """The answer to a heartbeat says for how long, from the question, copies may be served."""
    client = await rig.client()
    (beat,) = [frame.heartbeat for frame in client.frames if frame.HasField("heartbeat")]
    assert (beat.nonce, beat.answer, beat.lease_ms) == (1, True, LEASE_MS)


async def test_no_lease_without_a_near_cache(rig: Rig) -> None:
    """A client that keeps nothing gets no lease, no word of what changes, and no records to keep."""
    client = await rig.client(near=False)
    await put(rig.node, b"k", b"v")
    assert not (await client.read(b"k")).near
    await put(rig.node, b"k", b"w")
    assert (client.told(), client.frames[-1].sequence) == ([], 0)
    assert [frame.heartbeat.lease_ms for frame in client.frames if frame.HasField("heartbeat")] == [0]
    assert len(rig.node.invalidations) == 0


async def test_laggard_gets_no_lease(rig: Rig) -> None:
    """A client that does not acknowledge what others wait for is granted nothing, until it does."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    await client.read(b"k")
    writing = asyncio.create_task(put(rig.node, b"k", b"w"))
    assert not await settled(writing)
    rig.clock.advance(0.5)
    leases = []
    for nonce, acknowledged in ((2, 0), (3, 1)):
        before = len(client.frames)
        client.send(heartbeat=common_pb2.Heartbeat(nonce=nonce), acknowledged=acknowledged)
        await eventually(partial(answered, client, before))
        leases.append(client.frames[-1].heartbeat.lease_ms)
    assert leases == [0, LEASE_MS], "an acknowledgement counts for the heartbeat of its own frame"
    await writing


# What may be kept.


async def test_records_in_memory_may_be_kept(rig: Rig) -> None:
    """A hit may be copied, and from then on the session is told of the key's changes; absent keys are not noted."""
    client = await rig.client()
    namespace = rig.node.namespaces.get("default")
    assert namespace is not None
    await put(rig.node, b"k", b"v")
    assert (await client.read(b"k")).near
    assert len(namespace.exposure) == 1
    await client.read(b"absent")
    await client.read(b"k", b"absent")
    assert len(namespace.exposure) == 1
    await asyncio.wait_for(put(rig.node, b"absent", b"v"), 5)
    assert client.told() == []


async def test_record_from_l2_may_be_kept() -> None:
    """What a read brings from L2 into memory may be copied too, found keys alone being noted."""
    clock = ManualClock()
    rig = Rig(held=HeldL2(MemoryL2(clock)))
    namespace = rig.node.namespaces.get("default")
    assert namespace is not None
    await put(rig.node, b"k", b"v")
    namespace.store.clear()
    client = await rig.client()
    reply = await client.read(b"k", b"absent")
    assert reply.near
    assert (len(namespace.exposure), len(namespace.exposure.of(b"k"))) == (1, 1)
    client.serving.cancel()


async def test_leases_of_keys_are_not_kept(rig: Rig) -> None:
    """What comes with the right to load, or from another's load, is not for keeping."""
    client = await rig.client()
    client.send(batches=[common_pb2.Batch(id=1, operation=common_pb2.OPERATION_LEASE, keys=[b"k"])])
    await eventually(client.replies)
    assert not client.replies()[0].near


async def test_full_exposure_gives_nothing_to_keep(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no more keys can be noted records are read and not kept."""
    monkeypatch.setattr("cachenode.core.holders.MAX_EXPOSED", 1)
    client = await rig.client()
    await put(rig.node, b"a", b"v")
    await put(rig.node, b"b", b"v")
    assert (await client.read(b"a")).near
    assert not (await client.read(b"b")).near


# Invalidations.


async def test_writer_waits_for_the_acknowledgement(rig: Rig) -> None:
    """The word to drop has a number; the writer is answered when the client says that it has acted on it."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    await client.read(b"k")
    writing = asyncio.create_task(put(rig.node, b"k", b"w"))
    await eventually(client.told)
    assert not writing.done()
    assert (client.frames[-1].sequence, list(client.told()[0].keys)) == (1, [b"k"])
    client.send(acknowledged=1)
    assert (await writing).versions[0] > 0
    writing = asyncio.create_task(run(rig.node, barrier(b"k")))
    await eventually(lambda: len(client.told()) == 2)
    assert (client.frames[-1].sequence, list(client.told()[1].selectors)) == (2, [b"k"])
    client.send(acknowledged=1)
    assert not await settled(writing)
    client.send(acknowledged=2)
    assert not (await writing).failures


async def test_own_write_is_told_before_its_reply(rig: Rig) -> None:
    """The session that writes gets the word to drop not later than the reply."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    await client.read(b"k")
    client.send(batches=[common_pb2.Batch(id=2, operation=SET, keys=[b"k"], values=[b"w"])])
    await eventually(lambda: len(client.replies()) == 2)
    (frame,) = [frame for frame in client.frames if frame.invalidations]
    assert client.frames.index(frame) <= next(
        at for at, f in enumerate(client.frames) if f.replies and f.replies[0].id == 2
    )


async def test_sequence_numbers_have_no_gaps(rig: Rig) -> None:
    """Each frame's number is that of its last invalidation: the one before and as many as the frame holds."""
    client = await rig.client()
    for number in range(20):
        await put(rig.node, b"k%d" % number, b"v")
    await client.read(*(b"k%d" % number for number in range(20)))
    client.hold()
    for number in range(20):
        await run(rig.node, Batch(Operation.SET, "default", [b"k%d" % number], [b"w"], acknowledged=False))
        if number == 10:
            client.let_go()
            await asyncio.sleep(0)
    await eventually(lambda: len(client.told()) == 20)
    last = 0
    for frame in client.frames:
        last += len(frame.invalidations)
        assert frame.sequence == last


async def test_failed_word_leaves_a_gap(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word to drop that cannot be sent has a number all the same: the client sees that it is missing. Scenario 17."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    await client.read(b"k")

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(session, "invalidation_to_wire", fail)
        writing = asyncio.create_task(put(rig.node, b"k", b"w"))
        assert not await settled(writing)
    assert [line["event"] for line in logs] == ["invalidation_failed"]
    client.send(heartbeat=common_pb2.Heartbeat(nonce=2))
    await eventually(lambda: client.frames[-1].heartbeat.nonce == 2)
    assert (client.frames[-1].sequence, client.told()) == (1, [])
    assert not await settled(writing), "the client may serve its copy until it has seen the gap"
    client.send(acknowledged=1)
    assert not (await writing).failures


async def test_lease_does_not_overtake_an_invalidation(rig: Rig) -> None:
    """What was invalidated before a heartbeat was answered is told before the answer, or with it. Scenario 8."""
    client = await rig.client()
    for key in (b"a", b"b"):
        await put(rig.node, key, b"v")
    await client.read(b"a", b"b")
    before = len(client.frames)
    client.hold()
    writing = []
    for key in (b"a", b"b"):  # the word of the first is on its way, that of the second waits behind it
        writing.append(asyncio.create_task(put(rig.node, key, b"w")))
        assert not await settled(writing[-1])
    await eventually(lambda: client.context.waiting)
    client.send(heartbeat=common_pb2.Heartbeat(nonce=2))
    (stream,) = rig.service._sessions
    await eventually(lambda: stream._heartbeat is not None)
    client.let_go()
    await eventually(partial(answered, client, before))
    frames = client.frames[before:]
    granted_at = next(at for at, frame in enumerate(frames) if frame.heartbeat.answer)
    told = [key for frame in frames[: granted_at + 1] for one in frame.invalidations for key in one.keys]
    assert told == [b"a", b"b"]
    client.send(acknowledged=2)
    await asyncio.gather(*writing)


async def test_replies_before_an_invalidation_leave_with_it(rig: Rig) -> None:
    """A record that was read before its key changed never comes in a frame after the word to drop it. Scenario 6."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    client.hold()
    client.send(heartbeat=common_pb2.Heartbeat(nonce=9))
    await asyncio.sleep(0)
    client.send(batches=[common_pb2.Batch(id=2, operation=GET, keys=[b"k"])])
    for _ in range(10):
        await asyncio.sleep(0)
    await run(rig.node, Batch(Operation.SET, "default", [b"k"], [b"w"], acknowledged=False))
    client.let_go()
    await eventually(lambda: client.told() or (client.replies() and client.replies()[-1].records[0].endswith(b"w")))
    for at, frame in enumerate(client.frames):
        if any(reply.id == 2 and reply.records[0][HEADER_BYTES:] == b"v" for reply in frame.replies):
            assert not any(earlier.invalidations for earlier in client.frames[:at])


@pytest.mark.parametrize("what", ["invalidation", "view"])
async def test_replies_that_follow_an_invalidation_are_not_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Replies that did not fit in the frame with the word to drop were read before it: they may not be kept."""
    monkeypatch.setattr(session, "_FRAME_SOFT_BYTES", 100)
    client = await rig.client()
    for number in range(4):
        await put(rig.node, b"k%d" % number, b"v" * 150)
    client.hold()
    blocked = len(client.frames)
    client.send(heartbeat=common_pb2.Heartbeat(nonce=9))  # a frame that is on its way while the others gather
    for _ in range(10):
        await asyncio.sleep(0)
    serving = next(iter(rig.service._sessions))
    for number in range(4):
        serving._begin(common_pb2.Batch(id=10 + number, operation=GET, keys=[b"k%d" % number]))
    if what == "view":
        rig.node.placement.apply(view_of(2, "a"))
    else:
        await run(rig.node, Batch(Operation.SET, "default", [b"k3"], [b"w"], acknowledged=False))
    client.let_go()
    await eventually(lambda: len(client.replies()) == 4)
    frames = [frame for frame in client.frames[blocked:] if frame.replies]
    assert len(frames) > 1
    told = next(at for at, frame in enumerate(frames) if frame.invalidations or frame.HasField("view"))
    assert told == 0
    assert all(reply.near for reply in frames[0].replies)
    assert not any(reply.near for frame in frames[1:] for reply in frame.replies)
    assert (await client.read(b"k0", number=99)).near, "what is read from now on may be kept"


async def test_client_that_does_not_read_loses_its_stream(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words to drop pile up only so far; without the stream the client drops all by itself."""
    monkeypatch.setattr(session, "_MOST_UNTOLD", 3)
    client = await rig.client()
    keys = [b"k%d" % number for number in range(5)]
    for key in keys:
        await put(rig.node, key, b"v")
    await client.read(*keys)
    client.hold()
    for key in keys:
        await run(rig.node, Batch(Operation.SET, "default", [key], [b"w"], acknowledged=False))
    client.let_go()
    await asyncio.wait([client.serving], timeout=10)
    assert len(rig.service) == 0


# Ends.


async def write_waits(rig: Rig) -> bool:
    """Return whether a write of `k` waits for somebody."""
    writing = asyncio.create_task(put(rig.node, b"k", b"w"))
    waits = not await settled(writing)
    writing.cancel()
    await asyncio.wait([writing])
    return waits


@pytest.mark.parametrize("how", ["goodbye", "half-closed", "lost"])
async def test_only_a_goodbye_ends_the_lease(rig: Rig, how: str) -> None:
    """A lost connection looks like a client that is done sending, so writers wait, unless it has said goodbye."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    await client.read(b"k")
    if how == "goodbye":
        client.send(goodbye=True)
    elif how == "half-closed":
        client.finish()
    else:
        client.serving.cancel()
    await asyncio.wait([client.serving], timeout=10)
    assert await write_waits(rig) is (how != "goodbye")
    rig.clock.advance(NEAR_LEASE_S * (1 + DRIFT))
    rig.node.invalidations.expire(rig.clock.now())
    assert not await write_waits(rig)
    assert len(rig.node.invalidations) == 0


async def test_goodbye_answers_what_came_before_it(rig: Rig) -> None:
    """A goodbye is the last that a node reads of a stream; what it could answer at once it has answered."""
    client = await rig.client()
    await put(rig.node, b"k", b"v")
    client.send(batches=[common_pb2.Batch(id=1, operation=SET, keys=[b"k"], values=[b"w"])])
    client.send(goodbye=True)
    await asyncio.wait([client.serving], timeout=10)
    assert [reply.id for reply in client.replies()] == [1]
