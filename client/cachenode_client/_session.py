"""A session: one long-lived stream to one node.

A gRPC message costs a few hundred microseconds in Python whatever it carries. So nothing is sent at once: calls join
open batches, and the writer, woken once, sends all that has gathered in the turn as one frame. While a frame is being
written the next one gathers.

A steady crowd of callers would then march in lock-step: all ask, the node works while they wait, all are answered, they
work while the node waits. So a large batch that leaves while nothing is under way leaves in halves, a frame each; from
then on one half is with the node while the other is with the callers. And a crowd that is answered in parts falls apart
into ever smaller frames, until they are all it has time for. So a frame that is small beside what is under way waits a
moment for more to join it.

Liveness is counted here, not left to the transport: a frozen node keeps its connection open. Every half second a
heartbeat goes out, four times a minute while there is nothing to lose. If nothing is heard for two seconds the session
is over. A check that itself comes late proves only that *this* process was held up, so it is skipped.

With a near cache the heartbeats ask for the lease, and their answers bring it. The lease counts from the moment of the
question: an answer may have lain on the way for any time. What a frame says to drop is dropped before its records are
kept, and what it covers is not kept at all, since the frame does not tell which came first. Then the view, then the
lease; at last the node is told up to which number this client has acted. Should that fail, for whatever reason, the
session ends and its copies with it, and nothing is acknowledged (``test_failed_drop_ends_the_session``).

A node that leaves says so: from then on calls go elsewhere (`Router`), and when the last one here is answered, the
stream is ended from this side. So no call is lost on its way to a node that has gone.

The stream is always cancelled at the end: grpcio 1.83 and later otherwise keep the handler of a dropped stream
running on the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from cachenode_api.errors import InvalidSelector
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.selectors import make_selector
from cachenode_api.v1 import common_pb2, session_pb2, session_pb2_grpc
from cachenode_client._batches import (
    CHANGES,
    KEY_OVERHEAD,
    LEASE,
    EachBatch,
    Group,
    ManyBatch,
    PendingBatch,
    Waiter,
    give_back,
    malformed,
)
from cachenode_client._channels import Channels, defect
from cachenode_client._near import MAX_AGE_S, NearCache, Shelf, boot_clock, everything
from cachenode_client.errors import CacheError, CacheTimeout, CacheUnavailable

if TYPE_CHECKING:
    from cachenode_api.v1.session_pb2 import ServerFrame
    from cachenode_client._near import Covers

__all__ = ["Session", "covered_by"]

HEARTBEAT_S = 0.5
SILENCE_S = 2.0
MAX_BATCH_KEYS = 4_096
"""Keys of one caller that leave as one batch."""
_BATCH_KEYS = 1_000
_SPLIT_KEYS = 32
"""From how many keys a batch is worth two frames: a frame costs about as much as twenty keys."""
_SMALL = 8
"""A frame with fewer keys than an eighth of those that other callers wait for is small: it is held for `_HOLD_S`."""
_HOLD_S = 0.001
_TICK_S = 0.0005
"""What is due so soon is due now: uvloop's clock has milliseconds, and it makes a shorter delay none at all."""
_BATCH_BYTES = 1 << 20
_FRAME_BYTES = 2 << 20
_DEFAULT_FRAME_LIMIT = 4 << 20
_IDLE_HEARTBEAT_S = 15.0
"""Time between heartbeats of a session that has nothing to do and no copies: a node may have thousands of those, and a
process hundreds. Five hundred that asked every three seconds took a third of two cores."""
_QUESTIONS = 20
"""Heartbeats whose answers may still bring a lease."""
_GOODBYE_S = 0.2
"""How long a session that is closed waits for the node to take its leave."""
_SWEEP = 2_000
"""Copies looked at every half second: a millisecond or two."""
_Keys = set[tuple[str, bytes]] | frozenset[tuple[str, bytes]]
_NOTHING: _Keys = frozenset()
_FRAME_OVERHEAD = 4_096


class Session:
    """One stream to one node.

    Args:
        address: The node's host:port.
        client_name: Told to the node, for people.
        sdk_version: Told to the node.
        on_frame: Called with each frame that holds a hello, a view or the word that the node leaves.
        on_end: Called first thing when the session ends: nothing should be sent here any more.
        on_reply: Called when batches have ended: the moment to send what has gathered elsewhere meanwhile.
        near: Gets copies of what is read; None for no copies.
        channels: Connects to the node.
    """

    def __init__(
        self,
        address: str,
        *,
        client_name: str,
        sdk_version: str,
        on_frame: Callable[[Session, ServerFrame], None],
        on_end: Callable[[Session], None],
        on_reply: Callable[[], None],
        near: NearCache | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.address = address
        self._channels = channels or Channels()
        self.node_id = ""
        self.incarnation = ""
        self.ready = False
        self.max_value_bytes = _DEFAULT_FRAME_LIMIT - _FRAME_OVERHEAD
        self.max_batch_keys = MAX_BATCH_KEYS
        self.frames_sent = 0
        self._batch_keys = _BATCH_KEYS
        self._batch_bytes = _BATCH_BYTES
        self._frame_bytes = _FRAME_BYTES
        self._on_frame = on_frame
        self._on_reply = on_reply
        self._on_end = on_end
        self._hello: session_pb2.ClientHello | None = session_pb2.ClientHello(
            client_name=client_name, sdk_version=sdk_version, near_cache=near is not None
        )
        self.shelf = Shelf()
        self._near = near
        self._sequence = 0
        self._acknowledged = 0
        self._asked_at: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._open: dict[Group, EachBatch] = {}
        self._queue: list[PendingBatch] = []
        self._sent: dict[int, PendingBatch] = {}
        self._waits = 0
        self._next_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._wake: asyncio.Future[None] | None = None
        self._held: asyncio.TimerHandle | None = None
        self._resting: asyncio.Future[None] | None = None
        self._heartbeat: common_pb2.Heartbeat | None = None
        self._goodbye = False
        self._defect = ""
        self._closing = False
        self._draining = False
        self._nonce = 0
        self._kept_at = self._asked_last = -math.inf
        self._asked_since = math.inf  # the first question after which nothing was heard
        self._ask_for_lease()

    # Calls.

    def join(self, group: Group, key: bytes, waiter: Waiter) -> None:
        """Let one key without a value join the open batch of its group: `submit` for the hot path."""
        batch = self._open.get(group)
        if batch is None:
            batch = self._open[group] = EachBatch(group)
            self._enqueue(batch)
        keys = batch.keys
        keys.append(key)
        batch.waiters.append(waiter)
        if len(keys) >= self._batch_keys:
            del self._open[group]

    def submit(
        self, group: Group, key: bytes, waiter: Waiter, *, value: bytes | None = None, flags: int = 0, ttl_ms: int = 0
    ) -> None:
        """Let one key join the open batch of its group. The waiter gets the result, a failure, or a timeout."""
        if self._near is not None and group[0] in CHANGES:
            self._near.drop(group[1], key)  # a caller reads its own writes, also before the node's word
        size = len(key) + KEY_OVERHEAD if value is None else len(key) + len(value) + KEY_OVERHEAD
        batch = self._open.get(group)
        if batch is None or batch.size + size > self._batch_bytes:
            batch = self._open[group] = EachBatch(group)
            self._enqueue(batch)
        batch.keys.append(key)
        batch.waiters.append(waiter)
        batch.size += size
        if value is not None:
            batch.values.append(value)
            batch.flags.append(flags)
        ttls_ms = batch.ttls_ms
        if ttl_ms and len(ttls_ms) == len(batch.keys) - 1:
            ttls_ms.append(ttl_ms)
        elif ttl_ms or ttls_ms:
            self._add_ttl(batch, ttl_ms)
        if len(batch.keys) >= self._batch_keys:
            del self._open[group]

    def _add_ttl(self, batch: PendingBatch, ttl_ms: int) -> None:
        before = len(batch.keys) - 1 - len(batch.ttls_ms)
        if before:
            batch.ttls_ms.extend([0] * before)
        batch.ttls_ms.append(ttl_ms)

    def submit_many(self, group: Group, batch: ManyBatch) -> None:
        """Send a batch of one caller as it is."""
        batch.group = group
        if self._near is not None and group[0] in CHANGES:
            self._near.drop_many(group[1], batch.keys)
        self._enqueue(batch)

    def _enqueue(self, batch: PendingBatch) -> None:
        self._next_id += 1
        batch.id = self._next_id
        if self._closing:  # whoever still holds this session: fail the batch once the turn has filled it
            self._queue.append(batch)
            self._loop.call_soon(self._fail_all)
            return
        self._waits += batch.group[0] == LEASE
        batch.deadline = deadline = self._loop.time() + batch.group[2]
        if deadline < self._timer_at:
            self._arm(deadline)
        self._queue.append(batch)
        if self._resting is not None:
            self._stir()
        self._rouse()

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    def _expire(self) -> None:
        """Fail the batches whose time is over, and arm the timer for the next one.

        One timer for all: it goes off at the earliest deadline, which in steady traffic has been met long since, and
        then finds the next.
        """
        now = self._loop.time() + _TICK_S
        self._timer, self._timer_at = None, math.inf
        late = [batch for batch in self._sent.values() if batch.deadline <= now]
        late += [batch for batch in self._queue if batch.deadline <= now]
        for batch in late:
            if self._open.get(batch.group) is batch:
                del self._open[batch.group]
            if not batch.sent:
                self._queue.remove(batch)
            self._forget(batch)
            batch.fail(CacheTimeout)
        self._on_reply()
        waiting = [batch.deadline for batch in self._sent.values()] + [batch.deadline for batch in self._queue]
        if waiting:
            self._arm(min(waiting))

    def _forget(self, batch: PendingBatch) -> None:
        self._sent.pop(batch.id, None)
        self._waits -= batch.group[0] == LEASE

    @property
    def in_flight(self) -> int:
        """Batches that will soon be answered: without those that wait for others to load."""
        return len(self._sent) + len(self._queue) - self._waits

    # The stream.

    async def run(self) -> None:
        """Hold the stream until it ends, then fail what is under way.

        Raises:
            CacheUnavailable: The stream ended for another reason than `close`. A defect here is one too; the loop's
                handler of exceptions is told.
        """
        tasks: list[asyncio.Task[None]] = []
        metadata = self._channels.metadata()
        channel = self._channels.open(self.address)
        call = session_pb2_grpc.SessionServiceStub(channel).Session(metadata=metadata)
        try:
            tasks = [
                asyncio.create_task(self._write(call)),
                asyncio.create_task(self._read(call)),
                asyncio.create_task(self._watch()),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError) as error:
            self._defect = defect(error)
            raise CacheUnavailable(f"The session with a node ended: {self._channels.status(error)}.") from None
        except CacheError:
            raise
        except Exception as error:
            self._loop.call_exception_handler({"message": "A cachenode session failed", "exception": error})
            raise CacheUnavailable(f"The session with a node ended: {type(error).__name__}.") from error
        finally:
            leased = self._near is not None and self.frames_sent  # or soon would be: the answer may be on its way
            self.shelf.lose()
            self.ready = False
            self._closing = True
            self._on_end(self)
            try:
                if leased and not any(task.done() for task in tasks):
                    await self._say_goodbye(tasks)
            finally:
                for task in tasks:
                    task.cancel()
                call.cancel()
                self._fail_all()
                await asyncio.gather(*tasks, return_exceptions=True)
                await channel.close()

    async def _say_goodbye(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let the node know that its copies are served no more: else writers of their keys wait for the lease's end."""
        self._goodbye = True
        self._rouse()
        await asyncio.wait(tasks, timeout=_GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)

    async def _write(self, call: aio.StreamStreamCall[session_pb2.ClientFrame, ServerFrame]) -> None:
        while True:
            frame = None if self._hold() else self._compose()
            if frame is None and self._draining and not self._sent:
                await call.done_writing()  # the node waits for this: nothing is on its way to it any more
                return
            if frame is None:
                self._wake = self._loop.create_future()
                await self._wake
                continue
            await call.write(frame)
            self.frames_sent += 1

    def _hold(self) -> bool:
        """Return True if what is queued should wait for more: till the next reply brings it, or for `_HOLD_S`."""
        if not self._sent or not self._queue or self._hello is not None or self._heartbeat is not None:
            return False
        if self._acknowledged != self._sequence or self._goodbye:
            return False
        crowd = sum([batch.left for batch in self._sent.values() if _of_a_crowd(batch)])
        queued = sum([len(batch.keys) for batch in self._queue])
        first = self._queue[0]
        due = first.deadline - first.group[2] + _HOLD_S
        if queued * _SMALL >= crowd or self._loop.time() >= due - _TICK_S:
            return False
        if self._held is None:
            self._held = self._loop.call_at(due, self._hold_no_more)
        return True

    def _hold_no_more(self) -> None:
        self._held = None
        self._rouse()

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _compose(self) -> session_pb2.ClientFrame | None:
        acted = self._acknowledged == self._sequence
        if not self._queue and self._heartbeat is None and self._hello is None and acted and not self._goodbye:
            return None
        self._acknowledged = self._sequence
        self._release()
        if self._heartbeat is None and self._loop.time() - self._asked_last > HEARTBEAT_S:
            self._ask_for_lease()  # it was idle; what this frame brings may be worth keeping
        later = self._break_step()
        batches, size, queue = [], 0, self._queue
        taken = 0
        for batch in queue:
            more = batch.measure()
            if size and size + more > self._frame_bytes:
                break
            size += more
            taken += 1
            if self._open.get(batch.group) is batch:
                del self._open[batch.group]
            self._sent[batch.id] = batch
            batches.append(batch.to_wire())
        self._queue = queue[taken:]
        if later is not None:
            self._queue.append(later)
        frame = session_pb2.ClientFrame(
            hello=self._hello,
            batches=batches,
            heartbeat=self._heartbeat,
            acknowledged=self._acknowledged,
            goodbye=self._goodbye,
        )
        self._hello = self._heartbeat = None
        self._goodbye = False
        return frame

    def _break_step(self) -> EachBatch | None:
        """Return half of the callers' keys, for a frame of its own, if they would otherwise all wait for one answer."""
        if len(self._queue) != 1:
            return None
        batch = self._queue[0]
        if not isinstance(batch, EachBatch) or len(batch.keys) < _SPLIT_KEYS:
            return None
        if self.in_flight > 1 or (self._sent and batch.group[0] == LEASE):  # a LEASE may be one that only waits
            return None
        later = batch.split()
        self._waits += batch.group[0] == LEASE
        self._next_id += 1
        later.id = self._next_id
        self._open.pop(batch.group, None)
        return later

    async def _read(self, call: aio.StreamStreamCall[session_pb2.ClientFrame, ServerFrame]) -> None:
        async for frame in call:
            self._asked_since = math.inf
            doomed = self._drop(frame) if frame.sequence != self._sequence else _NOTHING
            if frame.replies:
                self._hand_over(frame, doomed)
            if not self._closing:  # who says goodbye is nobody's session any more, also if the hello comes only now
                self._heard(frame)
            if frame.heartbeat.lease_ms:
                self._renew(frame.heartbeat)
            self._draining = self._draining or frame.draining
            if self._acknowledged != self._sequence or self._draining:
                self._rouse()
        raise CacheUnavailable("The node ended the session.")

    def _heard(self, frame: ServerFrame) -> None:
        if frame.HasField("hello"):
            self._greeted(frame.hello)
        if frame.HasField("hello") or frame.HasField("view") or frame.draining:
            self._on_frame(self, frame)

    def _hand_over(self, frame: ServerFrame, doomed: _Keys | None) -> None:
        near, sent = self._near, self._sent
        for reply in frame.replies:
            batch = sent.get(reply.id)
            if batch is None:
                continue  # its time was over
            if near is not None and reply.records:
                with contextlib.suppress(IndexError):  # malformed: `_take` says so
                    self._keep(near, batch, reply, doomed)
            if self._take(batch, reply):
                self._forget(batch)
        self._on_reply()
        if self._held is not None:
            self._rouse()

    # The near cache.

    def _drop(self, frame: ServerFrame) -> _Keys | None:
        """Drop what a frame says is untrue. Return the keys of which nothing of it may be kept; None for all."""
        assert self._near is not None, "a node numbers invalidations only for those who want them"
        doomed: set[tuple[str, bytes]] | None = set()
        if self._sequence + len(frame.invalidations) != frame.sequence:  # some were lost
            self.shelf.bar(everything)
            doomed = None
        for invalidation in frame.invalidations:
            namespace = invalidation.namespace
            self._near.drop_many(namespace, invalidation.keys)
            if invalidation.selectors:
                self.shelf.bar(covered_by(namespace, invalidation.kinds, invalidation.selectors))
                doomed = None
            elif doomed is not None:
                doomed.update([(namespace, key) for key in invalidation.keys])
        self._sequence = frame.sequence  # last: what this client has not acted on it does not acknowledge
        return doomed

    def _keep(self, near: NearCache, batch: PendingBatch, reply: common_pb2.Reply, doomed: _Keys | None) -> None:
        """Keep copies of a reply's records, if the node has noted that this client does; else drop older ones."""
        namespace = batch.group[1]
        keys = [batch.keys[index] for index in reply.indices] if reply.indices else batch.keys
        if not reply.near or doomed is None:
            if near.used_bytes:
                near.drop_many(namespace, keys)
            return
        self._kept_at = self._loop.time()
        sent_at = boot_clock() - (self._loop.time() - (batch.deadline - batch.group[2]))
        for key, record in zip(keys, reply.records, strict=False):
            if record and (namespace, key) not in doomed:
                near.keep(namespace, key, record, self.shelf, sent_at=sent_at, now_s=reply.now_s)
            elif near.used_bytes:
                near.drop(namespace, key)

    def _ask_for_lease(self) -> None:
        nonce, now = self._nonce, self._loop.time()
        self._nonce += 1
        self._asked_last = now
        self._asked_since = min(self._asked_since, now)
        self._heartbeat = common_pb2.Heartbeat(nonce=nonce)
        self._asked_at = {asked: at for asked, at in self._asked_at.items() if asked > nonce - _QUESTIONS}
        self._asked_at[nonce] = boot_clock()

    def _renew(self, answer: common_pb2.Heartbeat) -> None:
        asked_at = self._asked_at.pop(answer.nonce, None)
        if asked_at is not None:
            self.shelf.renew(asked_at + answer.lease_ms / 1_000)

    def _take(self, batch: PendingBatch, reply: common_pb2.Reply) -> bool:
        try:
            complete = batch.take(reply)
        except (ValueError, IndexError):
            batch.fail(malformed)
            return True
        if isinstance(batch, EachBatch) and batch.orphans:
            back = give_back(batch.group, batch.orphans)
            self.submit_many(back.group, back)
            batch.orphans = []
        return complete

    def _greeted(self, hello: session_pb2.ServerHello) -> None:
        self.node_id = hello.node_id
        self.incarnation = hello.incarnation
        self.max_value_bytes = max(1, (hello.max_frame_bytes or _DEFAULT_FRAME_LIMIT) - _FRAME_OVERHEAD)
        self._batch_bytes = min(_BATCH_BYTES, self.max_value_bytes)
        self.max_batch_keys = min(MAX_BATCH_KEYS, hello.max_batch_keys or MAX_BATCH_KEYS)
        fitting = self._batch_bytes // (MAX_KEY_BYTES + KEY_OVERHEAD)
        self._batch_keys = max(1, min(_BATCH_KEYS, self.max_batch_keys, fitting))
        self._frame_bytes = min(_FRAME_BYTES, self.max_value_bytes)
        self.ready = True

    async def _watch(self) -> None:
        while True:
            slept_at = self._loop.time()
            if self._idle(slept_at) and not (self._near is not None and len(self._near)):
                await self._rest(_IDLE_HEARTBEAT_S)
            else:
                await asyncio.sleep(HEARTBEAT_S)
            now = self._loop.time()
            if now - slept_at < 2 * HEARTBEAT_S and now - self._asked_since > SILENCE_S - HEARTBEAT_S:
                raise CacheUnavailable("The node has not been heard from for two seconds.")
            if not self._idle(now) or now - self._asked_last >= _IDLE_HEARTBEAT_S:
                self._ask_for_lease()
                self._rouse()
            if self._near is not None:
                self._near.sweep(_SWEEP)

    def _idle(self, now: float) -> bool:
        """Return True if nothing is under way, no answer is awaited, and there are no copies whose lease must go on."""
        under_way = self._sent or self._queue or self._asked_since < math.inf
        return not under_way and (self._near is None or now - self._kept_at > MAX_AGE_S)

    async def _rest(self, seconds: float) -> None:
        """Wait until there is something to watch over again, but no longer than this."""
        self._resting = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._stir)
        try:
            await self._resting
        finally:
            timer.cancel()
            self._resting = None

    def _stir(self) -> None:
        resting, self._resting = self._resting, None
        if resting is not None and not resting.done():
            resting.set_result(None)

    def _fail_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf
        self._release()
        for batch in self._sent.values():
            batch.fail(partial(_lost_after_sending, self._defect))
        for batch in self._queue:
            batch.fail(_lost_before_sending)
        self._sent.clear()
        self._queue.clear()
        self._waits = 0
        self._open.clear()
        self._on_reply()

    def __repr__(self) -> str:
        return f"<Session to {self.node_id or self.address} ready={self.ready} in_flight={self.in_flight}>"


def _of_a_crowd(batch: PendingBatch) -> bool:
    return isinstance(batch, EachBatch) and batch.group[0] != LEASE


def _lost_before_sending() -> CacheUnavailable:
    return CacheUnavailable("The session with the node ended before the call was sent.", reason="not_sent")


def _lost_after_sending(defect: str) -> CacheUnavailable:
    why = f" ({defect})" if defect else ""
    text = f"The session with the node ended before it answered{why}; a write may or may not have happened."
    return CacheUnavailable(text, reason="connection_lost", retryable=False)


def covered_by(namespace: str, kinds: Sequence[int], texts: Sequence[bytes]) -> Covers:
    """Return what barriers cover; one that this client does not know covers all."""
    try:
        selectors = [make_selector(kind, text) for kind, text in zip(kinds, texts, strict=True)]
    except (InvalidSelector, ValueError):
        return lambda of, _key, _tags: of == namespace
    return lambda of, key, tags: of == namespace and any(selector.covers(key, tags) for selector in selectors)
