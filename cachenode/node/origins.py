"""How a node asks an origin: so much at a time, together where that is possible, again where that may help.

Keys that are wanted wait in one queue, those that somebody waits for before those that are only due. From it calls are
made, each for as many keys as the origin takes at once, as many at a time as it may have. So while the origin is idle a
key leaves with those of the same turn (or of `window_s`), and while it is busy the batches grow by themselves.

A call that fails is made again after a pause, for the keys that it concerns. When calls fail one after the other a
breaker opens: then keys fail at once, until one call is let through to see whether the origin is back. The pause
between loads of one key that has failed is not kept here (`cachenode.core.load_backoff`).

Interleavings, each forced by a test in ``tests/node/test_origins.py``:

1. Whoever wants a key goes away while it waits for its turn: it is not asked for (``test_key_nobody_wants_any_more``).
2. Refreshes queue up, then a reader comes: it goes first (``test_readers_go_before_refreshes``).
3. The breaker opens between two attempts: the key fails without another (``test_breaker_ends_the_attempts``).
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import NamedTuple

from cachenode.core.breaker import Breaker
from cachenode.core.entries import Loaded
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.core.stats import OriginCounters
from cachenode.errors import OriginError
from cachenode.ports import Clock, Loader

__all__ = ["Origin"]

_Answer = Loaded | OriginError | None


class _Ask(NamedTuple):
    """A key that somebody wants. Sorts by who goes first."""

    priority: Priority
    number: int
    key: bytes
    answer: asyncio.Future[Loaded | None]


class Origin:
    """One origin, as one node asks it.

    Args:
        name: Its name in the configuration.
        loader: Reads it.
        limits: How hard it may be asked.
        clock: Of the breaker.
    """

    def __init__(self, name: str, loader: Loader, limits: OriginLimits, clock: Clock) -> None:
        self.name = name
        self._loader = loader
        self._limits = limits
        self._clock = clock
        self._breaker = Breaker(failures=limits.breaker_failures, retry_s=limits.breaker_retry_s)
        self._queue: list[_Ask] = []
        self._numbers = count()
        self._due: asyncio.Handle | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._made = self._keys = self._failed = self._retried = 0
        self._seconds = 0.0

    async def load(self, key: bytes, priority: Priority = Priority.DEMAND) -> Loaded | None:
        """Return what the origin has for a key, None if it has nothing.

        Raises:
            OriginError: That could not be found out.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Loaded | None] = loop.create_future()
        heapq.heappush(self._queue, _Ask(priority, next(self._numbers), key, answer))
        if self._due is None:
            window_s = self._limits.window_s
            self._due = loop.call_later(window_s, self._begin) if window_s else loop.call_soon(self._begin)
        return await answer

    @property
    def enumerates(self) -> bool:
        """True if it can list the keys that it has."""
        return self._loader.enumerates

    def keys(self) -> AsyncIterator[bytes]:
        """Yield the key of everything that the origin has (`Loader.enumerate`).

        Raises:
            OriginError: That could not be found out.
        """
        return self._loader.enumerate()

    def _begin(self) -> None:
        """Make as many calls as may be made."""
        self._due = None
        while self._queue and len(self._calls) < self._limits.concurrency:
            asks = self._next()
            if asks:
                task = asyncio.get_running_loop().create_task(self._serve(asks))
                self._calls.add(task)
                task.add_done_callback(self._served)

    def _next(self) -> list[_Ask]:
        asks: list[_Ask] = []
        while self._queue and len(asks) < self._loader.most_keys:
            ask = heapq.heappop(self._queue)
            if not ask.answer.done():
                asks.append(ask)
        return asks

    def _served(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if self._queue and self._due is None:
            self._begin()

    async def _serve(self, asks: list[_Ask]) -> None:
        """Answer keys, by one call or several."""
        try:
            attempt = 0
            while asks:
                attempt += 1
                if not self._breaker.allow(self._clock.now()):
                    self._tell(
                        asks, [OriginError("the origin keeps failing and is left alone for a while")] * len(asks)
                    )
                    return
                answers = await self._call([ask.key for ask in asks])
                again = attempt < self._limits.attempts
                over = [at for at, each in enumerate(answers) if not (again and _may_help(each))]
                self._tell([asks[at] for at in over], [answers[at] for at in over])
                asks = [ask for at, ask in enumerate(asks) if again and _may_help(answers[at])]
                if asks:
                    self._retried += 1
                    await asyncio.sleep(self._limits.pause_s(attempt, random.random()))  # noqa: S311 - jitter
        finally:  # of a node that stops
            self._tell(asks, [OriginError("the node is stopping")] * len(asks))

    async def _call(self, keys: Sequence[bytes]) -> Sequence[_Answer]:
        self._made += 1
        self._keys += len(keys)
        began, limit_s = self._clock.now(), self._limits.timeout_s
        answers: Sequence[_Answer]
        try:
            async with asyncio.timeout(limit_s):
                answers = await self._loader.load(keys)
        except TimeoutError:
            answers = [OriginError(f"no answer within {limit_s:g} s")] * len(keys)
        except OriginError as error:
            answers = [error] * len(keys)
        now = self._clock.now()
        self._seconds += now - began
        if all(map(_may_help, answers)):
            self._failed += 1
            self._breaker.failed(now)
        else:
            self._breaker.succeeded(now)
        return answers

    def _tell(self, asks: Sequence[_Ask], answers: Sequence[_Answer]) -> None:
        for ask, answer in zip(asks, answers, strict=True):
            if ask.answer.done():
                continue
            if isinstance(answer, OriginError):
                ask.answer.set_exception(OriginError(str(answer), again=answer.again))
            else:
                ask.answer.set_result(answer)

    def counters(self) -> OriginCounters:
        """Return what it has counted."""
        return OriginCounters(
            name=self.name,
            calls=self._made,
            keys=self._keys,
            failures=self._failed,
            retries=self._retried,
            seconds=self._seconds,
            busy=len(self._calls),
            waiting=len(self._queue),
            state=self._breaker.state.value,
        )

    async def close(self) -> None:
        """Ask nothing more, and give back connections."""
        if self._due is not None:
            self._due.cancel()
        queue, self._queue = self._queue, []
        self._tell(queue, [OriginError("the node is stopping")] * len(queue))
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._loader.close()

    def __repr__(self) -> str:
        return f"<Origin {self.name}: {len(self._calls)} calls, {len(self._queue)} keys wait>"


def _may_help(answer: _Answer) -> bool:
    """Return True if asking again may bring another answer."""
    return isinstance(answer, OriginError) and answer.again
