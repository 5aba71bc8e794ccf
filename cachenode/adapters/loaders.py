"""Loaders that are plug-ins (`cachenode.adapters.plugins`), of the group of entry points ``cachenode.loaders``.

A loader takes a key, as text, or bytes if it is none; one that takes several keys at a time gets a list and returns a
mapping, in which a key without a value is missing or `ABSENT`.

An object that has `keys` can say what the origin has: a generator, async or not (then it runs in a thread of its own),
or a function that returns any iterable of keys.

Values are encoded as a client with default options does, so every client reads them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Any

import structlog

from cachenode.adapters.plugins import PluginCall, close_plugin, iterate_in_thread, name_of_key
from cachenode.core.entries import Loaded as Answer
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Loaded
from cachenode_api.dependencies import canonical_parents
from cachenode_api.errors import ContractError
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.records import TAGGED
from cachenode_api.tags import canonical_tags, pack_tags
from cachenode_client import CacheError
from cachenode_client._values import Codec

__all__ = ["PluginLoader"]

_log = structlog.get_logger(__name__)


class PluginLoader:
    """A `Loader` made of a plug-in.

    Args:
        plugin: Takes a key, or a list of keys if `most_keys` is above 1, or has `load` or `load_many` that do; it may
            have `keys` and `close`.
        most_keys: How many keys it takes at a time.
        threads: How many calls of one that is no async function run at a time.
        closes: Whether the plug-in is closed with the loader.

    Raises:
        ConfigError: It cannot be called.
    """

    def __init__(self, plugin: Any, *, most_keys: int = 1, threads: int = 16, closes: bool = True) -> None:  # noqa: ANN401
        self.most_keys = most_keys
        self._plugin = plugin
        self._closes = closes
        function = getattr(plugin, "load_many" if most_keys > 1 else "load", plugin)
        if not callable(function):
            raise ConfigError([f"is no function, and has no {'load_many' if most_keys > 1 else 'load'}"])
        self._call = PluginCall(function, threads=threads, event="load_failed")
        self._codec = Codec()

    async def load(self, keys: Sequence[bytes]) -> Sequence[Answer | OriginError | None]:
        """Return for each key what the origin has, None where it has nothing, or why that cannot be told.

        Raises:
            OriginError: None of them can be told.
        """
        names = [name_of_key(key) for key in keys]
        if self.most_keys == 1:
            return [self._answer(await self._call(names[0]))]
        found = await self._call(names)
        if not isinstance(found, Mapping):
            text = f"the loader must return a mapping of keys to values, not {type(found).__name__}"
            raise OriginError(text, again=False)
        return [self._answer(found.get(name, ABSENT)) for name in names]

    def _answer(self, found: object) -> Answer | OriginError | None:
        if found is ABSENT:
            return None
        if isinstance(found, OriginError):
            return found
        loaded = found if isinstance(found, Loaded) else Loaded(found)
        try:
            data, flags = self._codec.encode(loaded.value)
            tags = canonical_tags(loaded.tags)
            canonical_parents(loaded.depends_on, DEFAULT_NAMESPACE)
        except (CacheError, ContractError) as error:
            return OriginError(f"what the loader returned cannot be stored: {error}", again=False)
        if tags:
            data, flags = pack_tags(tags) + data, flags | TAGGED
        if loaded.ttl_s is not None and not loaded.ttl_s > 0:
            return OriginError("what the loader returned cannot be stored: ttl_s must be above 0", again=False)
        return Answer(data, flags, loaded.ttl_s, loaded.keep, tuple(loaded.depends_on))

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
            async for name in listed if isinstance(listed, AsyncIterable) else iterate_in_thread(listed):
                yield name.encode() if isinstance(name, str) else bytes(name)
        except OriginError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            _log.warning("keys_failed", error_type=type(error).__name__)
            raise OriginError(type(error).__name__) from None

    async def close(self) -> None:
        """Let the plug-in close, if it can, and end the threads that are idle."""
        if self._closes:
            await close_plugin(self._plugin)
        self._call.close()
