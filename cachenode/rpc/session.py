"""SessionService: the SDK's ordered stream.

One reader per stream takes frames and lets the node execute their batches. What is known at once is queued in frame
order; the rest is queued by tasks as it becomes known. Who reads also writes, and waits for other writers once much is
unsent: a client that does not read its replies is soon not read from either, and only its stream waits (`Outbox`).

Where most keys of a frame must be fetched from elsewhere, the few that are known are held for up to `_HOLD_S` to leave
with the others. A frame of their own would cost more than it brings, and their callers, who come again at once, would
make small frames of the large ones for good.

A client with a near cache is a holder of copies (`cachenode.node.invalidations`). What it must drop goes into the same
ordered stream as the records it may keep; its lease is an answer in that stream, so a client that hears of its lease
has heard of all that was invalidated before. A frame names what is to be dropped before its records, and the client
keeps no record of a frame that is covered by that. So when the replies of a frame are too many and the rest follows in
a later one, that rest may not be kept (``test_replies_that_follow_an_invalidation_are_not_kept``). Should telling
fail, its number is used up all the same: the client notices the gap, and drops all that it has from here
(``test_failed_word_leaves_a_gap``).

The end of a stream does not end its lease: gRPC shows a lost connection as it shows a client that is done sending.
Only a goodbye says that the client serves nothing any more (``test_only_a_goodbye_ends_the_lease``).

A stream whose client went silent is ended by `reap`: a frozen or vanished client keeps its connection open for
minutes otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import grpc
import structlog
from grpc import aio

from cachenode.core.access import Role
from cachenode.core.entries import BatchResult, Failure, Operation
from cachenode.core.failures import failed, over_rate, too_many
from cachenode.defects import new_request_id, told
from cachenode.node.service import Node
from cachenode.outbox import Outbox
from cachenode.rpc.gate import GRANT, NOT_ALLOWED
from cachenode.traced import execute_traced
from cachenode.wire import BadBatch, batch_from_wire, invalidation_to_wire, replies_to_wire, view_to_wire
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.metadata import REQUEST_ID_KEY
from cachenode_api.reasons import Reason
from cachenode_api.tracing import switch
from cachenode_api.v1 import common_pb2, session_pb2, session_pb2_grpc

if TYPE_CHECKING:
    from cachenode.core.entries import Batch
    from cachenode.core.holders import Holder
    from cachenode.core.rates import Bucket, Rates
    from cachenode.rpc.audit import Audit
    from cachenode_api.selectors import Selector
    from cachenode_api.view import View

__all__ = ["SessionLimits", "SessionService"]

_log = structlog.get_logger(__name__)

_FRAME_SOFT_BYTES = 1 << 20
_SILENCE_S = 60.0
"""Four times what an idle client leaves between heartbeats. A dead connection ends long before, by gRPC's pings."""
_MOST_UNSENT = 64
"""Replies, each of at most some megabytes, that may wait before a client that reads slowly is not read from."""
_MOST_UNTOLD = 10_000
_ENDS_LOADS = (Operation.FULFILL, Operation.ABANDON)
_FAREWELL_S = 0.5
_HOLD_S = 0.001
"""How long the smaller part of a frame's answers may wait for the larger: a round trip to an L2 nearby and its work."""


class SessionLimits:
    """Bounds of a session.

    Args:
        max_sessions: Open sessions of this node.
        max_batch_keys: Keys in one batch.
        max_frame_bytes: Bytes in one frame, either way.
        max_keys: Keys of one session that wait for an answer.
    """

    __slots__ = ("max_batch_keys", "max_frame_bytes", "max_keys", "max_sessions")

    def __init__(
        self, *, max_sessions: int, max_batch_keys: int, max_frame_bytes: int, max_keys: int = 100_000
    ) -> None:
        self.max_sessions = max_sessions
        self.max_batch_keys = max_batch_keys
        self.max_frame_bytes = max_frame_bytes
        self.max_keys = max_keys


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Serves sessions.

    Args:
        node: Executes the batches.
        limits: Bounds.
        audit: Takes note of invalidations of more than keys; None for nobody.
        rates: How many keys a second each identity may ask for; None for any number.
    """

    def __init__(
        self, node: Node, limits: SessionLimits, audit: Audit | None = None, rates: Rates | None = None
    ) -> None:
        self._node = node
        self._rates = rates
        self._audit = audit
        self._limits = limits
        self._sessions: set[_Session] = set()
        self.refused = 0
        """Sessions that were one too many."""
        self._draining = False
        self._gone: asyncio.Future[None] | None = None
        node.placement.listeners.append(self._view_changed)

    def __len__(self) -> int:
        return len(self._sessions)

    async def Session(  # type: ignore[override]  # noqa: N802 - the wire's name; writes through the context
        self,
        request_iterator: AsyncIterator[session_pb2.ClientFrame],
        context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame],
    ) -> None:
        """Serve one stream until the client ends it, falls silent, or the node stops."""
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is stopping; use another")
        if len(self._sessions) >= self._limits.max_sessions:
            self.refused += 1
            text = f"sessions: the node has its limit of {self._limits.max_sessions:,} open"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        session = _Session(self._node, self._limits, context, self._audit, self._rates)
        self._sessions.add(session)
        try:
            await session.run(request_iterator)
        except asyncio.CancelledError:
            if not session.ended:
                raise
        finally:
            self._sessions.discard(session)
            session.close()
            if self._gone is not None and not self._gone.done():
                self._gone.set_result(None)
        if session.ended:
            await _say_ended(context, session.defect)

    def _view_changed(self, _former: View | None, view: View) -> None:
        message = view_to_wire(view)
        for session in self._sessions:
            session.send_view(message)

    def reap(self, now: float) -> int:
        """End the sessions that have been silent for a minute. Return how many."""
        silent = [session for session in self._sessions if now - session.heard_at > _SILENCE_S]
        for session in silent:
            session.end()
        return len(silent)

    async def drain(self, timeout_s: float) -> None:
        """Tell the clients to go, and wait until they have; then end the streams that are left.

        A client goes when all that it has sent here is answered. Takes at most `timeout_s`.
        """
        self._draining = True
        for session in self._sessions:
            session.send_draining()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._sessions:
                    self._gone = asyncio.get_running_loop().create_future()
                    await self._gone
        for session in list(self._sessions):
            session.end()


class _Session:
    """One client's stream."""

    def __init__(
        self,
        node: Node,
        limits: SessionLimits,
        context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame],
        audit: Audit | None = None,
        rates: Rates | None = None,
    ) -> None:
        self.heard_at = node.clock.now()
        self.ended = False
        self.defect = ""
        """What the defect that has ended it is called in the log; empty if none has."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._node = node
        self._limits = limits
        self._audit, self._peer = audit, context.peer() if audit is not None else ""
        self._reader = asyncio.current_task()
        self._outbox = Outbox(self._compose, context.write)
        self._pending_keys = 0
        self._replies: list[common_pb2.Reply] = []
        self._view: common_pb2.View | None = None
        self._heartbeat: common_pb2.Heartbeat | None = None
        self._say_draining = False
        self._reading = False
        self._pump_due = False
        self._held: asyncio.TimerHandle | None = None
        self._asked = self._answered = 0
        self._leases = 0
        """At least as many loads as this session has open."""
        self._near: Holder[asyncio.Future[None]] | None = None
        self._grant = GRANT.get()
        self._rates = rates
        self._bucket = rates.of(self._grant, self.heard_at) if rates is not None and self._grant is not None else None
        self._invalidations: list[common_pb2.Invalidation] = []
        self._said_goodbye = False

    async def run(self, frames: AsyncIterator[session_pb2.ClientFrame]) -> None:
        """Read frames and write replies until the stream ends."""
        await self._outbox_hello()
        async for frame in frames:
            self.heard_at = self._node.clock.now()
            if frame.HasField("hello") and frame.hello.near_cache and self._near is None:
                self._near = self._node.invalidations.holder(self._tell)
            if frame.acknowledged and self._near is not None:  # before its heartbeat: a laggard gets no lease
                self._node.invalidations.heard(self._near, frame.acknowledged)
            self._reading = True  # what is known at once leaves together, below
            self._asked = self._answered = 0
            for message in frame.batches:
                self._begin(message)
            self._reading = False
            if frame.HasField("heartbeat"):
                self._heartbeat = self._answer(frame.heartbeat)
            if frame.goodbye:
                self._said_goodbye = True
                return
            if 0 < 2 * self._answered < self._asked:
                self._hold()
            else:
                await self._outbox.pump()
            if len(self._replies) > _MOST_UNSENT:
                await self._outbox.quiet()

    async def _outbox_hello(self) -> None:
        me, view = self._node.placement.me, self._node.placement.view
        self._hello: session_pb2.ServerHello | None = session_pb2.ServerHello(
            node_id=me.id,
            incarnation=me.incarnation,
            max_frame_bytes=self._limits.max_frame_bytes,
            max_batch_keys=self._limits.max_batch_keys,
        )
        self._view = view_to_wire(view) if view is not None else None
        await self._outbox.pump()

    def _begin(self, message: common_pb2.Batch) -> None:
        batch_id = message.id
        try:
            batch = batch_from_wire(message, max_keys=self._limits.max_batch_keys)
        except BadBatch as bad:
            self._replies.append(refusal(message, str(bad)))
            return

        batch.near = near = self._near

        def reply(result: BatchResult) -> None:
            if result.near and near is not None:
                self._expose(batch, result, near)
            if batch.operation is Operation.BARRIER and self._audit is not None:
                self._audit.barrier(batch, self._grant, self._peer, result)
            self._replies.extend(replies_to_wire(batch_id, result, max_bytes=_FRAME_SOFT_BYTES))
            if self._reading:
                self._answered += len(result.records or result.versions)
            else:
                self._spawn_pump()

        self._asked += len(batch.keys)
        if refused := self._too_many(batch):
            reply(failed(batch, dict.fromkeys(range(len(batch.keys)), refused)))
            return
        if self._grant is not None and not self._grant.allows(_role_for(batch), batch.namespace or DEFAULT_NAMESPACE):
            reply(failed(batch, dict.fromkeys(range(len(batch.keys)), NOT_ALLOWED)))
            return
        if message.traceparent and switch.tracer is not None:
            execute = partial(self._node.execute, batch, holder=self)
            rest = execute_traced(message.traceparent, self._node.placement.me.id, batch, reply, execute)
        else:
            rest = self._node.execute(batch, reply, holder=self)
        if rest is not None:
            self._pending_keys += len(batch.keys)
            task = asyncio.create_task(self._finish(batch, rest))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _too_many(self, batch: Batch) -> Failure | None:
        """Return why a batch is more than the session may have under way; None if it is not.

        Leases end in several ways, so they are counted only once as many have been asked for as may be open.
        """
        waiting = self._pending_keys + len(batch.keys)
        if waiting > self._limits.max_keys:
            return too_many("keys under way", waiting, self._limits.max_keys)
        if batch.operation is Operation.LEASE:
            most = self._node.limits.leases
            self._leases += len(batch.keys)
            if self._leases > most:
                self._leases = self._node.loads.held(self) + len(batch.keys)
            if self._leases > most:
                return too_many("loads open", self._leases, most)
        return self._over_rate(self._bucket, batch) if self._bucket is not None else None

    def _over_rate(self, bucket: Bucket, batch: Batch) -> Failure | None:
        """Return why a batch is beyond its caller's rate; None if it is not. What ends a load never is."""
        wait_s = bucket.take(len(batch.keys), self._node.clock.now(), anyway=batch.operation in _ENDS_LOADS)
        if not wait_s or self._rates is None or self._grant is None:
            return None
        self._rates.refused += 1
        _log.warning("over_rate", who=self._grant.name, method="Session")
        return over_rate(bucket.per_s, wait_s)

    def _expose(self, batch: Batch, result: BatchResult, near: Holder[asyncio.Future[None]]) -> None:
        namespace = self._node.namespaces.get(batch.namespace)
        assert namespace is not None, "a result came of it"
        if namespace.exposure.full or self._node.invalidations.ending:
            result.near = False
            return
        keys = batch.keys
        if result.indices is not None:  # else all were found
            keys = [keys[at] for at, record in zip(result.indices, result.records, strict=True) if record]
        namespace.exposure.note(keys, near)

    def _tell(self, namespace: str, keys: Sequence[bytes], selectors: Sequence[Selector]) -> None:
        """Queue an invalidation."""
        assert self._near is not None, "only a holder is told"
        self._near.sequence += 1
        try:
            self._invalidations.append(invalidation_to_wire(namespace, keys, selectors))
        except Exception as error:  # noqa: BLE001 - a defect: the gap in the numbers makes the client drop everything
            _log.error("invalidation_failed", error_type=type(error).__name__, exc_info=error)
        if len(self._invalidations) > _MOST_UNTOLD:  # it does not read: without the stream it drops all by itself
            self.end()
        elif not self._reading:
            self._spawn_pump()

    def _answer(self, question: common_pb2.Heartbeat) -> common_pb2.Heartbeat:
        answer = common_pb2.Heartbeat(nonce=question.nonce, answer=True)
        if self._near is not None:
            answer.lease_ms = int(self._node.invalidations.grant(self._near) * 1_000)
        return answer

    async def _finish(self, batch: Batch, rest: object) -> None:
        try:
            await rest  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - a defect: what is unanswered never will be, so let the client know
            self.defect = new_request_id()
            _log.error("batch_failed", request_id=self.defect, error_type=type(error).__name__, exc_info=error)
            self.end()
        finally:
            self._pending_keys -= len(batch.keys)

    def _compose(self) -> session_pb2.ServerFrame | None:
        if not (
            self._replies or self._invalidations or self._heartbeat or self._view or self._hello or self._say_draining
        ):
            return None
        replies, self._replies = self._replies, []
        if len(replies) > 1:
            replies = self._fit(replies)
        invalidations, self._invalidations = self._invalidations, []
        if self._replies and (invalidations or self._view):
            for later in self._replies:
                later.near = False
        frame = session_pb2.ServerFrame(
            hello=self._hello,
            view=self._view,
            replies=replies,
            heartbeat=self._heartbeat,
            draining=self._say_draining,
            invalidations=invalidations,
            sequence=self._near.sequence if self._near is not None else 0,
        )
        self._hello = self._view = self._heartbeat = None
        self._say_draining = False
        return frame

    def _fit(self, replies: list[common_pb2.Reply]) -> list[common_pb2.Reply]:
        """Return as many replies as fit in a frame; put the others back."""
        size = 0
        for at, reply in enumerate(replies):
            size += reply.ByteSize()
            if size > 2 * _FRAME_SOFT_BYTES and at:
                self._replies = replies[at:]
                return replies[:at]
        return replies

    def send_view(self, view: common_pb2.View) -> None:
        """Queue a view."""
        self._view = view
        self._spawn_pump()

    def send_draining(self) -> None:
        """Queue the word that the node is leaving."""
        self._say_draining = True
        self._spawn_pump()

    def _hold(self) -> None:
        if self._held is None:
            self._held = asyncio.get_running_loop().call_later(_HOLD_S, self._spawn_pump)

    def _spawn_pump(self) -> None:
        self._release()
        if self._pump_due or self._outbox.writing:  # whoever writes looks again when that is done
            return
        self._pump_due = True
        task = asyncio.create_task(self._pump_quietly())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    async def _pump_quietly(self) -> None:
        self._pump_due = False
        try:
            await self._outbox.pump()
        except (aio.UsageError, asyncio.InvalidStateError, grpc.RpcError, aio.AioRpcError):
            self.end()

    def end(self) -> None:
        """End the stream."""
        if self._reader is not None and not self.ended:
            self.ended = True
            self._reader.cancel()

    def close(self) -> None:
        """Stop what is still under way for a stream that has ended, and let others load what it was to load."""
        if self._near is not None:
            self._node.invalidations.ended(self._near, said_so=self._said_goodbye)
        self._node.loads.release(self)
        self._release()
        for task in list(self.tasks):
            task.cancel()


async def _say_ended(
    context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame], defect: str
) -> None:
    """Tell the client that the node has ended the stream: grpc.aio says nothing when a handler is cancelled.

    Not for long: the status waits behind what a client that does not read has not taken.

    Args:
        context: Of the stream.
        defect: What the defect that has ended it is called in the log; empty for none.
    """
    text = told(defect) if defect else "the node has ended the session; open a new one"
    named = ((REQUEST_ID_KEY, defect),) if defect else ()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await context.abort(grpc.StatusCode.UNAVAILABLE, text, trailing_metadata=named)


def refusal(message: common_pb2.Batch, text: str) -> common_pb2.Reply:
    """Return the reply that fails every key of a malformed batch, with one text: a stranger chose the count."""
    count = max(len(message.keys), 1)
    is_get = message.operation == common_pb2.OPERATION_GET
    return common_pb2.Reply(
        id=message.id,
        records=[b""] * count if is_get else (),
        versions=() if is_get else [0] * count,
        reasons=[Reason.INVALID_REQUEST.value] * count,
        details=[text],
    )


def _role_for(batch: Batch) -> Role:
    """Return the role that a batch takes. A LEASE lets its caller store what it loads, and a slide is a write."""
    return Role.READ if batch.operation is Operation.GET and not batch.slide else Role.WRITE
