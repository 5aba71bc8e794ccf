"""How a node calls what reads or writes an origin: so much at a time, together where possible, again where that helps.

Questions (keys to load, writes to do) wait in one queue, those that somebody waits for before those that are only due.
From it calls are made, each for as many as a call takes, as many at a time as there may be. So while the origin is idle
a question leaves with those of the same turn (or of `window_s`), and while it is busy the batches grow by themselves.

A call that fails is made again after a pause, for the questions that it concerns. When calls fail one after the other a
breaker opens: then questions fail at once, until one call is let through to see whether the origin is back.

Interleavings, each forced by a test in ``tests/node/test_origins.py``:

1. Whoever asks goes away while the question waits for its turn: it is not asked (``test_key_nobody_wants_any_more``).
2. Refreshes queue up, then a reader comes: it goes first (``test_readers_go_before_refreshes``).
3. The breaker opens between two attempts: the question fails without another (``test_breaker_ends_the_attempts``).
4. The first attempt may have written and the second cannot: the answer still says that it may be done
   (``test_what_may_have_been_written_is_not_denied_later``).
5. The right to write ends between two attempts: there is no other (``test_write_without_the_right_to_it``).
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

import structlog

from cachenode.core.breaker import Breaker, BreakerState
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.errors import OriginError
from cachenode.ports import Clock

__all__ = ["Calls"]

_log = structlog.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True, eq=False)
class _Ask(Generic[Q, A]):
    """A question that somebody asks. Sorts by who goes first."""

    rank: tuple[Priority, int]
    question: Q
    answer: asyncio.Future[A]
    allowed: Callable[[], bool] | None
    maybe_done: bool = False

    def __lt__(self, other: _Ask[Q, A]) -> bool:
        return self.rank < other.rank


class Calls(Generic[Q, A]):
    """Calls of one kind to one origin, as one node makes them.

    Args:
        call: Answers as many questions; raises `OriginError` if none could be answered.
        most: How many questions a call takes.
        limits: How hard the origin may be called.
        clock: Of the breaker.
        writes: Whether a call changes the origin: then one that was not answered in time is not made again, for it
            may still be under way, and its answer says that it may be done.
        name: Of the origin, for the log.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Q]], Awaitable[Sequence[A | OriginError]]],
        most: int,
        limits: OriginLimits,
        clock: Clock,
        *,
        writes: bool = False,
        name: str = "",
    ) -> None:
        self._name = name
        self._make = call
        self._most = most
        self._limits = limits
        self._clock = clock
        self._writes = writes
        self._breaker = Breaker(failures=limits.breaker_failures, retry_s=limits.breaker_retry_s)
        self._queue: list[_Ask[Q, A]] = []
        self._numbers = count()
        self._patient: dict[Q, _Ask[Q, A]] = {}
        """The questions in the queue that nobody waits for."""
        self._due: asyncio.Handle | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.made = self.questions = self.failed = self.retried = 0
        self.seconds = 0.0

    async def ask(self, question: Q, priority: Priority, allowed: Callable[[], bool] | None = None) -> A:
        """Return the answer to a question.

        Args:
            question: The question.
            priority: Of those that wait.
            allowed: Looked at before each call: False ends the attempts.

        Raises:
            OriginError: There is none.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        ask = _Ask((priority, next(self._numbers)), question, answer, allowed)
        heapq.heappush(self._queue, ask)
        if priority is not Priority.DEMAND:
            self._patient[question] = ask
        if self._due is None:
            window_s = self._limits.window_s
            self._due = loop.call_later(window_s, self._begin) if window_s else loop.call_soon(self._begin)
        return await answer

    def hurry(self, question: Q) -> None:
        """Somebody waits for the answer to a question that was only due: it goes with those of readers."""
        ask = self._patient.pop(question, None)
        if ask is not None:
            ask.rank = Priority.DEMAND, ask.rank[1]
            heapq.heapify(self._queue)

    def _begin(self) -> None:
        """Make as many calls as may be made."""
        self._due = None
        while self._queue and len(self._under_way) < self._limits.concurrency:
            asks = self._next()
            if asks:
                task = asyncio.get_running_loop().create_task(self._serve(asks))
                self._under_way.add(task)
                task.add_done_callback(self._served)

    def _next(self) -> list[_Ask[Q, A]]:
        asks: list[_Ask[Q, A]] = []
        while self._queue and len(asks) < self._most:
            ask = heapq.heappop(self._queue)
            if ask.rank[0] is not Priority.DEMAND and self._patient.get(ask.question) is ask:
                del self._patient[ask.question]
            if not ask.answer.done():
                asks.append(ask)
        return asks

    def _served(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._queue and self._due is None:
            self._begin()

    async def _serve(self, asks: list[_Ask[Q, A]]) -> None:
        """Answer questions, by one call or several."""
        calling = False
        try:
            attempt = 0
            while asks := self._still_allowed(asks):
                attempt += 1
                if not self._breaker.allow(self._clock.now()):
                    self._fail(asks, "the origin keeps failing and is left alone for a while")
                    return
                calling = True
                answers = await self._call([ask.question for ask in asks])
                calling = False
                again = attempt < self._limits.attempts
                left = []
                for ask, answer in zip(asks, answers, strict=True):
                    if isinstance(answer, OriginError):
                        ask.maybe_done |= answer.maybe_done
                        if again and answer.again:
                            left.append(ask)
                            continue
                    _tell(ask, answer)
                asks = left
                if asks:
                    self.retried += 1
                    await asyncio.sleep(self._limits.pause_s(attempt, random.random()))  # noqa: S311 - jitter
        finally:  # of a node that stops
            self._fail(asks, "the node is stopping", maybe_done=calling and self._writes)

    def _still_allowed(self, asks: list[_Ask[Q, A]]) -> list[_Ask[Q, A]]:
        refused = [ask for ask in asks if ask.allowed is not None and not ask.allowed()]
        self._fail(refused, "this node has lost the right to ask")
        return [ask for ask in asks if ask not in refused] if refused else asks

    async def _call(self, questions: Sequence[Q]) -> Sequence[A | OriginError]:
        self.made += 1
        self.questions += len(questions)
        began, limit_s = self._clock.now(), self._limits.timeout_s
        answers: Sequence[A | OriginError]
        try:
            async with asyncio.timeout(limit_s):
                answers = await self._make(questions)
        except TimeoutError:
            late = OriginError(f"no answer within {limit_s:g} s", again=not self._writes, maybe_done=self._writes)
            answers = [late] * len(questions)
        except OriginError as error:
            answers = [error] * len(questions)
        now = self._clock.now()
        self.seconds += now - began
        before = self._breaker.state
        if all(map(_outage, answers)):
            self.failed += 1
            self._breaker.failed(now)
        else:
            self._breaker.succeeded(now)
        if self._breaker.state is not before:
            self._say(before)
        return answers

    def _say(self, before: BreakerState) -> None:
        """Log a change of the breaker; that it was tried in vain is none."""
        what = "writes" if self._writes else "reads"
        if self._breaker.state is BreakerState.CLOSED:
            _log.info("origin_back", origin=self._name, what=what)
        elif before is BreakerState.CLOSED:
            _log.warning("origin_left_alone", origin=self._name, what=what, failed=self.failed, calls=self.made)

    def _fail(self, asks: Sequence[_Ask[Q, A]], text: str, *, maybe_done: bool = False) -> None:
        for ask in asks:
            _tell(ask, OriginError(text, maybe_done=maybe_done))

    @property
    def busy(self) -> int:
        """How many calls are under way."""
        return len(self._under_way)

    @property
    def waiting(self) -> int:
        """How many questions wait for a call."""
        return len(self._queue)

    @property
    def state(self) -> str:
        """Of the breaker."""
        return self._breaker.state.value

    async def close(self) -> None:
        """Make no more calls, and answer everybody."""
        if self._due is not None:
            self._due.cancel()
        queue, self._queue = self._queue, []
        self._fail(queue, "the node is stopping")
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _tell(ask: _Ask[Q, A], answer: A | OriginError) -> None:
    if ask.answer.done():
        return
    if isinstance(answer, OriginError):
        maybe_done = ask.maybe_done or answer.maybe_done
        ask.answer.set_exception(OriginError(str(answer), again=answer.again, maybe_done=maybe_done))
    else:
        ask.answer.set_result(answer)


def _outage(answer: object) -> bool:
    """Return True if an answer speaks of an origin that does not work."""
    return isinstance(answer, OriginError) and (answer.again or answer.maybe_done)
