from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs

from cachenode.core.entries import BatchResult
from cachenode.rpc import session
from cachenode.rpc.session import _MOST_UNSENT, SessionLimits, SessionService
from cachenode.server import Server
from cachenode.wire import view_from_wire
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.v1 import common_pb2, session_pb2, session_pb2_grpc
from cachenode_client import CacheClient, CacheError
from tests.support.clock import ManualClock
from tests.support.cluster import new_node, view_of
from tests.support.eventually import eventually

GET, SET = common_pb2.OPERATION_GET, common_pb2.OPERATION_SET
OPENED_AND_DROPPED = 10_000
AT_A_TIME = 200


def get_batch(number: int, *keys: bytes) -> common_pb2.Batch:
    return common_pb2.Batch(id=number, operation=GET, keys=keys)


def set_batch(number: int, **pairs: bytes) -> common_pb2.Batch:
    keys = [key.encode() for key in pairs]
    return common_pb2.Batch(id=number, operation=SET, keys=keys, values=list(pairs.values()))


async def replies_of(call: Any, count: int) -> list[common_pb2.Reply]:
    """Read frames until so many replies have come."""
    replies: list[common_pb2.Reply] = []
    while len(replies) < count:
        frame = await asyncio.wait_for(call.read(), 10)
        assert frame is not aio.EOF
        replies.extend(frame.replies)
    return replies


async def ended(call: Any) -> grpc.StatusCode:
    """Read until the stream has ended; return how."""
    try:
        while await asyncio.wait_for(call.read(), 10) is not aio.EOF:
            pass
    except (aio.AioRpcError, asyncio.CancelledError):
        pass
    code: grpc.StatusCode = await asyncio.wait_for(call.code(), 10)
    return code


@pytest.fixture
async def call(sessions: Any) -> Any:
    """An open session whose hello has been read."""
    opened = sessions.Session()
    assert (await opened.read()).HasField("hello")
    yield opened
    opened.cancel()


# One stream's conversation.


async def test_hello_says_who_and_under_which_view(server: Server, sessions: Any) -> None:
    """The node's first frame names the node, its limits and its view, before the client says anything."""
    call = sessions.Session()
    frame = await call.read()
    me = server.node.placement.me
    assert (frame.hello.node_id, frame.hello.incarnation) == ("n0", me.incarnation)
    limits = server.config.limits
    assert (frame.hello.max_frame_bytes, frame.hello.max_batch_keys) == (limits.max_frame_bytes, limits.max_batch_keys)
    assert view_from_wire(frame.view) == server.node.placement.view
    call.cancel()


async def test_batches_of_a_frame_are_executed_in_order(call: Any) -> None:
    """A read behind a write in one frame sees the write, and the replies come back in the order of the frame."""
    batches = [set_batch(1, k=b"1"), get_batch(2, b"k"), set_batch(3, k=b"2"), get_batch(4, b"k", b"absent")]
    await call.write(session_pb2.ClientFrame(batches=batches))
    replies = await replies_of(call, 4)
    assert [reply.id for reply in replies] == [1, 2, 3, 4]
    assert replies[1].records[0][HEADER_BYTES:] == b"1"
    assert replies[3].records[0][HEADER_BYTES:] == b"2"
    assert replies[3].records[1] == b""
    assert replies[2].versions[0] > replies[0].versions[0] > 0


async def test_heartbeat_is_answered_with_its_nonce(call: Any) -> None:
    """A client hears its own nonce back, behind the replies to what it had sent before."""
    beat = common_pb2.Heartbeat(nonce=42)
    await call.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")], heartbeat=beat))
    frame = await call.read()
    assert (frame.heartbeat.nonce, frame.heartbeat.answer) == (42, True)
    assert [reply.id for reply in frame.replies] == [1]


async def test_new_view_is_told(server: Server, call: Any) -> None:
    """A view that comes in force is sent to every open session without being asked for."""
    me = server.node.placement.me
    view = server.node.placement.view
    assert view is not None
    newer = type(view)(view.epoch + 5, view.ring_seed, (me,))
    server.node.placement.apply(newer)
    frame = await asyncio.wait_for(call.read(), 10)
    assert view_from_wire(frame.view) == newer


@pytest.mark.parametrize(
    ("batch", "text", "answers"),
    [
        (common_pb2.Batch(id=9, operation=99, keys=[b"a", b"b"]), "operation", 2),  # type: ignore[arg-type]
        (common_pb2.Batch(id=9, operation=GET), "keys: 0", 1),
        (common_pb2.Batch(id=9, operation=GET, keys=[b"k"] * 10_001), "10,001", 10_001),
        (common_pb2.Batch(id=9, operation=SET, keys=[b"a", b"b"], values=[b"1"]), "values: 1 for 2", 2),
        (common_pb2.Batch(id=9, operation=SET, keys=[b"a", b"b"], values=[b"1"] * 2, flags=[1]), "flags: 1", 2),
        (common_pb2.Batch(id=9, operation=SET, keys=[b"a"], values=[b"1"], ttls_ms=[1, 2]), "ttls_ms: 2", 1),
        (common_pb2.Batch(id=9, operation=common_pb2.OPERATION_DELETE, keys=[b"a"], values=[b"1"]), "values", 1),
    ],
)
async def test_malformed_batch_fails_per_key(call: Any, batch: common_pb2.Batch, text: str, answers: int) -> None:
    """A batch whose columns do not fit is refused key by key with a text that names the column; the session lives."""
    await call.write(session_pb2.ClientFrame(batches=[batch, get_batch(10, b"k")]))
    bad, good = await replies_of(call, 2)
    assert (bad.id, set(bad.reasons), len(bad.reasons)) == (9, {Reason.INVALID_REQUEST}, answers)
    assert len(bad.details) == 1
    assert text in bad.details[0]
    assert (good.id, list(good.reasons)) == (10, [])


async def test_bad_keys_fail_alone(call: Any) -> None:
    """An invalid key in a batch has its reason; the other keys of the batch are answered."""
    await call.write(session_pb2.ClientFrame(batches=[set_batch(1, good=b"v"), get_batch(2, b"", b"good")]))
    _, reply = await replies_of(call, 2)
    assert list(reply.reasons) == [Reason.INVALID_KEY, Reason.OK]
    assert reply.records[1][HEADER_BYTES:] == b"v"


async def test_large_reply_comes_in_parts(sessions: Any, call: Any) -> None:
    """Values that together exceed what gRPC takes as one message come in several frames, each key once."""
    value, keys = b"v" * 900_000, [f"k{number}".encode() for number in range(8)]
    for key in keys:
        batch = common_pb2.Batch(id=1, operation=SET, keys=[key], values=[value])
        await call.write(session_pb2.ClientFrame(batches=[batch]))
    await replies_of(call, len(keys))
    await call.write(session_pb2.ClientFrame(batches=[get_batch(2, *keys)]))
    answered: list[int] = []
    while len(answered) < len(keys):
        (reply, *more) = await replies_of(call, 1)
        for part in (reply, *more):
            answered.extend(part.indices)
            assert all(record[HEADER_BYTES:] == value for record in part.records)
    assert answered == list(range(8))


async def test_frame_over_the_limit_ends_only_its_stream(server: Server, sessions: Any, cache: Any) -> None:
    """An oversize frame is refused with RESOURCE_EXHAUSTED, and the node serves on."""
    call = sessions.Session()
    await call.read()
    huge = common_pb2.Batch(id=1, operation=SET, keys=[b"k"], values=[b"v" * (5 << 20)])
    await call.write(session_pb2.ClientFrame(batches=[huge]))
    assert await ended(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    again = sessions.Session()
    await again.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    assert (await replies_of(again, 1))[0].records[0] == b""
    again.cancel()


# How sessions end.


async def test_half_closed_stream_ends_cleanly(server: Server, sessions: Any) -> None:
    """A client that is done sending gets its replies and an OK."""
    call = sessions.Session()
    await call.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    await replies_of(call, 1)
    await call.done_writing()
    assert await ended(call) is grpc.StatusCode.OK
    await eventually(lambda: server.stats().sessions == 0)


async def test_sessions_are_limited(start_server: Any) -> None:
    """One session too many is refused with a text that names the limit; a place that is free again can be taken."""
    server = await start_server({"limits.max_sessions": 1})
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        first = stub.Session()
        await first.read()
        second = stub.Session()
        assert await ended(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limit of 1" in await second.details()
        first.cancel()
        await eventually(lambda: server.stats().sessions == 0)
        third = stub.Session()
        assert (await third.read()).HasField("hello")
        third.cancel()


@pytest.mark.timeout(60)
async def test_dropped_streams_leave_nothing_behind(server: Server) -> None:
    """After 10,000 sessions that were opened and cancelled by the client the node has no session and no task more.

    Scenario 51.
    """
    asyncio.get_running_loop().set_debug(False)  # remembering where each task was made takes most of the time
    before = len(asyncio.all_tasks())
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)

        async def open_and_drop() -> None:
            call = stub.Session()
            assert (await call.read()).HasField("hello")
            call.cancel()

        for _ in range(OPENED_AND_DROPPED // AT_A_TIME):
            await asyncio.gather(*(open_and_drop() for _ in range(AT_A_TIME)))
    await eventually(lambda: len(server._sessions) == 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_dropped_with_work_under_way(server: Server, sessions: Any, monkeypatch: Any) -> None:
    """What a session had under way ends with it."""
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    monkeypatch.setattr(server.node, "execute", lambda batch, reply, holder: hang())
    call = sessions.Session()
    await call.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    await asyncio.wait_for(began.wait(), 10)
    call.cancel()
    await asyncio.wait_for(cancelled.wait(), 10)
    await eventually(lambda: len(server._sessions) == 0)


async def test_a_defect_while_a_batch_is_under_way_ends_the_session(
    server: Server, sessions: Any, monkeypatch: Any
) -> None:
    """What will never be answered is not waited for: the client learns at once, and not why; the log does."""

    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("secret")

    monkeypatch.setattr(server.node, "execute", lambda batch, reply, holder: broken())
    call = sessions.Session()
    assert (await call.read()).HasField("hello")
    with capture_logs() as logs:
        await call.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
        with pytest.raises(aio.AioRpcError) as ended:
            await asyncio.wait_for(call.read(), 10)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "secret" not in str(ended.value.details())
    (line,) = [line for line in logs if line["event"] == "batch_failed"]
    assert line["error_type"] == "ValueError"
    assert line["request_id"] in str(ended.value.details())


async def test_a_client_learns_what_the_defect_is_called(server: Server, monkeypatch: Any) -> None:
    """Whether a batch fails as it is begun or later: the error has the number that the log has.

    Unless it was not sent, or ran out of time in between tries: then no defect is to be told of.
    """

    async def later() -> None:
        await asyncio.sleep(0)
        raise ValueError("secret")

    def at_once() -> None:
        raise ValueError("secret")

    for broken in (later, at_once):
        async with CacheClient(server.address, timeout_s=1.0, near_cache=None) as client:
            await client.set("k", 1)
            with monkeypatch.context() as patch, capture_logs() as logs:
                patch.setattr(server.node, "execute", lambda batch, reply, holder, fails=broken: fails())
                said = ""
                for _ in range(5):
                    with pytest.raises(CacheError) as failed:
                        await client.get("k")
                    said += str(failed.value)
        named = {line["request_id"] for line in logs if line["event"] in {"batch_failed", "request_failed"}}
        assert [request_id for request_id in named if request_id in said] != []
        assert "secret" not in said


async def test_abandoned_sessions_are_reaped(server: Server, sessions: Any) -> None:
    """Clients that fell silent without a word are ended after a minute; one that was heard from stays."""
    service = server._sessions
    clock = server.node.clock = ManualClock(server.node.clock.now())
    calls = [sessions.Session() for _ in range(51)]
    for call in calls:
        await call.read()
    clock.advance(59.9)
    await calls[0].write(session_pb2.ClientFrame(heartbeat=common_pb2.Heartbeat(nonce=1)))
    assert (await calls[0].read()).heartbeat.answer
    assert service.reap(clock.now()) == 0
    clock.advance(0.2)
    service.reap(clock.now())  # the node's own duty may come first
    await eventually(lambda: len(service) == 1)
    assert {await ended(call) for call in calls[1:]} == {grpc.StatusCode.UNAVAILABLE}
    await calls[0].write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    assert len(await replies_of(calls[0], 1)) == 1
    calls[0].cancel()


# Bounds, with a node that the test holds.


class Context:
    """A stream's writing side that can be held."""

    def __init__(self) -> None:
        self.frames: list[session_pb2.ServerFrame] = []
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, frame: session_pb2.ServerFrame) -> None:
        await self.free.wait()
        self.frames.append(frame)

    async def abort(self, *_what: object, **_told: object) -> NoReturn:
        raise asyncio.CancelledError  # ends the task and leaves no failure that nobody asks for


class Held:
    """A service on a node whose batches wait for the test, with one session."""

    def __init__(self, *, draining: bool = False) -> None:
        self.node = new_node("a", ManualClock())
        self.go = asyncio.Event()
        self.executed = 0
        self.service = SessionService(
            self.node, SessionLimits(max_sessions=10, max_batch_keys=60_000, max_frame_bytes=1 << 22)
        )
        self.context: Any = Context()
        self.incoming: asyncio.Queue[session_pb2.ClientFrame] = asyncio.Queue()
        setattr(self.node, "execute", self.execute)  # noqa: B010 - a method is replaced on purpose

    def execute(self, batch: Any, reply: Any, holder: object = None) -> Any:
        self.executed += 1

        async def rest() -> None:
            await self.go.wait()
            reply(BatchResult(records=[b""] * len(batch.keys)))

        return rest()

    async def frames(self) -> Any:
        while True:
            yield await self.incoming.get()

    def serve(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.service.Session(self.frames(), self.context))

    def replies(self) -> list[common_pb2.Reply]:
        return [reply for frame in self.context.frames for reply in frame.replies]


async def test_keys_under_way_are_limited() -> None:
    """A session with 100,000 keys under way has the next batch refused; after they are answered it may go on."""
    held = Held()
    serving = held.serve()
    for number in (1, 2):
        await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(number, *[b"k"] * 50_000)]))
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(3, b"k")]))
    await eventually(held.replies)
    (refused,) = held.replies()
    assert (refused.id, list(refused.reasons)) == (3, [Reason.OVERLOADED])
    held.go.set()
    await eventually(lambda: len(held.replies()) == 3)
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(4, b"k")]))
    await eventually(lambda: len(held.replies()) == 4)
    assert not held.replies()[3].reasons
    serving.cancel()


async def test_slow_reader_stops_its_own_requests() -> None:
    """A client that does not read its replies is not read from either. Scenario 55."""
    held = Held()
    held.go.set()
    held.context.free.clear()
    serving = held.serve()
    for number in range(5):
        await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(number, b"k")]))
    for _ in range(50):
        await asyncio.sleep(0)
    assert held.executed == 0, "the hello is still being written"
    held.context.free.set()
    await eventually(lambda: len(held.replies()) == 5)
    serving.cancel()


async def test_slow_reader_of_late_replies_is_not_read_from_for_ever() -> None:
    """Replies that others than the reader write pile up only so far behind a client that does not read them."""
    held = Held()
    serving = held.serve()
    await eventually(lambda: held.context.frames)
    held.go.set()
    held.context.free.clear()
    for number in range(3 * _MOST_UNSENT):
        await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(number, b"k")]))
        for _ in range(10):
            await asyncio.sleep(0)
    assert held.executed < 2 * _MOST_UNSENT
    held.context.free.set()
    await eventually(lambda: len(held.replies()) == 3 * _MOST_UNSENT)
    serving.cancel()


def answer_at_once(held: Held, monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    """Let the node know so many keys of each batch at once, and the others when the test says."""

    def execute(batch: Any, reply: Any, holder: object = None) -> Any:
        count = len(batch.keys)
        reply(BatchResult(indices=range(known), records=[b""] * known))

        async def rest() -> None:
            await held.go.wait()
            reply(BatchResult(indices=range(known, count), records=[b""] * (count - known)))

        return rest()

    monkeypatch.setattr(held.node, "execute", execute)


async def test_few_known_answers_leave_with_the_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """If most keys must be fetched, what is known of the others is held to leave in the same frame."""
    monkeypatch.setattr(session, "_HOLD_S", 60)
    held = Held()
    answer_at_once(held, monkeypatch, 1)
    serving = held.serve()
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(1, b"a", b"b", b"c")]))
    for _ in range(50):
        await asyncio.sleep(0)
    assert held.replies() == []
    held.go.set()
    await eventually(held.replies)
    assert [list(reply.indices) for reply in held.context.frames[-1].replies] == [[0], [1, 2]]
    serving.cancel()


async def test_known_answers_do_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held leaves by itself if the rest takes its time."""
    held = Held()
    answer_at_once(held, monkeypatch, 1)
    serving = held.serve()
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(1, b"a", b"b", b"c")]))
    await eventually(held.replies)
    assert [list(reply.indices) for reply in held.replies()] == [[0]]
    serving.cancel()


async def test_many_known_answers_do_not_wait_for_the_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """If most keys are known they leave at once."""
    monkeypatch.setattr(session, "_HOLD_S", 60)
    held = Held()
    answer_at_once(held, monkeypatch, 2)
    serving = held.serve()
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(1, b"a", b"b", b"c")]))
    await eventually(held.replies)
    assert [list(reply.indices) for reply in held.replies()] == [[0, 1]]
    serving.cancel()


async def test_drain_lets_work_finish_and_ends_the_streams() -> None:
    """Draining tells the client, waits for what is under way, delivers it, and then ends the stream."""
    held = Held()
    serving = held.serve()
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    await eventually(lambda: held.executed)
    draining = asyncio.create_task(held.service.drain(2))
    await eventually(lambda: any(frame.draining for frame in held.context.frames))
    assert not serving.done()
    held.go.set()
    await draining
    assert [reply.id for reply in held.replies()] == [1]
    await asyncio.wait([serving], timeout=10)
    assert len(held.service) == 0


async def test_drain_does_not_wait_for_ever() -> None:
    """What does not finish in time is cut off."""
    held = Held()
    serving = held.serve()
    await held.incoming.put(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
    await eventually(lambda: held.executed)
    await asyncio.wait_for(held.service.drain(0.05), 5)
    await asyncio.wait([serving], timeout=10)
    assert (len(held.service), held.replies()) == (0, [])


async def test_views_of_one_turn_reach_the_session_as_the_last() -> None:
    """Of views that follow each other faster than they can be sent only the newest is."""
    held = Held()
    serving = held.serve()
    await eventually(lambda: held.context.frames)
    for epoch in (2, 3):
        held.node.placement.apply(view_of(epoch, "a", "b"))
    await eventually(lambda: len(held.context.frames) > 1)
    assert [frame.view.epoch for frame in held.context.frames] == [1, 3]
    serving.cancel()
