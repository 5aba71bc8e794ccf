"""Events: what has happened elsewhere makes values untrue, by rules (`cachenode.core.events`).

Any node takes an event, and has the owners and coordinators do what it says, as a client's `invalidate` does. The
answer comes when all of that is acknowledged (C3), so whoever has it may tell others that the change is visible.

Invalidations can be done twice, so an event that is told twice does no harm; what it costs is saved where it bears an
id. A node remembers the last ids that it has acted on; whoever comes with the same one meanwhile waits for the same
outcome (``test_same_event_at_the_same_time_is_done_once``). An event that failed is forgotten, so that it can be sent
again (``test_failed_event_may_come_again``).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import structlog

from cachenode.core.entries import Batch, Operation
from cachenode.core.events import EventRules, Invalidation
from cachenode.errors import EventRefused
from cachenode.node.until_done import until_done
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from cachenode.node.service import Node

__all__ = ["MAX_EVENT_ID", "EventOutcome", "EventSource", "Events", "Published"]

_log = structlog.get_logger(__name__)

EventSource = Literal["api", "webhook", "stream", "channel"]
EventOutcome = Literal["done", "duplicate", "unknown", "refused", "failed"]
MAX_EVENT_ID = 128
_REMEMBERED = 10_000
_WARNED = 100


class Published(NamedTuple):
    """What has become of an event.

    Attributes:
        known: Whether a rule names it.
        invalidations: What was declared untrue.
        found: How many of the keys had a value.
        duplicate: Whether this was done before, for an event of the same id.
    """

    known: bool
    invalidations: tuple[Invalidation, ...] = ()
    found: int = 0
    duplicate: bool = False


class Events:
    """The part of a node that acts on events.

    Args:
        node: Invalidates.
        rules: Say what.
        refuse_unknown: Whether events that no rule names are refused.
        timeout_s: How long an event may take that brings no limit.
    """

    def __init__(
        self, node: Node, rules: EventRules | None = None, *, refuse_unknown: bool = False, timeout_s: float = 5.0
    ) -> None:
        self.rules = rules or EventRules()
        self.refuse_unknown = refuse_unknown
        self.counts: Counter[tuple[EventSource, EventOutcome]] = Counter()
        self.invalidations = 0
        """Keys and selectors that events have declared untrue."""
        self._node = node
        self._timeout_s = timeout_s
        self._seen: OrderedDict[tuple[str, str], asyncio.Future[Published]] = OrderedDict()
        self._warned: set[str] = set()

    async def publish(
        self, name: str, payload: bytes, source: EventSource, *, event_id: str = "", timeout_s: float = 0.0
    ) -> Published:
        """Act on an event; return when what it makes untrue is served nowhere any more.

        Args:
            name: Its name.
            payload: Its fields, a JSON object.
            source: How it came.
            event_id: Unique to it; empty if it has none.
            timeout_s: How long this may take; 0 for the node's own limit.

        Raises:
            EventRefused: It cannot be used, no rule names it and such are refused, or it could not be done, or not in
                time: then part of it may have been.
        """
        try:
            published = await self._once(name, payload, event_id, timeout_s or self._timeout_s)
        except EventRefused as error:
            refused = error.reason in {Reason.INVALID_REQUEST, Reason.EVENT_TOO_BROAD, Reason.UNKNOWN_EVENT}
            outcome: EventOutcome = "refused" if refused else "failed"
            self.counts[source, "unknown" if error.reason is Reason.UNKNOWN_EVENT else outcome] += 1
            raise
        if published.duplicate:
            self.counts[source, "duplicate"] += 1
        else:
            self.counts[source, "done" if published.known else "unknown"] += 1
        return published

    async def _once(self, name: str, payload: bytes, event_id: str, timeout_s: float) -> Published:
        if len(event_id) > MAX_EVENT_ID:
            text = f"event_id: {len(event_id):,} characters exceed the limit of {MAX_EVENT_ID}"
            raise EventRefused(text, Reason.INVALID_REQUEST)
        known = self._seen.get((name, event_id)) if event_id else None
        if known is not None:
            return (await _outcome_of(known, timeout_s))._replace(duplicate=True)
        plan = self.rules.plan(name, payload)
        if plan is None:
            self._unknown(name)
            return Published(known=False)
        if not event_id:
            return await self._do(plan, timeout_s)
        outcome: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._seen[name, event_id] = outcome
        try:
            published = await self._do(plan, timeout_s)
        except BaseException as error:
            self._seen.pop((name, event_id), None)
            failure = EventRefused("the event that came first has failed; send it again", Reason.OVERLOADED)
            outcome.set_exception(error if isinstance(error, EventRefused) else failure)
            outcome.exception()  # nobody may wait for it
            raise
        outcome.set_result(published)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return published

    def _unknown(self, name: str) -> None:
        if name not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(name)
            _log.warning("unknown_event", event_name=name)
        if self.refuse_unknown:
            raise EventRefused("no rule names this event", Reason.UNKNOWN_EVENT)

    async def _do(self, plan: Sequence[Invalidation], timeout_s: float) -> Published:
        parts = [self._until_done(batch, timeout_s) for batch in _batches(plan)]
        try:
            async with asyncio.timeout(timeout_s):
                results = await asyncio.gather(*parts, return_exceptions=True)  # one that fails ends no other
        except TimeoutError:
            raise EventRefused("the event could not be done in time", Reason.DEADLINE_EXCEEDED) from None
        found = 0
        for result in results:
            if isinstance(result, BaseException):
                raise result
            found += result
        self.invalidations += sum(len(each.keys) + len(each.selectors) for each in plan)
        return Published(known=True, invalidations=tuple(plan), found=found)

    async def _until_done(self, batch: Batch, timeout_s: float) -> int:
        """Have a batch executed, again where that may help; return how many of its keys had a value."""
        versions, failure = await until_done(self._node, batch, timeout_s)
        if failure is not None:
            raise EventRefused(failure.detail, failure.reason)
        return sum(map(bool, versions)) if batch.operation is Operation.INVALIDATE else 0


async def _outcome_of(known: asyncio.Future[Published], timeout_s: float) -> Published:
    done, _ = await asyncio.wait([known], timeout=timeout_s)
    if not done:
        raise EventRefused("the event that came first is not done yet", Reason.DEADLINE_EXCEEDED)
    return known.result()


def _batches(plan: Sequence[Invalidation]) -> list[Batch]:
    found = []
    for each in plan:
        if each.keys:
            found.append(Batch(Operation.INVALIDATE, each.namespace, list(each.keys), expire=each.expire))
        if each.selectors:
            texts = [selector.text for selector in each.selectors]
            kinds = [selector.kind.value for selector in each.selectors]
            found.append(Batch(Operation.BARRIER, each.namespace, texts, flags=kinds, expire=each.expire))
    return found
