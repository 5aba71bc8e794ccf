"""Calls made in the same turn of the event loop, as one batch.

A round trip to a store costs about 200 µs of Python whatever it carries; a key in it costs a few. So callers do not
call the store: they leave their items here, and a callback at the end of the turn puts the items of all of them into
as few batches as the limits allow.

Rules that make it safe:

1. A batch is a task of its own. A caller that is cancelled takes only its own future along; the others get what they
   asked for.
2. A batch ends within `limit_s` from when it has a slot, and waits for one at most `wait_limits` times as long: a bulk
   load that queues here says nothing about the health of the store. It is cancelled two turns after its deadline, not
   at it: when the *loop* was stuck for longer than the limit, replies that have arrived meanwhile are read first.
   Otherwise every long pause of this process would look like an outage of the store.
3. Whatever ends a batch settles all its callers: there is no path on which a future stays open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from cachenode.adapters.redis_client import FAILURES, reason
from cachenode.errors import L2Unavailable

__all__ = ["TurnBatcher"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

_Call = tuple["asyncio.Future[list[R]]", Sequence[I]]


class TurnBatcher(Generic[I, R]):
    """Runs the items of all callers of one turn together.

    Args:
        run: Executes a batch; returns one result per item, in order. slots: Bounds the batches that run at once, so
            that a slow one does not hold up the next and many slow ones do not pile up. limit_s: Time limit of a
            batch. wait_limits: So many limits it may wait for a slot. max_items: Items in a batch, at most.
            max_bytes: Bytes in a batch, at most; a single item may exceed it. size: Bytes of an item; None if only
                their number counts.
    """

    def __init__(
        self,
        run: Callable[[list[I]], Awaitable[list[R]]],
        slots: asyncio.Semaphore,
        *,
        limit_s: float,
        wait_limits: int = 1,
        max_items: int = 1_000,
        max_bytes: int = 4 << 20,
        size: Callable[[I], int] | None = None,
    ) -> None:
        self._run = run
        self._slots = slots
        self._limit_s = limit_s
        self._wait_s = limit_s * wait_limits
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size = size
        self._waiting: list[_Call[R, I]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._armed = False
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
        self._flush()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _enqueue(self, items: Sequence[I]) -> asyncio.Future[list[R]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        self._waiting.append((future, items))
        if not self._armed:
            self._armed = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._armed = False
        calls, self._waiting = self._waiting, []
        batch: list[_Call[R, I]] = []
        count = weight = 0
        for call in calls:
            if call[0].done():  # cancelled in the turn in which it called
                continue
            items, bytes_ = len(call[1]), self._weigh(call[1])
            if batch and (count + items > self._max_items or weight + bytes_ > self._max_bytes):
                self._start(batch)
                batch, count, weight = [], 0, 0
            batch.append(call)
            count += items
            weight += bytes_
        if batch:
            self._start(batch)

    def _start(self, calls: list[_Call[R, I]]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._fly(calls))
        self._running.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._running.discard(done)
            if done.cancelled():  # before its first step: `_fly` never ran
                _fail(calls, "it was closed")

        task.add_done_callback(ended)

    async def _fly(self, calls: list[_Call[R, I]]) -> None:
        items: list[I] = []
        for _, part in calls:
            items += part
        timer = self._cancel_in(self._wait_s)
        try:
            async with self._slots:
                timer.cancel()
                timer = self._cancel_in(self._limit_s)
                results = await self._run(items)
        except FAILURES as error:
            _fail(calls, reason(error))
        except asyncio.CancelledError:  # this task belongs to nobody else, so nobody waits for the cancellation
            why = "it was closed" if self._closed else f"no answer within {self._limit_s * 1_000:.0f} ms"
            _fail(calls, why)
        except BaseException:
            _fail(calls, "a reply could not be read")
            raise
        else:
            at = 0
            for future, part in calls:
                if not future.done():
                    future.set_result(results[at : at + len(part)])
                at += len(part)
        finally:
            timer.cancel()

    def _cancel_in(self, seconds: float) -> asyncio.TimerHandle:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        return loop.call_later(seconds, lambda: loop.call_soon(lambda: loop.call_soon(task.cancel)))

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


def _fail(calls: list[_Call[R, I]], why: str) -> None:
    for future, _ in calls:
        if not future.done():
            future.set_exception(L2Unavailable(f"the shared store is unavailable: {why}"))
