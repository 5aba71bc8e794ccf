"""Plug-ins of the nodes: found by ``module:name`` or by the name of an entry point, and called as what they are.

An async function is awaited; anything else is called in a thread. Keys are given as text, or as bytes if they are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from itertools import islice
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

import structlog

from cachenode.errors import ConfigError, OriginError

__all__ = ["LOADERS", "SINKS", "PluginCall", "close_plugin", "find_plugin", "iterate_in_thread", "name_of_key"]

_log = structlog.get_logger(__name__)

LOADERS = "cachenode.loaders"
SINKS = "cachenode.sinks"
"""The groups of entry points."""
_KEYS_AT_ONCE = 1_000
"""Keys that a thread lists before it hands them to the loop."""


def find_plugin(name: str, options: Mapping[str, Any], group: str = LOADERS) -> Any:  # noqa: ANN401 - whatever it is
    """Return the plug-in that a name and options stand for: with options, or if it is a class, it is made with them.

    Raises:
        ConfigError: There is none, or it cannot be made of these options. The options are not repeated.
    """
    try:
        if ":" in name:
            module, _, path = name.partition(":")
            found = attrgetter(path)(import_module(module))
        else:
            [entry] = entry_points(group=group, name=name)
            found = entry.load()
    except ValueError:
        known = ", ".join(sorted(entry.name for entry in entry_points(group=group))) or "there are none"
        kind = group.partition(".")[-1]
        raise ConfigError([f"is neither module:name nor one of the installed {kind} ({known})"]) from None
    except Exception as error:
        raise ConfigError([f"cannot be imported: {type(error).__name__}: {error}"]) from error
    if not options and not isinstance(found, type):
        return found
    try:
        return found(**options)
    except ConfigError:
        raise
    except Exception as error:  # its text may repeat an option
        raise ConfigError([f"cannot be made with its options: {type(error).__name__}"]) from error


class PluginCall:
    """One function of a plug-in, called as what it is.

    Args:
        function: Async or not.
        threads: How many calls of one that is no async function run at a time.
        event: What is logged when it raises.
        unsure: Whether what it raises leaves open what it has done. An `OriginError` says so itself.
    """

    def __init__(self, function: Callable[[Any], Any], *, threads: int, event: str, unsure: bool = False) -> None:
        self._function = function
        self._is_async = _is_async(function)
        self._threads = _Threads(0 if self._is_async else threads)
        self._event = event
        self._unsure = unsure

    async def __call__(self, argument: object) -> object:
        """Call the function and return what it returns.

        Raises:
            OriginError: It has raised something, which is told by its type: its text may hold anything.
        """
        try:
            if self._is_async:
                return await self._function(argument)
            found = await self._threads.run(self._function, argument)
            return await found if inspect.isawaitable(found) else found
        except OriginError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            _log.warning(self._event, error_type=type(error).__name__)
            raise OriginError(type(error).__name__, maybe_done=self._unsure) from None

    def close(self) -> None:
        """End the threads that are idle."""
        self._threads.close()


async def close_plugin(plugin: Any) -> None:  # noqa: ANN401 - whatever the plug-in is
    """Let a plug-in close, if it can."""
    close = getattr(plugin, "close", None)
    if close is not None:
        closed = close()
        if inspect.isawaitable(closed):
            await closed


class _Threads:
    """Threads for calls that block, made as they are needed.

    An executor's threads are waited for when the process ends, so a call that never returns would keep a node from
    stopping. These are not.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._made = 0
        self._idle = 0
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[Any], Any], object] | None] = SimpleQueue()

    async def run(self, function: Callable[[Any], Any], argument: object) -> Any:  # noqa: ANN401
        """Call a function in a thread and return what it returns. Who leaves before that leaves it running."""
        return await self.begin(function, argument)

    def begin(self, function: Callable[[Any], Any], argument: object) -> asyncio.Future[Any]:
        """Call a function in a thread; the future gets what it returns."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        elif self._made < self._most:
            self._made += 1
            threading.Thread(target=self._work, name=f"plugin-{self._made}", daemon=True).start()
        self._calls.put((future, function, argument))
        return future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, argument = call
            result: Any = None
            error: Exception | None = None
            try:
                result = function(argument)
            except Exception as raised:  # noqa: BLE001 - the caller's to judge
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                future.get_loop().call_soon_threadsafe(self._done, future, result, error)

    def _done(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:  # noqa: ANN401
        self._idle += 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def close(self) -> None:
        """Let the threads end, each when its call has."""
        for _ in range(self._made):
            self._calls.put(None)


async def iterate_in_thread(listed: Iterable[str | bytes]) -> AsyncIterator[str | bytes]:
    """Yield what an iterable does that may block."""
    iterator: Iterator[str | bytes] | None = None

    def some(_: object) -> list[str | bytes]:
        nonlocal iterator
        iterator = iter(listed) if iterator is None else iterator
        return list(islice(iterator, _KEYS_AT_ONCE))

    def close(_: object) -> None:
        end = getattr(iterator, "close", None)
        if end is not None:
            end()

    thread = _Threads(1)
    try:
        while names := await thread.run(some, None):
            for name in names:
                yield name
    finally:  # in the same thread: a generator may hold what no other may touch, such as a connection of SQLite
        thread.begin(close, None)
        thread.close()


def name_of_key(key: bytes) -> str | bytes:
    """Return a key as plug-ins see it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object whose call is async
