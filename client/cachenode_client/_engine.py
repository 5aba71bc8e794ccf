"""The machinery under both clients: sends keys to their owners, again if that is safe, until the time is over.

Retries: a read, a delete and a touch may be sent again whatever happened. A set or an increment may be sent again only
if it surely was not done.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from cachenode_api.keys import MAX_KEY_BYTES, seat_of
from cachenode_client._backoff import RetryBudget, Schedule
from cachenode_client._batches import (
    INCR,
    KEY_OVERHEAD,
    LEASE,
    SET,
    Due,
    Group,
    ManyBatch,
    ManyResult,
    Waiter,
    give_back,
)
from cachenode_client._channels import Channels
from cachenode_client._router import Router
from cachenode_client._session import covered_by
from cachenode_client.errors import (
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    ClientClosed,
    InvalidArgument,
    Overloaded,
    SinkFailed,
    ValueTooLarge,
)

if TYPE_CHECKING:
    from cachenode_client._address import Addresses
    from cachenode_client._loads import FlightEnd
    from cachenode_client._near import NearCache
    from cachenode_client._session import Session
    from cachenode_client._stats import ClientStats
    from cachenode_client._watch import Watching

__all__ = ["Encoded", "Engine", "may_retry"]

T = TypeVar("T")

_ONCE = frozenset({SET, INCR})
"""Done twice, a set could bring an older value back over a newer one, and an increment would count twice."""

Encoded = tuple[bytes, int]
"""A value's bytes and its flags."""

_RETRIES = Schedule(first_s=0.02, max_s=0.25, retries=5)
_LEASE_RETRIES = Schedule(first_s=0.05, max_s=1.0, retries=None)
"""Who wants a value loaded has time to wait for a key's next owner, and may do so without paying from the budget."""
_SPREAD = 0.5
"""By up to so much longer than it is told to a client waits: who was refused together should not come together."""
_MOST_RENEWING = 8
_PORTION_BYTES = 1 << 20
_TIMEOUT_DIGITS = 2
"""Calls whose remaining time is equal to so many digits may share a batch: after a reconnect hundreds come at once."""


class Engine:
    """Sends keys to the cluster, from one event loop.

    Args:
        addresses: Where to begin.
        client_name: Told to the nodes.
        sdk_version: Told to the nodes.
        stats: Gets the retries.
        on_reply: Called when calls have ended.
        near: Gets copies of what is read.
        channels: Connects to the nodes.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        client_name: str,
        sdk_version: str,
        stats: ClientStats,
        on_reply: Callable[[], None] = lambda: None,
        near: NearCache | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._new_future = self.loop.create_future
        self.router = Router(
            addresses,
            client_name=client_name,
            sdk_version=sdk_version,
            on_reply=on_reply,
            near=near,
            channels=channels,
        )
        self._budget = RetryBudget()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._stats = stats
        self._closed = False
        self._loads: set[asyncio.Task[Any]] = set()
        self.renewing = threading.Semaphore(_MOST_RENEWING)
        """The threads in which blocking loaders may run for nobody who waits. Lost by a fork, with the engine."""
        self.watches: set[Watching] = set()
        """Those under way: they end with the engine."""
        self.router.start()

    async def close(self) -> None:
        """End all sessions."""
        self._closed = True
        for load in list(self._loads):
            load.cancel()
        for watching in list(self.watches):
            await watching.close(ClientClosed())
        await self.router.close()

    def try_read(self, group: Group, raw: bytes) -> asyncio.Future[Any] | None:
        """Read one key once, if there is a session for it: `try_submit` for the hot path."""
        router = self.router
        session = router.only or router.route(raw)
        if session is None:
            return None
        future: asyncio.Future[Any] = self._new_future()
        session.join(group, raw, future)
        return future

    def try_write(self, group: Group, raw: bytes, encoded: Encoded, ttl_ms: int) -> asyncio.Future[Any] | None:
        """Store one key once, if there is a session for it.

        Raises:
            ValueTooLarge: The value does not fit in a frame.
        """
        router = self.router
        session = router.only or router.route(raw)
        if session is None:
            return None
        value, flags = encoded
        if len(value) > session.max_value_bytes:
            check_frame(session, len(value))
        future: asyncio.Future[Any] = self._new_future()
        session.submit(group, raw, future, value=value, flags=flags, ttl_ms=ttl_ms)
        return future

    def try_submit(self, group: Group, raw: bytes, waiter: Waiter, encoded: Encoded | None, ttl_ms: int) -> bool:
        """Send one key once, if there is a session for it. Return False if there is none."""
        session = self.router.route(raw)
        if session is None:
            return False
        if encoded is None:
            session.submit(group, raw, waiter, ttl_ms=ttl_ms)
        else:
            check_frame(session, len(encoded[0]))
            session.submit(group, raw, waiter, value=encoded[0], flags=encoded[1], ttl_ms=ttl_ms)
        return True

    async def call(self, group: Group, raw: bytes, ttl_ms: int = 0) -> Any:
        """Send one key at once if there is a session for it, and again if it fails and that is safe."""
        began = self.loop.time()
        future: asyncio.Future[Any] = self._new_future()
        if not self.try_submit(group, raw, future, None, ttl_ms):
            return await self.persist(group, raw, ttl_ms=ttl_ms)
        try:
            return await future
        except CacheError as error:
            return await self.again(error, began, group, raw, ttl_ms=ttl_ms)
        except asyncio.CancelledError:
            self._not_wanted(group, raw, future)
            raise

    async def bar(self, group: Group, texts: list[bytes], kinds: list[int]) -> None:
        """Let the coordinator of a namespace order barriers; again if that fails, until the call's time is over.

        Raises:
            CacheError: It could not be done, or not in time; part of the copies may have gone.
        """
        deadline, seat, retry = self.loop.time() + group[2], seat_of(group[1]), -1
        while True:
            session = await self.router.wait_route(seat, deadline - self.loop.time())
            left = deadline - self.loop.time()  # the way may have taken a while
            future: asyncio.Future[ManyResult] = self.loop.create_future()
            batch = ManyBatch((*group[:2], max(0.01, left), *group[3:]), future)
            batch.keys, batch.flags = texts, kinds
            session.submit_many(batch.group, batch)
            errors = list((await future).errors.values())
            if not errors:
                self.router.bar(covered_by(group[1], kinds, texts))  # nodes that were not waited for may yet tell it
                return
            error = errors[0]
            if not may_retry(group[0], error) or self._closed or not self._worth_it(group, retry + 1, deadline, error):
                raise error
            retry += 1
            await self._back_off(group, retry, deadline, error)

    async def reach(self, group: Group, raw: bytes, timeout_s: float) -> Group:
        """Wait for a way to a key's owner, before a call that may take long for other reasons.

        Returns:
            The group, with the time that is left of its.

        Raises:
            CacheUnavailable: There was none in time.
        """
        if self.router.route(raw) is not None:
            return group
        began = self.loop.time()
        await self.router.wait_route(raw, timeout_s)
        left = round(group[2] - (self.loop.time() - began), _TIMEOUT_DIGITS)
        return (*group[:2], max(0.01, left), *group[3:])

    def _not_wanted(self, group: Group, raw: bytes, future: asyncio.Future[Any]) -> None:
        """Give a lease back that came in the very turn in which its caller was cancelled."""
        if group[0] != LEASE or future.cancelled() or not future.done() or future.exception() is not None:
            return
        outcome = future.result()
        token = outcome.token if isinstance(outcome, Due) else outcome
        if isinstance(token, int):
            session = self.router.route(raw)
            if session is not None:
                back = give_back(group, [(raw, token)])
                session.submit_many(back.group, back)

    async def persist(
        self,
        group: Group,
        raw: bytes,
        encoded: Encoded | None = None,
        ttl_ms: int = 0,
        *,
        retry: int = -1,
        deadline: float | None = None,
        failure: CacheError | None = None,
    ) -> Any:
        """Send one key, again if that is safe and promises something, until the call's time is over.

        Args:
            group: What the call shares with others.
            raw: The key.
            encoded: The value of a set.
            ttl_ms: The life of a set or touch.
            retry: How many tries have failed already, less one.
            deadline: When the call's time is over, on the loop's clock; None if it begins now.
            failure: Why the last try failed.
        """
        doubt = _doubt(failure)
        if deadline is None:
            deadline = self.loop.time() + group[2]
        self._budget.record_call()
        if retry >= 0:
            await self._back_off(group, retry, deadline, failure)
        while True:
            left = deadline - self.loop.time()
            if left <= 0:
                raise CacheTimeout
            future: asyncio.Future[Any] = self.loop.create_future()
            timed = (*group[:2], max(0.01, round(left, _TIMEOUT_DIGITS)), *group[3:])
            if not self.try_submit(timed, raw, future, encoded, ttl_ms):
                await self.router.wait_route(raw, left)
                continue
            try:
                return await future
            except asyncio.CancelledError:
                self._not_wanted(group, raw, future)
                raise
            except CacheError as error:
                if (
                    not may_retry(group[0], error)
                    or self._closed
                    or not self._worth_it(group, retry + 1, deadline, error)
                ):
                    if doubt is not None and isinstance(error, SinkFailed):  # this try was not done: an earlier may be
                        raise doubt from None
                    raise
                doubt = doubt or _doubt(error)
                retry += 1
                await self._back_off(group, retry, deadline, error)

    async def again(
        self,
        error: CacheError,
        began: float,
        group: Group,
        raw: bytes,
        encoded: Encoded | None = None,
        ttl_ms: int = 0,
    ) -> Any:
        """Go on after the first try of a key has failed with `error`; raise it if trying again is not safe.

        The call's time counts from `began`, on the loop's clock: retries do not prolong it.
        """
        deadline = began + group[2]
        if self._closed or not may_retry(group[0], error) or self.loop.time() + _RETRIES.first_s >= deadline:
            raise error
        if isinstance(error, Overloaded) and not self._worth_it(group, 0, deadline, error):
            raise error
        return await self.persist(group, raw, encoded, ttl_ms, retry=0, deadline=deadline, failure=error)

    def _worth_it(self, group: Group, retry: int, deadline: float, error: CacheError) -> bool:
        overloaded = isinstance(error, Overloaded)
        if group[0] == LEASE and not overloaded:  # its waiting is what it is for; a node in need is spared all the same
            return True
        wait_s = max(_RETRIES.first_s, error.retry_after_s if isinstance(error, Overloaded) else 0.0)
        if (group[0] != LEASE and retry >= (_RETRIES.retries or 0)) or self.loop.time() + wait_s >= deadline:
            return False
        return self._budget.try_spend(self.loop.time())

    async def _back_off(self, group: Group, retry: int, deadline: float, error: CacheError | None) -> None:
        """Wait before another try: as long as the node says and somewhat longer, if it does."""
        self._stats.retries += 1
        if isinstance(error, Overloaded) and error.retry_after_s:
            told = error.retry_after_s * (1.0 + _SPREAD * self._rng.random())
            if self.loop.time() + told >= deadline:
                raise error
            await asyncio.sleep(told)
            return
        schedule = _LEASE_RETRIES if group[0] == LEASE else _RETRIES
        delay = schedule.delay_s(retry, self._rng, now=self.loop.time(), deadline=deadline)
        if delay is None:
            raise CacheTimeout
        await asyncio.sleep(delay)

    async def many(
        self, group: Group, raws: list[bytes], encoded: list[Encoded] | None = None, ttl_ms: int = 0
    ) -> tuple[list[Any], dict[int, CacheError]]:
        """Send many keys, a batch per owner; what may be sent again goes key by key.

        Returns:
            The results by position, and the failures by position.
        """
        results: list[Any] = [None] * len(raws)
        errors: dict[int, CacheError] = {}
        if not raws:
            return results, errors
        deadline = self.loop.time() + group[2]
        try:
            shares = await self._shares(raws, deadline)
        except CacheError as error:
            return results, dict.fromkeys(range(len(raws)), error)
        left = max(0.01, round(deadline - self.loop.time(), _TIMEOUT_DIGITS))
        sent = self._send_shares(shares, (*group[:2], left, *group[3:]), raws, encoded, ttl_ms)
        for part, done in sent:
            result = await done
            if len(sent) == 1:
                results = result.results
            else:
                for at, index in enumerate(part):
                    results[index] = result.results[at]
            errors.update({part[at]: failure for at, failure in result.errors.items()})
        if errors:
            await self._mend(group, raws, encoded, ttl_ms, results, errors, deadline=deadline)
        return results, errors

    def _send_shares(
        self,
        shares: dict[Session, list[int]],
        group: Group,
        raws: list[bytes],
        encoded: list[Encoded] | None,
        ttl_ms: int,
    ) -> list[tuple[list[int], Awaitable[ManyResult]]]:
        """Send every share at once; return who waits for which part."""
        if encoded is not None:
            for session, indices in shares.items():
                for index in indices:
                    check_frame(session, len(encoded[index][0]))
        return [
            (part, self._send_many(session, group, raws, part, encoded, ttl_ms))
            for session, indices in shares.items()
            for part in parts(
                indices,
                raws,
                encoded,
                most_keys=session.max_batch_keys,
                most_bytes=min(_PORTION_BYTES, session.max_value_bytes),
            )
        ]

    async def _shares(self, raws: list[bytes], deadline: float) -> dict[Session, list[int]]:
        router = self.router
        only = router.only
        if only is not None:
            return {only: list(range(len(raws)))}
        shares: dict[Session, list[int]] = {}
        for index, raw in enumerate(raws):
            session = router.route(raw) or await router.wait_route(raw, deadline - self.loop.time())
            share = shares.get(session)
            if share is None:
                share = shares[session] = []
            share.append(index)
        return shares

    def _send_many(
        self,
        session: Session,
        group: Group,
        raws: list[bytes],
        part: list[int],
        encoded: list[Encoded] | None,
        ttl_ms: int,
    ) -> Awaitable[ManyResult]:
        future: asyncio.Future[ManyResult] = self.loop.create_future()
        batch = ManyBatch(group, future)
        batch.keys = raws if len(part) == len(raws) else [raws[index] for index in part]
        batch.size = sum(map(len, batch.keys))
        if encoded is not None:
            batch.values = [encoded[index][0] for index in part]
            batch.flags = [encoded[index][1] for index in part]
            batch.size += sum(map(len, batch.values))
        if ttl_ms:
            batch.ttls_ms = [ttl_ms]
        session.submit_many(group, batch)
        return future

    async def end_flights(self, end: FlightEnd) -> dict[int, CacheError]:
        """Tell the owners of keys how their loads have ended; once.

        Returns:
            The failures by position. A value that was not stored because the key has been written since is none.
        """
        shares = await self._shares(end.raws, self.loop.time() + end.group[2])
        failures: dict[int, CacheError] = {}
        sent: list[tuple[list[int], asyncio.Future[ManyResult]]] = []
        for session, share in shares.items():
            largest = min(_PORTION_BYTES, session.max_value_bytes)
            for part in parts(share, end.raws, end.encoded, most_keys=session.max_batch_keys, most_bytes=largest):
                future: asyncio.Future[ManyResult] = self.loop.create_future()
                if end.encoded is not None:
                    check_frame(session, max(len(end.encoded[index][0]) for index in part))
                session.submit_many(end.group, _end_batch(end, part, future))
                sent.append((part, future))
        for part, future in sent:
            failures.update({part[at]: error for at, error in (await future).errors.items()})
        return failures

    def keep(self, load: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a load apart from its caller, who may be cancelled; it ends with the engine."""
        task = self.loop.create_task(load)
        self._loads.add(task)
        task.add_done_callback(self._loaded)
        return task

    def _loaded(self, task: asyncio.Task[Any]) -> None:
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # a load whose caller is gone has nobody to tell

    async def _mend(
        self,
        group: Group,
        raws: list[bytes],
        encoded: list[Encoded] | None,
        ttl_ms: int,
        results: list[Any],
        errors: dict[int, CacheError],
        *,
        deadline: float,
    ) -> None:
        """Try again the keys of a batch that may be tried again."""

        async def again(index: int) -> None:
            value = encoded[index] if encoded is not None else None
            try:
                results[index] = await self.persist(
                    group, raws[index], value, ttl_ms, retry=0, deadline=deadline, failure=errors[index]
                )
                del errors[index]
            except CacheError as error:
                errors[index] = error

        left_s = (deadline - self.loop.time()) / (1.0 + _SPREAD)  # whoever is told to wait longer holds up nobody
        failed = [
            index
            for index, error in errors.items()
            if may_retry(group[0], error) and (not isinstance(error, Overloaded) or error.retry_after_s < left_s)
        ]
        refused = [error for index in failed if isinstance(error := errors[index], Overloaded)]
        slowest = max(refused, key=attrgetter("retry_after_s"), default=None)
        wait_s = 0.0 if slowest is None else slowest.retry_after_s * (1.0 + _SPREAD)
        if not failed or self.loop.time() + wait_s >= deadline or not self._budget.try_spend(self.loop.time()):
            return
        if wait_s:  # once for all, so that they travel together again
            await self._back_off(group, 0, deadline, slowest)
        await asyncio.gather(*(again(index) for index in failed))


def _end_batch(end: FlightEnd, part: list[int], future: asyncio.Future[ManyResult]) -> ManyBatch:
    batch = ManyBatch(end.group, future)
    batch.keys = [end.raws[index] for index in part]
    batch.tokens = [end.tokens[index] for index in part]
    if end.details:
        batch.details = [end.details[index] for index in part]
    if end.encoded is not None:
        batch.values = [end.encoded[index][0] for index in part]
        batch.flags = [end.encoded[index][1] for index in part]
    elif end.absent:
        batch.flags = [1] * len(part)
    if any(end.ttls_ms):
        batch.ttls_ms = [end.ttls_ms[index] for index in part]
    return batch


def _doubt(error: CacheError | None) -> CacheError | None:
    """Return the failure of a try if the try may have been done all the same."""
    return None if error is None or error.retryable else error


def may_retry(operation: int, error: CacheError) -> bool:
    """Return True if the same call may be sent again after this failure."""
    if isinstance(error, (CacheTimeout, InvalidArgument)):
        return False
    if error.retryable:
        return True
    lost = isinstance(error, CacheUnavailable) or error.reason == "uncertain"
    return lost and operation not in _ONCE and not isinstance(error, Overloaded)


def parts(
    indices: list[int], raws: list[bytes], encoded: list[Encoded] | None, *, most_keys: int, most_bytes: int
) -> list[list[int]]:
    """Return the indices in portions that fit in a frame each; keys count as much as values."""
    if encoded is None and len(indices) <= min(most_keys, most_bytes // (MAX_KEY_BYTES + KEY_OVERHEAD)):
        return [indices]
    portions: list[list[int]] = [[]]
    size = 0
    for index in indices:
        more = len(raws[index]) + KEY_OVERHEAD
        if encoded is not None:
            more += len(encoded[index][0])
        size += more
        if portions[-1] and (size > most_bytes or len(portions[-1]) >= most_keys):
            portions.append([])
            size = more
        portions[-1].append(index)
    return portions


def check_frame(session: Session, size: int) -> None:
    """Raise if a value does not fit in one frame of the node."""
    if size > session.max_value_bytes:
        raise ValueTooLarge(f"value: {size:,} bytes exceed the node's limit of {session.max_value_bytes:,} bytes")
