"""The asyncio machinery on a private loop thread, for callers that wait on a lock.

A call puts itself in the inbox and wakes the loop, unless somebody has done so or a frame is under way: then the loop
looks there when the answer comes, and sends all that has gathered as one frame. So the threads of a program share
frames just as the tasks of a loop do, and a waiting thread costs nothing but its lock. No call is forgotten: it is
put in the inbox before the frames under way are counted, and the loop counts a frame as answered before it looks in
the inbox.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cachenode_client.errors import CacheError, CacheTimeout, CacheUnavailable, ClientClosed

if TYPE_CHECKING:
    from cachenode_client._batches import Group
    from cachenode_client._engine import Encoded, Engine

__all__ = ["LoopThread"]

T = TypeVar("T")

_FRAMES_AT_ONCE = 1
_GRACE_S = 0.5
_START_S = 5.0


class _LockWaiter:
    """A future for one waiting thread."""

    __slots__ = ("_done", "_error", "_lock", "_result")

    def __init__(self) -> None:
        self._done = False
        self._error: CacheError | None = None
        self._result: Any = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._result = result
        self._lock.release()

    def set_exception(self, exception: CacheError, /) -> None:
        self._done = True
        self._error = exception
        self._lock.release()

    def wait(self, timeout_s: float) -> Any:
        if not self._lock.acquire(timeout=timeout_s):
            self._done = True
            raise CacheTimeout
        if self._error is not None:
            raise self._error
        return self._result


_Call = tuple[_LockWaiter, "Group", bytes, "Encoded | None", int]


class LoopThread:
    """One client's engine in a thread of its own, which begins with the first call.

    Args:
        check_usable: Raises if the client is closed or was forked.
        make_engine: Makes the engine, within the loop; what it is given is to be called after each reply.
    """

    _starting = threading.Lock()

    def __init__(self, check_usable: Callable[[], None], make_engine: Callable[[Callable[[], None]], Engine]) -> None:
        self.engine: Engine | None = None
        """None before the first call, and after the end."""
        self._check_usable = check_usable
        self._make_engine = make_engine
        self._inbox: deque[_Call] = deque()
        self._roused = False

    def call(self, group: Group, raw: bytes, encoded: Encoded | None = None, ttl_ms: int = 0) -> Any:
        """Send one key once, and again if it fails and that is safe."""
        engine = self.engine
        if engine is None:
            engine = self.started()
        waiter, began = _LockWaiter(), engine.loop.time()
        self._inbox.append((waiter, group, raw, encoded, ttl_ms))
        if not self._roused:
            session = engine.router.route(raw)
            if session is None or session.in_flight < _FRAMES_AT_ONCE:
                self._roused = True
                engine.loop.call_soon_threadsafe(self._drain, engine)
        try:
            return waiter.wait(group[2] + _GRACE_S)
        except CacheError as error:
            return self.run(engine.again(error, began, group, raw, encoded, ttl_ms), group[2])

    def _replied(self) -> None:
        if self._inbox and self.engine is not None:
            self._drain(self.engine)

    def _drain(self, engine: Engine) -> None:
        """Send what has gathered in the inbox. Runs in the loop."""
        self._roused = False  # first: whoever puts something in from now on wakes the loop again
        inbox = self._inbox
        while inbox:
            waiter, group, raw, encoded, ttl_ms = inbox.popleft()
            try:
                sent = engine.try_submit(group, raw, waiter, encoded, ttl_ms)
            except CacheError as error:
                waiter.set_exception(error)
                continue
            if not sent:
                task = engine.loop.create_task(engine.persist(group, raw, encoded, ttl_ms))
                task.add_done_callback(partial(_hand_over, waiter))

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float, *, grace_s: float = _GRACE_S) -> T:
        """Run a coroutine in the loop and wait for it."""
        engine = self.started()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, engine.loop).result(timeout_s + grace_s)
        except TimeoutError as error:
            raise error if isinstance(error, CacheError) else CacheTimeout() from None

    def started(self) -> Engine:
        """Return the engine, starting its thread with the first call."""
        self._check_usable()
        with self._starting:
            self._check_usable()
            if self.engine is None:
                self._inbox = deque()
                self._roused = False
                self.engine = self._start()
            return self.engine

    def _start(self) -> Engine:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="cachenode-client", daemon=True)
        self._thread.start()

        async def make() -> Engine:
            return self._make_engine(self._replied)

        return asyncio.run_coroutine_threadsafe(make(), loop).result(_START_S)

    def close(self) -> None:
        """End the engine, its loop and the thread. `check_usable` must raise by now, or a call starts them again."""
        with self._starting:
            engine, self.engine = self.engine, None
        if engine is not None:
            asyncio.run_coroutine_threadsafe(engine.close(), engine.loop).result(_START_S)
            engine.loop.call_soon_threadsafe(engine.loop.stop)
            self._thread.join(_START_S)

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        self.engine = None
        LoopThread._starting = threading.Lock()  # may have been held by a thread that does not exist here


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _hand_over(waiter: _LockWaiter, done: asyncio.Task[Any]) -> None:
    if waiter.done():
        return
    error = ClientClosed() if done.cancelled() else done.exception()
    if error is None:
        waiter.set_result(done.result())
    else:
        waiter.set_exception(error if isinstance(error, CacheError) else CacheUnavailable(type(error).__name__))
