"""Watching what is invalidated: a stream to each member, merged into one sequence of events.

A node tells what it writes, removes and bars itself, numbered. So all members are watched, from the view that the
client's sessions bring. A stream that breaks is opened again and goes on where it left off, by the node's incarnation
and the last number. Where that cannot be done, the events that may be missing are replaced by one `Reset`:

1. The node says so: it is another process by now, or it has forgotten that far back.
2. A member is watched that was one before it was watched, or may have been: it came with a later view, or it did not
   answer when the watch began (``test_member_that_comes_later_begins_with_a_reset``).
3. A member leaves the view. Until its lease is over it may act as an owner, so it is watched for as long; what it did
   at its end may never have been sent. Unless it has ended the stream itself: then it has told all
   (``test_member_that_leaves_in_order_needs_no_reset``).
4. A view is missing between two: who came and went with it was not watched.
5. The consumer is slow: what waits for it is bounded (``test_slow_consumer_gets_a_reset``).

Streams are always cancelled at the end: grpcio 1.83 and later otherwise keep the handler of a dropped stream running
on the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc import aio

from cachenode_api.errors import InvalidSelector
from cachenode_api.metadata import INCARNATION_KEY, REASON_KEY, SEQUENCE_KEY
from cachenode_api.reasons import Reason
from cachenode_api.selectors import Selector, make_selector
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from cachenode_client._backoff import Schedule
from cachenode_client._channels import Channels
from cachenode_client._session import covered_by
from cachenode_client.errors import CacheError, CacheUnavailable, NodeError, from_reason

if TYPE_CHECKING:
    from cachenode_api.view import Member, View
    from cachenode_client._engine import Engine

__all__ = ["Event", "Invalidated", "Reset", "Watcher", "Watching", "abandon"]

MAX_WAITING = 10_000
"""Events that may wait for the consumer."""
LEAVE_S = 5.0
"""How long a member is still watched after it has left the view: longer than an ownership lease."""
_OPEN_S = 2.0
_REDIAL = Schedule(first_s=0.1, max_s=2.0, retries=None)
_FOR_GOOD = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
_Target = tuple[str, str]
"""Id and address of a member: who takes its place there is met on the same stream."""


@dataclass(frozen=True, slots=True, repr=False)
class Invalidated:
    """Values have changed or are declared untrue: who reads them from now on finds what is true.

    A write or removal is told by the key's owner. A prefix, pattern, tag or namespace is told by each node when it has
    done its part, so it comes once for each; what is derived from many keys is up to date after the last.

    Its representation shows no key and no selector: representations end up in logs.

    Attributes:
        node_id: Who tells.
        sequence: Rises with each event of that node.
        namespace: Of the keys and selectors.
        keys: Those that were written, removed or declared untrue.
        selectors: What else was declared untrue: each has a `kind`, a `text`, and `covers(key, tags)`.
    """

    node_id: str
    sequence: int
    namespace: str
    keys: tuple[bytes, ...] = ()
    selectors: tuple[Selector, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Invalidated(node_id={self.node_id!r}, sequence={self.sequence}, namespace={self.namespace!r}, "
            f"keys=<{len(self.keys):,}>, selectors=<{len(self.selectors):,}>)"
        )


@dataclass(frozen=True, slots=True)
class Reset:
    """Events may have been missed: give up whatever was derived from the cache before.

    Attributes:
        node_id: Whose events; empty if it is not known whose.
    """

    node_id: str


Event = Invalidated | Reset


class Watching:
    """One watch, as the loop runs it; `Watcher` is what its user holds.

    Args:
        engine: Knows the members.
        namespace: The one to watch; empty for all.
        max_waiting: Events that may wait for the consumer.
    """

    def __init__(self, engine: Engine, namespace: str, *, max_waiting: int = MAX_WAITING) -> None:
        self.loop = engine.loop
        self._engine = engine
        self._router = engine.router
        self.channels = engine.router.channels
        self._namespace = namespace
        self._max_waiting = max_waiting
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._streams: dict[_Target, _Stream] = {}
        self._leaving: dict[_Target, asyncio.TimerHandle] = {}
        self._epoch = 0
        self._begun = False
        self._end: CacheError | None = None
        self.ended = False

    # The consumer's side.

    async def begin(self, timeout_s: float) -> None:
        """Return once the members are watched. One that does not answer in time counts as one that comes later.

        Raises:
            CacheUnavailable: No member answered.
            CacheError: They refuse.
        """
        self._engine.watches.add(self)
        self._router.view_listeners.append(self._view_changed)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._established()
            await self._check_begun()
        except BaseException:
            await self.close()
            raise
        self._begun = True

    async def _check_begun(self) -> None:
        if self._end is not None:
            raise self._end
        if not self.members:
            await self._router.wait_route(b"watch", 0)
            raise CacheUnavailable("No node has begun to tell what is invalidated; check that the nodes run.")

    async def _established(self) -> None:
        await self._router.wait_view()
        if self._router.view is not None:
            self._view_changed(self._router.view)
        while self._end is None and not all(stream.established for stream in self._streams.values()):
            self._changed.clear()
            await self._changed.wait()

    async def next(self) -> Event | None:
        """Return the next event; None if the watch has been closed.

        Raises:
            CacheError: The nodes refuse, or the client is closed.
        """
        while not self._waiting:
            if self._end is not None:
                raise self._end
            if self.ended:
                return None
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def close(self, error: CacheError | None = None) -> None:
        """End all streams; whoever waits for an event gets the error, or learns that there are no more."""
        tasks = self.cancel(error)
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self, error: CacheError | None = None) -> list[asyncio.Task[None]]:
        """Begin to end all streams; return what ends them."""
        if error is not None and not self.ended:
            self._end = error
            self._waiting.clear()
        self.ended = True
        self._engine.watches.discard(self)
        with contextlib.suppress(ValueError):
            self._router.view_listeners.remove(self._view_changed)
        for timer in self._leaving.values():
            timer.cancel()
        tasks = [stream.task for stream in self._streams.values()]
        for task in tasks:
            task.cancel()
        self._streams.clear()
        self._leaving.clear()
        self._news.set()
        self._changed.set()
        return tasks

    @property
    def members(self) -> int:
        """How many members are watched."""
        return sum(stream.established for stream in self._streams.values())

    # The streams' side.

    def tell(self, event: Event) -> None:
        """Put an event where the consumer finds it; if too many wait there, resets take their place."""
        if self.ended:
            return
        self._waiting.append(event)
        if len(self._waiting) > self._max_waiting:
            nodes = dict.fromkeys(event.node_id for event in self._waiting)
            self._waiting = deque(Reset(node_id) for node_id in nodes)
        self._news.set()

    def established(self) -> bool:
        """Take note that a stream has been established; return whether events may have been missed before."""
        self._changed.set()
        return self._begun

    def refused(self, error: CacheError) -> None:
        """A member says that this cannot be done: no other will do it either."""
        self._end = error
        self._news.set()
        self._changed.set()

    def forget_copies(self, event: Invalidated, kinds: list[int], texts: list[bytes]) -> None:
        """Drop this client's own copies: their session's word may come a moment later than the event."""
        near = self._router.near
        if near is not None:
            near.drop_many(event.namespace, event.keys)
            if texts:
                self._router.bar(covered_by(event.namespace, kinds, texts))

    def _view_changed(self, view: View) -> None:
        if self._epoch and view.epoch not in {self._epoch, self._epoch + 1}:
            self.tell(Reset(""))
        self._epoch = view.epoch
        members: dict[_Target, Member] = {(member.id, member.address): member for member in view.members}
        for target in members:
            timer = self._leaving.pop(target, None)
            if timer is not None:
                timer.cancel()
            if target not in self._streams:
                self._streams[target] = _Stream(self, target, self._namespace)
        for target in self._streams.keys() - members.keys() - self._leaving.keys():
            self._leaving[target] = self.loop.call_later(LEAVE_S, self._left, target)

    def _left(self, target: _Target) -> None:
        self._leaving.pop(target, None)
        stream = self._streams.pop(target, None)
        if stream is not None:
            stream.task.cancel()
            if not stream.complete:
                self.tell(Reset(target[0]))
            self._changed.set()


class _Stream:
    """The stream to one member, opened again for as long as it is watched."""

    def __init__(self, watching: Watching, target: _Target, namespace: str) -> None:
        self.established = False
        self.complete = False
        """True if the node has ended the stream itself: it has told all, and has nothing more to tell."""
        self._watching = watching
        self._node_id, self._address = target
        self._namespace = namespace
        self._incarnation = ""
        self._after = 0
        self._lasted = False
        self.task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        rng, attempt = random.Random(), 0  # noqa: S311 - jitter, not a secret
        while True:
            self._lasted = False
            try:
                await self._hold()
            except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError, TimeoutError) as error:
                if isinstance(error, aio.AioRpcError) and error.code() in _FOR_GOOD:
                    self._watching.refused(_refusal(error))
                    return
            attempt = 0 if self._lasted else attempt + 1
            await asyncio.sleep(_REDIAL.limit_s(min(attempt, 5)) * rng.uniform(0.5, 1.0))

    async def _hold(self) -> None:
        """Hold one stream until it ends."""
        request = cache_pb2.WatchRequest(
            namespace=self._namespace, incarnation=self._incarnation, after=self._after if self._incarnation else 0
        )
        async with _opened(self._watching.channels, self._address, request) as (call, incarnation, sequence):
            self._lasted = True
            self._begins(incarnation, sequence)
            try:
                async for event in call:
                    self._take(event)
                self.complete = True
            finally:
                self.established = False

    def _begins(self, incarnation: str, sequence: int) -> None:
        missed = self._watching.established()
        self.complete = False
        if not self._incarnation:  # else the node itself says whether something is missing
            self._incarnation, self._after = incarnation, sequence
            if missed:
                self._watching.tell(Reset(self._node_id))
        self.established = True

    def _take(self, event: cache_pb2.WatchEvent) -> None:
        self._incarnation, self._after = event.incarnation, event.sequence
        invalidation = event.invalidation
        kinds, texts = list(invalidation.kinds), list(invalidation.selectors)
        try:
            selectors = [make_selector(kind, text) for kind, text in zip(kinds, texts, strict=True)]
        except (InvalidSelector, ValueError):  # of a later release: what it covers is not known here
            self._watching.tell(Reset(event.node_id))
            return
        if event.reset:
            self._watching.tell(Reset(event.node_id))
            return
        told = Invalidated(
            event.node_id, event.sequence, invalidation.namespace, tuple(invalidation.keys), tuple(selectors)
        )
        self._watching.forget_copies(told, kinds, texts)
        self._watching.tell(told)


_Call = aio.UnaryStreamCall[cache_pb2.WatchRequest, cache_pb2.WatchEvent]


@asynccontextmanager
async def _opened(
    channels: Channels, address: str, request: cache_pb2.WatchRequest
) -> AsyncIterator[tuple[_Call, str, int]]:
    """Open a stream; yield it with the incarnation of the node and the number after which it begins."""
    shown = channels.metadata()
    channel = channels.open(address)
    call: Any = cache_pb2_grpc.CacheServiceStub(channel).Watch(request, metadata=shown)
    try:
        async with asyncio.timeout(_OPEN_S):
            metadata = dict(await call.initial_metadata() or ())
            if INCARNATION_KEY not in metadata:  # the call has failed: reading says how
                await call.read()
                raise aio.UsageError("The node does not say where the stream begins.")
        yield call, str(metadata[INCARNATION_KEY]), int(metadata[SEQUENCE_KEY])
    finally:
        call.cancel()
        await channel.close()


def _refusal(error: aio.AioRpcError) -> CacheError:
    name = str(dict(error.trailing_metadata() or ()).get(REASON_KEY, ""))
    if name in Reason.__members__:
        return from_reason(Reason[name], error.details() or "")
    return NodeError("A node cannot be watched; use the same release of cachenode and cachenode-client.")


class Watcher:
    """Events of a watch, for asyncio: ``async for event in cache.watch()``.

    It begins with ``async with``, `ready`, or the first event that is asked for. Whatever is written or invalidated
    from then on is told. Leaving ``async with`` ends it; so does `aclose`, and closing the client.

    Args:
        make: Returns the watch, not begun yet.
        check: Raises if the client cannot be used.
        timeout_s: How long the beginning may take.
    """

    def __init__(self, make: Callable[[], Watching], check: Callable[[], None], timeout_s: float) -> None:
        self._make = make
        self._check = check
        self._timeout_s = timeout_s
        self._watching: Watching | None = None
        self._beginning = asyncio.Lock()
        self._closed = False

    async def ready(self) -> None:
        """Return once the members are watched: what happens from then on will be told.

        Raises:
            InvalidNamespace: The nodes have no such namespace.
            CacheUnavailable: No node could be reached in time.
            CacheError: As all calls.
        """
        await self._begun()

    async def _begun(self) -> Watching | None:
        async with self._beginning:
            if self._watching is None and not self._closed:
                watching = self._make()
                await watching.begin(self._timeout_s)
                self._watching = watching
                weakref.finalize(self, abandon, watching, asyncio.get_running_loop()).atexit = False
            return self._watching

    @property
    def members(self) -> int:
        """How many nodes are watched now."""
        return self._watching.members if self._watching is not None else 0

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        self._check()
        watching = self._watching or await self._begun()
        event = await watching.next() if watching is not None else None
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """End the watch. Whoever waits for an event learns that there are no more. Safe to call twice."""
        self._closed = True
        if self._watching is not None:
            await self._watching.close()

    async def __aenter__(self) -> Self:
        """Begin."""
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._watching is None else f"{self.members} nodes"
        return f"<Watcher {state}>"


def abandon(watching: Watching, loop: asyncio.AbstractEventLoop) -> None:
    """End a watch that nobody holds any more, from whatever thread finds that out."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the streams with it
        loop.call_soon_threadsafe(watching.cancel)
