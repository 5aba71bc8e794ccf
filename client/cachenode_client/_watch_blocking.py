"""Watching for threads: the asyncio machinery in the client's loop thread, and one thread that waits for events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cachenode_client._watch import Event, Watching, abandon
from cachenode_client.errors import CacheError

if TYPE_CHECKING:
    from cachenode_client._engine import Engine

__all__ = ["BlockingWatcher"]

T = TypeVar("T")


class BlockingWatcher:
    """Events of a watch, for threads: ``with cache.watch() as events: for event in events``.

    It begins with ``with``, `ready`, or the first event that is asked for. Leaving ``with`` ends it; so does `close`,
    from any thread, and closing the client.

    Args:
        started: Returns the client's engine, or raises if the client cannot be used.
        namespace: The one to watch; empty for all.
        timeout_s: How long the beginning may take.
    """

    def __init__(self, started: Callable[[], Engine], namespace: str, timeout_s: float) -> None:
        self._started = started
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._watching: Watching | None = None
        self._beginning = threading.Lock()
        self._closed = False

    def ready(self) -> None:
        """Return once the members are watched: what happens from then on will be told (see the asyncio client)."""
        engine = self._started()
        with self._beginning:
            if self._watching is None and not self._closed:
                self._watching = _wait(engine, _begin(engine, self._namespace, self._timeout_s))
                weakref.finalize(self, abandon, self._watching, engine.loop).atexit = False

    @property
    def members(self) -> int:
        """How many nodes are watched now."""
        return self._watching.members if self._watching is not None else 0

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event."""
        engine = self._started()
        if self._watching is None:
            self.ready()
        event = _wait(engine, self._watching.next()) if self._watching is not None else None
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """End the watch. Whoever waits for an event learns that there are no more. Safe to call twice."""
        self._closed = True
        if self._watching is not None and not self._watching.ended:
            with contextlib.suppress(CacheError):  # the client is closed, and the watch with it; or it was forked
                _wait(self._started(), self._watching.close())

    def __enter__(self) -> Self:
        """Begin."""
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._watching is None else f"{self.members} nodes"
        return f"<blocking Watcher {state}>"


async def _begin(engine: Engine, namespace: str, timeout_s: float) -> Watching:
    watching = Watching(engine, namespace)
    await watching.begin(timeout_s)
    return watching


def _wait(engine: Engine, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the client's loop and wait for it, however long that takes."""
    waiting = asyncio.run_coroutine_threadsafe(coroutine, engine.loop)
    try:
        return waiting.result()
    except BaseException:  # Ctrl-C above all: nobody waits any more
        waiting.cancel()
        raise
