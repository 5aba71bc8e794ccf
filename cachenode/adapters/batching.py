"""Calls that a store's next round trip can carry together, as one batch.

A round trip to a store costs about 200 µs of Python whatever it carries; a key in it costs a few. So callers do not
call the store: they leave their items here. If no batch is under way they leave together at the end of the turn; else
they gather until it has come back, or for `_PATIENCE_S` if the store is slower than that. Without this patience,
callers who come again as soon as they are answered fall apart into ever smaller batches, and the node spends its time
on round trips (64 readers: 27,000 reads a second against 36,000 on one machine).

Rules that make it safe:

1. A batch is a task of its own. A caller that is cancelled takes only its own future along; the others get what they
   asked for.
2. A batch ends within `limit_s`. It is cancelled three turns after its deadline, not at it: when the *loop* was stuck
   for longer than the limit, replies that have arrived meanwhile are read first. Otherwise every long pause of this
   process would look like an outage of the store (``test_a_stuck_loop_is_not_an_outage``). Two turns are enough for
   asyncio's own loop; uvloop may look at its timers once more before it reads.
3. Waiting for a slot is no failure as long as batches succeed: a bulk load that queues here says nothing about the
   health of the store. When one fails, those that have waited longer than `wait_limits` times the limit fail too.
4. Whatever ends a batch settles all its callers: there is no path on which a future stays open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from cachenode.adapters.redis_client import FAILURES, reason
from cachenode.errors import L2Unavailable

__all__ = ["TurnBatcher"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

_PATIENCE_S = 0.001
"""How long calls gather behind a batch under way: a few round trips to a store nearby, little beside a far one's."""
_TURNS = 3
"""Between a batch's deadline and its end: see rule 2."""
_TICK_S = 0.0005
"""What is due so soon is due now: uvloop's clock has milliseconds, and it makes a shorter delay none at all."""


class _Call(NamedTuple, Generic[R, I]):
    future: asyncio.Future[list[R]]
    items: Sequence[I]
    since: float


class TurnBatcher(Generic[I, R]):
    """Runs the items of all callers of one turn together.

    Args:
        run: Executes a batch; returns one result per item, in order.
        in_flight: Batches that run at once, at most.
        limit_s: Time limit of a batch.
        wait_limits: After a failure, so many limits a call may have waited for a slot without failing too.
        max_items: Items in a batch, at most.
        max_bytes: Bytes in a batch, at most; a single item may exceed it.
        size: Bytes of an item; None if only their number counts.
    """

    def __init__(
        self,
        run: Callable[[list[I]], Awaitable[list[R]]],
        *,
        in_flight: int,
        limit_s: float,
        wait_limits: int = 1,
        max_items: int = 1_000,
        max_bytes: int = 4 << 20,
        size: Callable[[I], int] | None = None,
    ) -> None:
        self._run = run
        self._in_flight = in_flight
        self._limit_s = limit_s
        self._wait_s = limit_s * wait_limits
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size = size
        self._waiting: deque[_Call[R, I]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._armed = False
        self._started_at = 0.0
        self._closed = False

    async def submit(self, items: Sequence[I]) -> list[R]:
        """Return the result of each item.

        Raises:
            L2Unavailable: The batch failed, did not end in time, or the batcher is closed.
        """
        if self._closed:
            raise L2Unavailable("the shared store is unavailable: it was closed")
        if not items:
            return []
        if len(items) <= self._max_items and self._size is None:
            return await self._enqueue(items)
        parts = [self._enqueue(part) for part in self._split(items)]
        if len(parts) == 1:
            return await parts[0]
        results = await asyncio.gather(*parts, return_exceptions=True)
        whole: list[R] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            whole += result
        return whole

    async def close(self) -> None:
        """End every batch; its callers get `L2Unavailable`. Safe to call twice."""
        self._closed = True
        _fail(self._waiting, "it was closed")
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _enqueue(self, items: Sequence[I]) -> asyncio.Future[list[R]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        self._waiting.append(_Call(future, items, loop.time()))
        if not self._armed:
            self._armed = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._armed = False
        while self._waiting and len(self._running) < self._in_flight:
            due = self._started_at + _PATIENCE_S
            loop = asyncio.get_running_loop()
            if self._running and loop.time() < due - _TICK_S:
                self._armed = True
                loop.call_at(due, self._flush)
                return
            if batch := self._take():
                self._start(batch)

    def _take(self) -> list[_Call[R, I]]:
        """Return the calls of the next batch."""
        batch: list[_Call[R, I]] = []
        count = weight = 0
        waiting = self._waiting
        while waiting:
            call = waiting[0]
            if not call.future.done():  # else it was cancelled while it waited
                items, bytes_ = len(call.items), self._weigh(call.items)
                if batch and (count + items > self._max_items or weight + bytes_ > self._max_bytes):
                    break
                batch.append(call)
                count += items
                weight += bytes_
            waiting.popleft()
        return batch

    def _start(self, calls: list[_Call[R, I]]) -> None:
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        task = loop.create_task(self._fly(calls))
        self._running.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._running.discard(done)
            if done.cancelled():  # before its first step: `_fly` never ran
                _fail(calls, "it was closed")
            self._flush()

        task.add_done_callback(ended)

    async def _fly(self, calls: list[_Call[R, I]]) -> None:
        items: list[I] = []
        for call in calls:
            items += call.items
        timer = self._cancel_in(self._limit_s)
        try:
            results = await self._run(items)
        except FAILURES as error:
            self._failed(calls, reason(error))
        except asyncio.CancelledError:  # this task belongs to nobody else, so nobody waits for the cancellation
            why = "it was closed" if self._closed else f"no answer within {self._limit_s * 1_000:.0f} ms"
            self._failed(calls, why)
        except BaseException:
            self._failed(calls, "a reply could not be read")
            raise
        else:
            at = 0
            for future, part, _ in calls:
                if not future.done():
                    future.set_result(results[at : at + len(part)])
                at += len(part)
        finally:
            timer.cancel()

    def _failed(self, calls: list[_Call[R, I]], why: str) -> None:
        """Fail the calls of a batch, and those that have waited for a slot for too long."""
        latest = asyncio.get_running_loop().time() - self._wait_s
        late: list[_Call[R, I]] = []
        while self._waiting and self._waiting[0].since <= latest:
            late.append(self._waiting.popleft())
        _fail([*calls, *late], why)

    def _cancel_in(self, seconds: float) -> asyncio.TimerHandle:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel_after(turns: int) -> None:
            if turns:
                loop.call_soon(cancel_after, turns - 1)
            else:
                task.cancel()

        return loop.call_later(seconds, cancel_after, _TURNS)

    def _weigh(self, items: Sequence[I]) -> int:
        return 0 if self._size is None else sum(map(self._size, items))

    def _split(self, items: Sequence[I]) -> Iterator[Sequence[I]]:
        start = weight = 0
        for index, item in enumerate(items):
            bytes_ = 0 if self._size is None else self._size(item)
            if index > start and (index - start >= self._max_items or weight + bytes_ > self._max_bytes):
                yield items[start:index]
                start, weight = index, 0
            weight += bytes_
        yield items[start:]


def _fail(calls: Iterable[_Call[R, I]], why: str) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(L2Unavailable(f"the shared store is unavailable: {why}"))
