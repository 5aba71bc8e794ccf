"""One link between two nodes: requests and replies in both directions on one stream, heartbeats, views.

Both ends of a stream use this class, whichever dialled. Requests made in one turn of the loop leave in one frame. The
link is over when its stream ends or when nothing was heard for two seconds (a frozen process keeps its connection
open, and gRPC's keepalive was measured to need a minute to notice). Whoever still waits for a reply then gets
`PeerUnavailable`, which says whether the request had left.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.errors import PeerUnavailable
from cachenode.outbox import Outbox
from cachenode.traced import execute_traced
from cachenode.wire import (
    BadBatch,
    batch_from_wire,
    batch_to_wire,
    member_from_wire,
    member_to_wire,
    merge_reply,
    replies_to_wire,
    view_from_wire,
    view_to_wire,
)
from cachenode_api.reasons import Reason
from cachenode_api.tracing import recording, span, switch, traceparent
from cachenode_api.v1 import common_pb2, peer_pb2

if TYPE_CHECKING:
    from cachenode.ports import Clock
    from cachenode_api.view import Member, View

__all__ = ["SILENCE_S", "Link", "LinkOwner"]

SILENCE_S = 2.0
_FRAME_SOFT_BYTES = 1 << 20
_MAX_KEYS = 100_000
_MAX_BEATS = 16
_RETIRE_S = 0.5
_RETIRE_LOOKS = 10
_WITH_TOKENS = frozenset({Operation.LEASE, Operation.LINK})
"""Whose results have a token per key."""


class LinkOwner(Protocol):
    """What a link needs from the node that it belongs to."""

    me: Member
    cluster: str
    clock: Clock

    def execute(self, batch: Batch, reply: Callable[[BatchResult], None]) -> Awaitable[None] | None:
        """Execute a peer's batch (as `Node.execute` from a peer)."""

    def present_view(self) -> View | None:
        """Return the view in force."""

    def greeted(self, link: Link) -> bool:
        """Take note of the peer of a link. Return False if the link must end."""

    def present_settled(self) -> int:
        """Return the epoch under which this node acts with nothing left from before, 0 if there is none."""

    def viewed(self, peer: Member, view: View) -> None:
        """Take note of a peer's view."""

    def settled(self, peer: Member, epoch: int) -> None:
        """Take note that nothing is left at a peer from before an epoch."""

    def alive(self, peer: Member, sent_at: float) -> None:
        """Take note that a peer has answered a heartbeat sent at that time."""

    def parting(self, peer: Member) -> None:
        """Take note that a peer leaves on purpose."""


@dataclass(slots=True)
class _Waiting:
    """A request whose replies are not complete."""

    result: BatchResult
    left: int
    done: asyncio.Future[BatchResult]
    sent: bool = False
    batch: common_pb2.Batch | None = field(default=None)


class Link:
    """One end of a link.

    Args:
        owner: The node it belongs to.
        write: Writes a frame to the stream.
        dialled: True on the side that opened the stream.
        held_by: The task that ends the link when it is cancelled, if there is one.
    """

    def __init__(
        self,
        owner: LinkOwner,
        write: Callable[[peer_pb2.PeerFrame], Awaitable[object]],
        *,
        dialled: bool,
        held_by: asyncio.Task[Any] | None = None,
    ) -> None:
        self.peer: Member | None = None
        self.dialled = dialled
        self.held_by = held_by
        self.heard_at = owner.clock.now()
        self.closed = False
        self._owner = owner
        self._outbox = Outbox(self._compose, write)
        self._reader: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._requests: list[_Waiting] = []
        self._replies: list[common_pb2.Reply] = []
        self._hello: peer_pb2.PeerHello | None = peer_pb2.PeerHello(
            member=member_to_wire(owner.me), cluster=owner.cluster
        )
        self._heartbeat: common_pb2.Heartbeat | None = None
        self._answer: common_pb2.Heartbeat | None = None
        self._beats: dict[int, float] = {}
        """Heartbeats that are not answered yet, with the times when they were sent."""
        self._leaving = False
        self._view: common_pb2.View | None = None
        self._settled = 0
        self._presented: tuple[View | None, int] = (None, 0)
        self._pump_scheduled = False

    async def run(self, frames: AsyncIterable[peer_pb2.PeerFrame]) -> None:
        """Serve the stream until it ends or `close` is called."""
        reader = self._reader = asyncio.create_task(self._read(frames))
        try:
            await asyncio.wait([reader])
        finally:
            self.close()
        if not reader.cancelled():
            reader.result()

    async def _read(self, frames: AsyncIterable[peer_pb2.PeerFrame]) -> None:
        self._present()
        await self._outbox.pump()
        async for frame in frames:
            self.heard_at = self._owner.clock.now()
            if frame.HasField("hello") and not self._greet(frame.hello):
                return
            if self.peer is None:
                return
            self._take(frame, self.peer)
            await self._outbox.pump()

    def _greet(self, hello: peer_pb2.PeerHello) -> bool:
        if hello.cluster != self._owner.cluster:
            return False
        self.peer = member_from_wire(hello.member)
        greeted = self._owner.greeted(self)
        if greeted:
            self._present()
        return greeted

    def _present(self) -> None:
        """Send the view and the settled epoch: with the hello, and again if they have changed before this link counted.

        What changes later is sent by the owner, who does not know the link before it is greeted.
        """
        view, settled = self._owner.present_view(), self._owner.present_settled()
        if view is not None and view != self._presented[0]:
            self._view = view_to_wire(view)
        if settled != self._presented[1]:
            self._settled = settled
        self._presented = (view, settled)

    def _take(self, frame: peer_pb2.PeerFrame, peer: Member) -> None:
        if frame.HasField("view"):
            self._owner.viewed(peer, view_from_wire(frame.view))
        for message in frame.requests:
            self._begin(message)
        for reply in frame.replies:
            self._settle(reply)
        if frame.settled_epoch:
            self._owner.settled(peer, frame.settled_epoch)
        if frame.HasField("heartbeat"):
            self._hear(frame.heartbeat, peer)
        if frame.leaving:
            self._owner.parting(peer)

    def _hear(self, heartbeat: common_pb2.Heartbeat, peer: Member) -> None:
        if not heartbeat.answer:
            self._answer = common_pb2.Heartbeat(nonce=heartbeat.nonce, answer=True)
            return
        sent_at = self._beats.get(heartbeat.nonce)
        if sent_at is not None:
            self._beats = {nonce: at for nonce, at in self._beats.items() if at > sent_at}
            self._owner.alive(peer, sent_at)

    # The peer's requests.

    def _begin(self, message: common_pb2.Batch) -> None:
        batch_id = message.id

        def reply(result: BatchResult) -> None:
            self._replies.extend(replies_to_wire(batch_id, result, max_bytes=_FRAME_SOFT_BYTES))

        try:
            batch = batch_from_wire(message, max_keys=_MAX_KEYS)
        except BadBatch as bad:
            count = len(message.keys)
            reasons = [Reason.INVALID_REQUEST.value] * count
            self._replies.append(common_pb2.Reply(id=batch_id, reasons=reasons, details=[str(bad)]))
            return
        batch.region = message.region  # a node's word; a client's would keep the other regions from hearing of it
        if message.traceparent and switch.tracer is not None:
            execute = partial(self._owner.execute, batch)
            rest = execute_traced(message.traceparent, self._owner.me.id, batch, reply, execute)
        else:
            rest = self._owner.execute(batch, reply)
        if rest is not None:
            self._spawn(rest)

    def _spawn(self, rest: Awaitable[None]) -> None:
        async def finish() -> None:
            await rest
            await self._pump_or_close()

        task = asyncio.create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # This node's requests.

    async def request(self, batch: Batch) -> BatchResult:
        """Let the peer execute a batch; return the results of all its keys, in order.

        Raises:
            PeerUnavailable: The link is, or came, down.
        """
        if self.closed or self.peer is None:
            raise PeerUnavailable("the link to the peer is down", sent=False)
        if switch.tracer is None or not recording():
            return await self._request(batch)
        attributes = {"db.namespace": batch.namespace, "cachenode.peer": self.peer.id}
        with span(f"cachenode.forward {batch.operation.name.lower()}", "client", attributes):
            return await self._request(batch, traceparent())

    async def _request(self, batch: Batch, parent: str = "") -> BatchResult:
        count = len(batch.keys)
        gives_records = batch.operation.gives_records
        result = BatchResult(
            records=[b""] * count if gives_records else (),
            versions=() if gives_records else [0] * count,
            layers=[1] * count if gives_records else None,
            tokens=[0] * count if batch.operation in _WITH_TOKENS else (),
        )
        request_id = next(self._ids)
        waiting = _Waiting(result, count, asyncio.get_running_loop().create_future())
        waiting.batch = batch_to_wire(batch, request_id)
        if parent:
            waiting.batch.traceparent = parent
        self._waiting[request_id] = waiting
        self._requests.append(waiting)
        self._schedule_pump()
        try:
            return await waiting.done
        except asyncio.CancelledError:
            if waiting in self._requests:
                self._requests.remove(waiting)
            raise
        finally:
            self._waiting.pop(request_id, None)

    def _settle(self, reply: common_pb2.Reply) -> None:
        waiting = self._waiting.get(reply.id)
        if waiting is None or waiting.done.done():
            return
        try:
            waiting.left -= merge_reply(waiting.result, reply, len(waiting.result.records or waiting.result.versions))
        except (ValueError, IndexError):
            waiting.done.set_exception(PeerUnavailable("the peer sent a malformed reply", sent=True))
            return
        if waiting.left <= 0:
            waiting.done.set_result(waiting.result)

    # Liveness, views, end.

    def beat(self, nonce: int) -> bool:
        """Send a heartbeat. Return False, and close the link, if the peer has been silent for too long."""
        now = self._owner.clock.now()
        if now - self.heard_at > SILENCE_S:
            self.close()
            return False
        if len(self._beats) >= _MAX_BEATS:
            del self._beats[next(iter(self._beats))]
        self._beats[nonce] = now
        self._heartbeat = common_pb2.Heartbeat(nonce=nonce)
        self._schedule_pump()
        return True

    def send_view(self, view: View) -> None:
        """Send a view."""
        self._view = view_to_wire(view)
        self._schedule_pump()

    def send_settled(self, epoch: int) -> None:
        """Tell that nothing is left at this node from before an epoch."""
        self._settled = epoch
        self._schedule_pump()

    async def say_leaving(self) -> None:
        """Tell the peer that this node leaves."""
        self._leaving = True
        await self._pump_or_close()

    def retire(self) -> None:
        """Close the link once nothing is under way on it. New requests should go elsewhere."""
        self._retire_after(_RETIRE_LOOKS)

    def _retire_after(self, looks: int) -> None:
        # Not at once, although nothing is under way here: something may be on its way from the peer.
        asyncio.get_running_loop().call_later(_RETIRE_S, self._close_if_idle, looks)

    def _close_if_idle(self, looks: int) -> None:
        if self.closed:
            return
        if looks and (self._waiting or self._tasks or self._replies):
            self._retire_after(looks - 1)
        else:
            self.close()

    async def drained(self) -> None:
        """Return when the peer has the answers to all that it has asked so far."""
        while self._tasks and not self.closed:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """End the link. Whoever waits for a reply gets `PeerUnavailable`. Safe to call twice."""
        self.closed = True
        if self._reader is not None:
            self._reader.cancel()
        for task in list(self._tasks):
            task.cancel()
        for waiting in self._waiting.values():
            if not waiting.done.done():
                lost = PeerUnavailable("the link to the peer was lost", sent=waiting.sent)
                waiting.done.set_exception(lost)

    def _schedule_pump(self) -> None:
        if self._pump_scheduled or self.closed:
            return
        self._pump_scheduled = True
        asyncio.get_running_loop().call_soon(self._start_pump)

    def _start_pump(self) -> None:
        self._pump_scheduled = False
        if self.closed:
            return
        task = asyncio.create_task(self._pump_or_close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump_or_close(self) -> None:
        try:
            await self._outbox.pump()
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - grpc.aio raises half a dozen kinds for a stream that has ended
            self.close()

    def _compose(self) -> peer_pb2.PeerFrame | None:
        if not (
            self._requests
            or self._replies
            or self._heartbeat
            or self._answer
            or self._view
            or self._settled
            or self._hello
            or self._leaving
        ):
            return None
        requests, size = [], 0
        while self._requests and size < _FRAME_SOFT_BYTES:
            waiting = self._requests.pop(0)
            assert waiting.batch is not None
            waiting.sent = True
            size += waiting.batch.ByteSize()
            requests.append(waiting.batch)
            waiting.batch = None
        replies = []
        while self._replies and size < _FRAME_SOFT_BYTES:
            reply = self._replies.pop(0)
            size += reply.ByteSize()
            replies.append(reply)
        heartbeat, self._answer = self._answer, None
        if heartbeat is None:
            heartbeat, self._heartbeat = self._heartbeat, None
        frame = peer_pb2.PeerFrame(
            hello=self._hello,
            view=self._view,
            settled_epoch=self._settled,
            requests=requests,
            replies=replies,
            heartbeat=heartbeat,
            leaving=self._leaving,
        )
        self._hello = self._view = None
        self._leaving, self._settled = False, 0
        return frame

    def __repr__(self) -> str:
        peer = self.peer.id if self.peer else "?"
        return f"<Link to {peer} dialled={self.dialled} closed={self.closed} waiting={len(self._waiting)}>"
