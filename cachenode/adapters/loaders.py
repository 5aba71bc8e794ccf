"""Loaders that are plug-ins: a function or object by ``module:name``, or by the name of an entry point.

Entry points are those of the group ``cachenode.loaders``. With options, or if it is a class, what is named is called
with the options to make the loader. The loader takes a key, as text, or bytes if it is none; one that takes several
keys at a time gets a list and returns a mapping, in which a key without a value is missing or `ABSENT`.

An object that has `keys` can say what the origin has: a generator, async or not (then it runs in a thread of its own),
or a function that returns any iterable of keys.

Values are encoded as a client with default options does, so every client reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from itertools import islice
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

import structlog

from cachenode.core.entries import Loaded as Answer
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Loaded
from cachenode_api.errors import ContractError
from cachenode_api.records import TAGGED
from cachenode_api.tags import canonical_tags, pack_tags
from cachenode_client import CacheError
from cachenode_client._values import Codec

__all__ = ["PluginLoader", "find_plugin"]

_log = structlog.get_logger(__name__)

_GROUP = "cachenode.loaders"
_KEYS_AT_ONCE = 1_000
"""Keys that a thread lists before it hands them to the loop."""


def find_plugin(name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever the plug-in is
    """Return the loader that a name and options stand for.

    Raises:
        ConfigError: There is none, or it cannot be made of these options. The options are not repeated.
    """
    try:
        if ":" in name:
            module, _, path = name.partition(":")
            found = attrgetter(path)(import_module(module))
        else:
            [entry] = entry_points(group=_GROUP, name=name)
            found = entry.load()
    except ValueError:
        known = sorted(entry.name for entry in entry_points(group=_GROUP))
        text = f"is neither module:name nor one of the installed loaders ({', '.join(known) or 'there are none'})"
        raise ConfigError([text]) from None
    except Exception as error:
        raise ConfigError([f"cannot be imported: {type(error).__name__}: {error}"]) from error
    if not options and not isinstance(found, type):
        return found
    try:
        return found(**options)
    except Exception as error:  # its text may repeat an option
        raise ConfigError([f"cannot be made with its options: {type(error).__name__}"]) from error


class PluginLoader:
    """A `Loader` made of a plug-in.

    Args:
        plugin: Takes a key, or a list of keys if `most_keys` is above 1, or has `load` or `load_many` that do; it may
            have `keys` and `close`.
        most_keys: How many keys it takes at a time.
        threads: How many calls of one that is no async function run at a time.

    Raises:
        ConfigError: It cannot be called.
    """

    def __init__(self, plugin: Any, *, most_keys: int = 1, threads: int = 16) -> None:  # noqa: ANN401
        self.most_keys = most_keys
        self._plugin = plugin
        self._load: Callable[[Any], Any] = getattr(plugin, "load_many" if most_keys > 1 else "load", plugin)
        if not callable(self._load):
            raise ConfigError([f"is no function, and has no {'load_many' if most_keys > 1 else 'load'}"])
        self._is_async = _is_async(self._load)
        self._codec = Codec()
        self._threads = _Threads(0 if self._is_async else threads)

    async def load(self, keys: Sequence[bytes]) -> Sequence[Answer | OriginError | None]:
        """Return for each key what the origin has, None where it has nothing, or why that cannot be told.

        Raises:
            OriginError: None of them can be told.
        """
        names = [_name(key) for key in keys]
        if self.most_keys == 1:
            return [await self._one(names[0])]
        found = await self._call(names)
        if not isinstance(found, Mapping):
            text = f"the loader must return a mapping of keys to values, not {type(found).__name__}"
            raise OriginError(text, again=False)
        return [self._answer(found.get(name, ABSENT)) for name in names]

    async def _one(self, name: str | bytes) -> Answer | OriginError | None:
        return self._answer(await self._call(name))

    async def _call(self, argument: object) -> object:
        try:
            if self._is_async:
                return await self._load(argument)
            found = await self._threads.run(self._load, argument)
            return await found if inspect.isawaitable(found) else found
        except OriginError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises means that there is no value
            _log.warning("load_failed", error_type=type(error).__name__)
            raise OriginError(type(error).__name__) from None

    def _answer(self, found: object) -> Answer | OriginError | None:
        if found is ABSENT:
            return None
        loaded = found if isinstance(found, Loaded) else Loaded(found)
        try:
            data, flags = self._codec.encode(loaded.value)
            tags = canonical_tags(loaded.tags)
        except (CacheError, ContractError) as error:
            return OriginError(f"what the loader returned cannot be stored: {error}", again=False)
        if tags:
            data, flags = pack_tags(tags) + data, flags | TAGGED
        if loaded.ttl_s is not None and not loaded.ttl_s > 0:
            return OriginError("what the loader returned cannot be stored: ttl_s must be above 0", again=False)
        return Answer(data, flags, loaded.ttl_s, loaded.keep)

    @property
    def enumerates(self) -> bool:
        """True if the plug-in has `keys`."""
        return callable(getattr(self._plugin, "keys", None))

    async def enumerate(self) -> AsyncIterator[bytes]:
        """Yield the keys that the plug-in lists.

        Raises:
            OriginError: It has no `keys`, or they failed, or what they yield is no key.
        """
        if not self.enumerates:
            raise OriginError("the loader cannot list keys: it has no `keys`", again=False)
        listed = self._plugin.keys()
        try:
            if inspect.isawaitable(listed):
                listed = await listed
            async for name in listed if isinstance(listed, AsyncIterable) else _in_thread(listed):
                yield name.encode() if isinstance(name, str) else bytes(name)
        except OriginError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_call`
            _log.warning("keys_failed", error_type=type(error).__name__)
            raise OriginError(type(error).__name__) from None

    async def close(self) -> None:
        """Let the plug-in close, if it can, and end the threads that are idle."""
        close = getattr(self._plugin, "close", None)
        if close is not None:
            closed = close()
            if inspect.isawaitable(closed):
                await closed
        self._threads.close()


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
            threading.Thread(target=self._work, name=f"loader-{self._made}", daemon=True).start()
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


async def _in_thread(listed: Iterable[str | bytes]) -> AsyncIterator[str | bytes]:
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


def _name(key: bytes) -> str | bytes:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def _is_async(load: Callable[..., Any]) -> bool:
    while isinstance(load, partial):
        load = load.func
    return inspect.iscoroutinefunction(load) or inspect.iscoroutinefunction(getattr(load, "__call__", None))  # noqa: B004 - an object whose call is async
