"""Events out of Redis: a stream, which loses nothing, and a channel, which is simpler.

**Stream.** All nodes of a cluster are one consumer group, so one node gets each entry. It acknowledges the entry once
what the event makes untrue is served nowhere any more. What a node has got and not acknowledged, because it could not
do it or died, it gets again itself, or another node claims it when it has lain for `CLAIM_S`. So every event is done at
least once; twice does no harm. What can never be done, because it is malformed or too broad, is counted, logged by its
id, and acknowledged: else it would come for ever.

**Channel.** Redis sends a message to all who listen at that moment and keeps nothing. All nodes listen, and the one
acts that owns the channel's seat on the ring: at most once, and not at all while views differ or the connection is
down.

An entry of the stream has the fields ``event``, ``fields`` (a JSON object) and ``id``; a message is a JSON object with
these.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from cachenode.adapters.redis_client import FAILURES, reason
from cachenode.core.events import parse_event
from cachenode.errors import EventRefused
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from cachenode.node.events import Events

__all__ = ["CLAIM_S", "EventChannel", "EventFeed", "EventStream"]

_log = structlog.get_logger(__name__)

CLAIM_S = 15.0
"""An entry that lies for so long unacknowledged goes to another node: longer than doing it takes."""
_CLAIM_EVERY_S = 5.0
_AT_A_TIME = 16
_BLOCK_MS = 1_000
_AGAIN_S = 1.0
_CANCEL_AGAIN_S = 0.1
_NEVER = frozenset({Reason.INVALID_REQUEST, Reason.EVENT_TOO_BROAD, Reason.UNKNOWN_EVENT, Reason.UNKNOWN_NAMESPACE})
"""Why an event will never be done, however often it comes."""
_Entry = tuple[bytes, Mapping[bytes, bytes] | None]


class EventFeed:
    """A loop that reads events for as long as it is not stopped, whatever becomes of Redis."""

    what = ""

    def __init__(self, client: Redis, name: str, events: Events, *, again_s: float = _AGAIN_S) -> None:
        self._client = client
        self._name = name
        self._events = events
        self._again_s = again_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Read nothing more. What was under way and is not acknowledged comes again."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again, since redis-py's own timeouts may take one for theirs
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN_S)
        await self._client.aclose()

    async def _run(self) -> None:
        away = False
        while True:
            try:
                async with contextlib.aclosing(self._read()) as rounds:
                    async for _ in rounds:
                        away = False
            except FAILURES as error:
                if not away:
                    _log.warning("event_feed_away", feed=self.what, why=reason(error))
                away = True
            except Exception as error:  # noqa: BLE001 - whatever it is, the events that follow must be read
                _log.error("event_feed_failed", feed=self.what, error_type=type(error).__name__, exc_info=error)
            await asyncio.sleep(self._again_s)

    def _read(self) -> AsyncGenerator[None, None]:
        """Read for ever; yield after each round."""
        raise NotImplementedError


class EventStream(EventFeed):
    """Reads a stream as one of a group.

    Args:
        client: For blocking reads: its time limit is longer than they are.
        name: Key of the stream.
        events: Acts on what comes.
        group: The cluster's.
        consumer: This node; the same after a restart.
        claim_s: See `CLAIM_S`.
        claim_every_s: How often others' entries are looked for.
        again_s: How long to wait after a failure.
    """

    what = "stream"

    def __init__(
        self,
        client: Redis,
        name: str,
        events: Events,
        *,
        group: str,
        consumer: str,
        claim_s: float = CLAIM_S,
        claim_every_s: float = _CLAIM_EVERY_S,
        again_s: float = _AGAIN_S,
    ) -> None:
        super().__init__(client, name, events, again_s=again_s)
        self._group = group
        self._consumer = consumer
        self._claim_s = claim_s
        self._claim_every_s = claim_every_s
        self._begin = "$"  # what happened before there was a cluster concerns nobody

    async def _read(self) -> AsyncGenerator[None, None]:
        loop = asyncio.get_running_loop()
        await self._join()
        claim_at, own = loop.time(), True
        while True:
            if loop.time() >= claim_at:
                claim_at = loop.time() + self._claim_every_s
                own = await self._claim() or own
            entries = await self._next("0" if own else ">")
            if not await self._do_all(entries):
                own = True  # they stay this node's until they are done
                await asyncio.sleep(self._again_s)
            elif own and not entries:
                own = False
            yield

    async def _join(self) -> None:
        """Make the group if it is not there; one that has gone with its stream begins with what there is."""
        try:
            await self._client.xgroup_create(self._name, self._group, id=self._begin, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._begin = "0"

    async def _claim(self) -> bool:
        """Take over what others have left. Return True if there was anything: it is read as this node's own."""
        claimed = await self._client.xautoclaim(
            self._name, self._group, self._consumer, min_idle_time=int(self._claim_s * 1_000), count=_AT_A_TIME
        )
        return bool(claimed[1])

    async def _next(self, after: str) -> Sequence[_Entry]:
        block = None if after == "0" else _BLOCK_MS
        found: Any = await self._client.xreadgroup(
            self._group, self._consumer, {self._name: after}, count=_AT_A_TIME, block=block
        )
        return found[0][1] if found else []

    async def _do_all(self, entries: Sequence[_Entry]) -> bool:
        """Act on entries side by side and acknowledge what is done with. Return False if some are not."""
        done = await asyncio.gather(*(self._do(id_, fields) for id_, fields in entries))
        ended = [id_ for (id_, _), well in zip(entries, done, strict=True) if well]
        if ended:
            await self._client.xack(self._name, self._group, *ended)
        return len(ended) == len(entries)

    async def _do(self, id_: bytes, fields: Mapping[bytes, bytes] | None) -> bool:
        """Act on one entry. Return True if it is done with."""
        if not fields:  # it was deleted from the stream meanwhile
            return True
        try:
            name, payload = _text(fields.get(b"event", b"")), fields.get(b"fields", b"{}")
            event_id = _text(fields.get(b"id", b"")) or f"{self.what}:{id_.decode()}"
            await self._events.publish(name, payload, "stream", event_id=event_id)
        except EventRefused as error:
            if error.reason not in _NEVER:
                return False
            _log.warning("event_skipped", feed=self.what, entry=id_.decode(), why=error.reason.name.lower())
        return True


class EventChannel(EventFeed):
    """Listens to a channel.

    Args:
        client: For blocking reads.
        name: Of the channel.
        events: Acts on what comes.
        acts: Returns whether this node is the one that acts.
        again_s: How long to wait after a failure.
    """

    what = "channel"

    def __init__(
        self, client: Redis, name: str, events: Events, *, acts: Callable[[], bool], again_s: float = _AGAIN_S
    ) -> None:
        super().__init__(client, name, events, again_s=again_s)
        self._acts = acts

    async def _read(self) -> AsyncGenerator[None, None]:
        async with self._client.pubsub(ignore_subscribe_messages=True) as listener:
            await listener.subscribe(self._name)
            under_way: set[asyncio.Task[None]] = set()
            while True:
                message = await listener.get_message(timeout=_BLOCK_MS / 1_000)
                if message is not None and self._acts():
                    if len(under_way) >= _AT_A_TIME:
                        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    task = asyncio.get_running_loop().create_task(self._do(message["data"]))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                yield

    async def _do(self, message: bytes) -> None:
        event = parse_event(message)
        try:
            name, payload, event_id = event or ("", b"", "")
            await self._events.publish(name, payload, "channel", event_id=event_id)
        except EventRefused as error:
            _log.warning("event_skipped", feed=self.what, why=error.reason.name.lower())


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
