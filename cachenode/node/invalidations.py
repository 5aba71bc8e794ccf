"""Tells the holders of copies what to drop, and lets writers wait until nobody serves the older value.

A write or removal of a key is *announced*: every session that may hold the key is told over its stream, and the writer
waits for those whose lease is live (`cachenode.core.holders`). If nobody may hold it, there is nothing to wait for.

A key is announced before L2 and memory have the change, so that both go on at the same time. Until memory has it, a
reader still finds the older value; so meanwhile the key is *changing*, and what is read of it may not be copied
(``test_read_during_a_write_is_not_copied``).

The session that writes is told too, but not waited for: the word to drop is in its stream before the reply.

Who has been told and has not acknowledged may still serve the copy. The next writer of the key waits for it as well,
whether the one before waits, has given up, or did not want to wait (``test_second_writer_waits_too``).

Watchers keep no leases and are not waited for. They are told once memory has the change, or the write has failed: who
reads the key upon that word finds the new value (``test_watchers_hear_when_it_is_done``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cachenode.core.holders import GENERATION_S, Exposure, Holder, Round
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode_api.selectors import Selector
    from cachenode_api.view import View

__all__ = ["Event", "Invalidations", "Watch"]

Waiter = asyncio.Future[None]

_REMEMBERED = 10_000
"""Events that a watcher may have missed and still be told."""


class Event(NamedTuple):
    """One invalidation, as watchers are told."""

    sequence: int
    namespace: str
    keys: Sequence[bytes]
    selectors: Sequence[Selector]


class Invalidations:
    """The near-cached sessions of a node, and its watchers."""

    def __init__(self, node: Node) -> None:
        self.announced = 0
        """Invalidations of keys that somebody may have held."""
        self.waits = 0
        """Writes that waited for somebody's word."""
        self.late = 0
        """Leases refused because what was told is not acknowledged yet."""
        self.waited_s = 0.0
        """How long they have waited, those included whose callers have given up."""
        self.ending = False
        """True once nothing may be copied any more."""
        self.log = Watch()
        self._node = node
        self._holders: dict[Holder[Waiter], None] = {}
        self._turn_at = node.clock.now() + GENERATION_S
        node.placement.releasing.append(self._released)

    # Holders.

    def holder(self, tell: Callable[[str, Sequence[bytes], Sequence[Selector]], None]) -> Holder[Waiter]:
        """Return a new holder; `expire` forgets it when its lease is over and nobody renews it."""
        holder: Holder[Waiter] = Holder(tell)
        self._holders[holder] = None
        return holder

    def grant(self, holder: Holder[Waiter]) -> float:
        """Grant a holder its lease anew; return its length in seconds, 0 if there is none."""
        self._holders[holder] = None
        now, placement = self._node.clock.now(), self._node.placement
        if self.ending or not placement.ready:
            return 0.0
        lease_s = holder.granted(now, placement.lease_until - now)
        if not lease_s and now < placement.lease_until:
            self.late += 1
        return lease_s

    def heard(self, holder: Holder[Waiter], acknowledged: int) -> None:
        """Take a holder's word that it has acted on all up to this number."""
        _resolve(holder.heard(acknowledged))

    def ended(self, holder: Holder[Waiter], *, said_so: bool) -> None:
        """Take note that a holder's stream has ended. Unless it said that it drops all, its lease goes on."""
        holder.tell = _tell_nobody
        if said_so:
            _resolve(holder.end())
        else:
            holder.lost()

    def expire(self, now: float) -> None:
        """End the waits for holders whose lease is over; forget what nobody can hold any more."""
        for holder in list(self._holders):
            if holder.until <= now:
                _resolve(holder.expired(now))
                if holder.tell is _tell_nobody:
                    del self._holders[holder]
        if now >= self._turn_at:
            self._turn_at = now + GENERATION_S
            for namespace in self._node.namespaces:
                namespace.exposure.turn()

    def __len__(self) -> int:
        return len(self._holders)

    # Writers.

    def announce(self, namespace: Namespace, keys: Sequence[bytes], by: Holder[Waiter] | None = None) -> Waiter | None:
        """Tell who may hold these keys. Return what to wait for; None if there is nobody to wait for.

        Args:
            namespace: Of the keys.
            keys: Those that change.
            by: Whose session changes them.
        """
        exposure: Exposure[Waiter] = namespace.exposure
        if not exposure.holders:
            return None
        told, doubtful = self.warn(namespace, keys), exposure.doubtful(keys)
        if not told and not doubtful:
            return None
        return self._wait(holder for holder in {**told, **dict.fromkeys(doubtful)} if holder is not by)

    def warn(self, namespace: Namespace, keys: Sequence[bytes]) -> dict[Holder[Waiter], list[bytes]]:
        """Tell who may hold these keys; return whom, and of which keys. `announce` is still to come."""
        told: dict[Holder[Waiter], list[bytes]] = namespace.exposure.take(keys) if namespace.exposure.holders else {}
        self.announced += bool(told)
        now = self._node.clock.now()
        for holder, held in told.items():
            holder.drop(namespace.policy.name, held, namespace.exposure, now)
        return told

    def record(self, namespace: Namespace, keys: Sequence[bytes]) -> None:
        """Tell the watchers of keys that have changed."""
        if self.log.wanted:
            self.log.add(namespace.policy.name, keys, ())

    @contextmanager
    def change(self, namespace: Namespace, keys: Sequence[bytes]) -> Iterator[None]:
        """Let nobody copy what is read of these keys meanwhile, and tell the watchers afterwards."""
        try:
            with namespace.change(keys):
                yield
        finally:
            self.record(namespace, keys)

    def bar(self, namespace: Namespace, selectors: Sequence[Selector], by: Holder[Waiter] | None) -> Waiter | None:
        """Tell all who may hold anything of a namespace of barriers. Return what to wait for, None if nothing."""
        if self.log.wanted:
            self.log.add(namespace.policy.name, (), selectors)
        return self._tell_holders(namespace, selectors, by)

    def _tell_holders(
        self, namespace: Namespace, selectors: Sequence[Selector], by: Holder[Waiter] | None
    ) -> Waiter | None:
        holders = list(namespace.exposure.holders)
        for holder in holders:
            holder.tell(namespace.policy.name, (), selectors)
        return self._wait(holder for holder in holders if holder is not by)

    def _wait(self, holders: Iterable[Holder[Waiter]]) -> Waiter | None:
        now = self._node.clock.now()
        waiting: Round[Waiter] = Round(asyncio.get_running_loop().create_future())
        for holder in holders:
            holder.awaited_by(waiting, now)
        if not waiting.left:
            return None
        self.waits += 1
        waiting.waiter.add_done_callback(lambda _: self._waited(now))
        return waiting.waiter

    def _waited(self, since: float) -> None:
        self.waited_s += self._node.clock.now() - since

    async def release(self) -> None:
        """Let nobody copy anything any more; return when no client serves a copy from here: this node stops."""
        self.ending = True
        whole = [make_selector(SelectorKind.NAMESPACE, EVERYTHING)]
        waiters = [self._tell_holders(namespace, whole, None) for namespace in self._node.namespaces]
        waiting = [waiter for waiter in waiters if waiter is not None]
        if waiting:
            await asyncio.wait(waiting)

    def _released(self, _view: View) -> Waiter | None:
        """Return what to wait for until no client serves a key by a right from before the view; None if nothing.

        A view goes to every session in its stream; who may hold anything also gets a word to acknowledge.
        """
        holders = dict.fromkeys(holder for namespace in self._node.namespaces for holder in namespace.exposure.holders)
        for holder in holders:
            holder.tell("", (), ())
        return self._wait(holders) if holders else None


def _resolve(rounds: Iterable[Round[Waiter]]) -> None:
    for done in rounds:
        if not done.waiter.done():
            done.waiter.set_result(None)


def _tell_nobody(_namespace: str, _keys: Sequence[bytes], _selectors: Sequence[Selector]) -> None:
    pass


class Watch:
    """What was invalidated lately, numbered, for those who watch."""

    def __init__(self) -> None:
        self.sequence = 0
        self.wanted = False
        """True once anybody watches: before, nothing is remembered."""
        self.closed = False
        self._events: deque[Event] = deque(maxlen=_REMEMBERED)
        self._news: list[Waiter] = []

    def add(self, namespace: str, keys: Sequence[bytes], selectors: Sequence[Selector]) -> None:
        """Remember an event and wake the watchers."""
        self.sequence += 1
        self._events.append(Event(self.sequence, namespace, keys, selectors))
        self._wake()

    def close(self) -> None:
        """Let the watchers' streams end with what is remembered: this node has nothing more to tell."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, []
        for waiter in news:
            if not waiter.done():
                waiter.set_result(None)

    async def follow(self, after: int) -> AsyncIterator[Event | None]:
        """Yield the events after a number, as they come; None where some are no longer known, or never were."""
        self.wanted = True
        while True:
            first = self._events[0].sequence if self._events else self.sequence + 1
            if after > self.sequence or after + 1 < first:
                after = self.sequence
                yield None
            for event in [event for event in self._events if event.sequence > after]:
                after = event.sequence
                yield event
            if after >= self.sequence:
                if self.closed:
                    return
                waiter: Waiter = asyncio.get_running_loop().create_future()
                self._news.append(waiter)
                with _forgetting(self._news, waiter):
                    await waiter


@contextmanager
def _forgetting(waiters: list[Waiter], waiter: Waiter) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            waiters.remove(waiter)
