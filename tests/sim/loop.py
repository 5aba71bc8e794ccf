"""One event loop for many processes: its clock jumps to the next timer, and each process lives by a clock of its own.

A *host* is one process. Its tasks carry it in a context variable, which tasks and callbacks inherit. What belongs to a
paused host is held back until it goes on; what belongs to a dead one is dropped. Within a host `time` and `call_at`
follow the host's clock, which may run fast or slow; the loop itself counts true time.

A loop that has nothing to do and nothing to wait for is a deadlock, and one that goes round for ever without time
passing is caught too: both are errors instead of a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVarTuple, Unpack

__all__ = ["HOST", "Deadlock", "Host", "SimLoop"]

_NUDGE_S = 1e-9
"""A timer goes off this much late, so that rounding never lets it find that its time has not come."""
_MOST_AT_ONCE = 500_000
_PRUNE_FROM = 256
_Args = TypeVarTuple("_Args")


class Deadlock(RuntimeError):
    """Nothing can happen any more, or too much happens at one moment."""


class Host:
    """One process.

    Args:
        name: Of the machine; a process that is started again is another host of the same name.
        rate: Seconds of its clock per true second.
        offset: What its clock shows at the beginning of the simulation.

    Attributes:
        paused: True while none of its tasks run.
        dead: True once none will run again.
        context: For what is to run on this host.
        stops: When it was paused, from and to in true time; the last may have no end yet.
    """

    __slots__ = ("born", "context", "dead", "held", "name", "offset", "paused", "rate", "stops", "tasks")

    def __init__(self, name: str, rate: float = 1.0, offset: float = 0.0) -> None:
        self.name = name
        self.rate = rate
        self.offset = offset
        self.paused = False
        self.dead = False
        self.held: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.stops: list[list[float]] = []
        self.context = contextvars.Context()
        self.context.run(HOST.set, self)

    def local(self, true: float) -> float:
        """Return what the host's clock shows at a true time."""
        return self.offset + true * self.rate

    def true(self, local: float) -> float:
        """Return the true time at which the host's clock shows this."""
        return (local - self.offset) / self.rate + _NUDGE_S

    def paused_within(self, began: float, ended: float) -> float:
        """Return for how long it stood still between two true times."""
        return sum(max(0.0, min(ended, stop[1]) - max(began, stop[0])) for stop in self.stops)

    def __repr__(self) -> str:
        return f"<Host {self.name}>"


HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


class _Numbers:
    """Hands out numbers, anew for each loop: two runs of a seed must hand out the same."""

    count: Iterator[int] = itertools.count(1)


class _Future(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address, but on when it was first put into one.

    The number is given then and not at birth: few futures are ever hashed, and a constructor in Python costs more
    than all else that becomes of a future.
    """

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            self._number = next(_Numbers.count)
        return self._number


class _Task(asyncio.Task[Any]):
    """The same for a task."""

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            self._number = next(_Numbers.count)
        return self._number


class _Handle(asyncio.TimerHandle):
    """What is to be called, with a time or without; it knows no loop and no debugging."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., Any] | None, args: Any, context: contextvars.Context) -> None:
        self._callback: Callable[..., Any] | None = callback
        self._args: Any = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        """Do not call it. A timer stays in the heap until its time comes."""
        self._cancelled = True
        self._callback = self._args = None

    def __repr__(self) -> str:
        return f"<Handle {self._callback!r}>"


class SimLoop(asyncio.BaseEventLoop):
    """The loop. Not to be entered twice, nor from a thread."""

    _ready: deque[Any]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(False)  # it would cost more than the rest
        self.now = 0.0
        self.handled = 0
        _Numbers.count = itertools.count(1)
        self._timers: list[tuple[float, int, _Handle]] = []
        self._armed = 0
        self._orphans: list[asyncio.Task[Any]] = []
        self._outside = contextvars.Context()

    # As a loop.

    def time(self) -> float:
        """Return the time of the present host, true time outside of all."""
        host = HOST.get()
        return self.now if host is None else host.offset + self.now * host.rate

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Args]], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call at a time of the present host's clock."""
        host = HOST.get()
        if host is not None:
            when = (when - host.offset) / host.rate + _NUDGE_S
        return self._arm(when, callback, args, context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Args]], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call after so many seconds of the present host's clock."""
        host = HOST.get()
        if host is not None:
            delay = delay / host.rate + _NUDGE_S
        return self._arm(self.now + delay, callback, args, context)

    def call_soon(
        self,
        callback: Callable[[Unpack[_Args]], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Call in this turn or the next, without the checks of the base class."""
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future."""
        return _Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], *, name: Any = None, context: Any = None
    ) -> asyncio.Task[Any]:
        """Begin a task, which is kept for `bury` even if nobody else knows it."""
        task = _Task(coro, loop=self, name=name or "task", context=context)
        host = HOST.get() if context is None else context.get(HOST)
        kept = self._orphans if host is None else host.tasks
        kept.append(task)
        if len(kept) >= _PRUNE_FROM and not len(kept) & (len(kept) - 1):
            kept[:] = [each for each in kept if not each.done()]
        return task

    def _arm(self, when: float, callback: Callable[..., Any], args: Any, context: Any) -> asyncio.TimerHandle:
        timer = _Handle(callback, args, contextvars.copy_context() if context is None else context)
        timer._when = when  # type: ignore[attr-defined]
        self._armed += 1
        heapq.heappush(self._timers, (when, self._armed, timer))
        return timer

    def _run_once(self) -> None:
        """Run what is ready; whenever nothing is, let time jump to the next timer."""
        ready, turns = self._ready, 0
        while not self._stopping:
            if not ready:
                self._jump()
                turns = 0
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            host = context.get(HOST)
            if host is not None and (host.paused or host.dead):
                if not host.dead:
                    host.held.append(handle)
                continue
            try:
                context.run(handle._callback, *handle._args)
            except Exception as error:  # noqa: BLE001 - a callback must not end the others
                self.call_exception_handler({"message": f"{handle!r} failed", "exception": error, "handle": handle})
            turns += 1
            self.handled += 1
            if turns > _MOST_AT_ONCE:
                raise Deadlock(f"the loop goes round without end at {self.now:.6f}")

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"every task is blocked and no timer is armed at {self.now:.6f}")
        self.now = now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= now:
            self._ready.append(heapq.heappop(timers)[2])

    def _process_events(self, event_list: Any) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""

    # As a world of hosts.

    def after(self, delay: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Call outside of all hosts, after so many true seconds."""
        return self._arm(self.now + delay, callback, args, self._outside)

    def spawn(self, host: Host | None, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task of a host, or outside of all."""
        context = self._outside if host is None else host.context
        return self.create_task(coro, context=context.copy())

    def pause(self, host: Host) -> None:
        """Let a host stand still."""
        host.paused = True
        host.stops.append([self.now, float("inf")])

    def resume(self, host: Host) -> None:
        """Let a host go on with all that has come up meanwhile."""
        if not host.paused:
            return
        host.paused = False
        host.stops[-1][1] = self.now
        held, host.held = host.held, []
        self._ready.extend(held)

    def kill(self, host: Host) -> None:
        """Let nothing of a host happen any more."""
        host.dead = True
        host.held.clear()

    def bury(self, hosts: list[Host]) -> None:
        """Close what never came to its end, without a word; to be called when nothing runs any more."""
        for host in [None, *hosts]:
            for task in self._orphans if host is None else host.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    with contextlib.suppress(BaseException):  # whatever its last words are
                        task.get_coro().close()
        self._ready.clear()
        self._timers.clear()
