"""Sinks that are plug-ins (`cachenode.adapters.plugins`), of the group of entry points ``cachenode.sinks``.

A sink takes a `Write`: the key, as text, or bytes if it is none, the value as a client wrote it, `ABSENT` where the key
is to be removed, and the write's version. One that takes several at a time gets a list.

What a sink raises leaves open whether it has written, for a connection may be lost after the commit. Only an
`OriginError` that does not say `maybe_done` is sure that nothing was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cachenode.adapters.plugins import PluginCall, close_plugin, name_of_key
from cachenode.core.entries import SinkWrite
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Write
from cachenode_client import CacheError
from cachenode_client._values import Codec

__all__ = ["PluginSink"]


class PluginSink:
    """A `Sink` made of a plug-in.

    Args:
        plugin: Takes a write, or a list of writes if `most_writes` is above 1, or has `write` or `write_many` that do;
            it may have `close`. One that takes a list may return a mapping from the keys that it has not written to
            why: an exception for each.
        most_writes: How many writes it takes at a time.
        threads: How many calls of one that is no async function run at a time.
        closes: Whether the plug-in is closed with the sink.

    Raises:
        ConfigError: It cannot be called.
    """

    def __init__(self, plugin: Any, *, most_writes: int = 1, threads: int = 16, closes: bool = True) -> None:  # noqa: ANN401
        self.most_writes = most_writes
        self._plugin = plugin
        self._closes = closes
        function = getattr(plugin, "write_many" if most_writes > 1 else "write", plugin)
        if not callable(function):
            raise ConfigError([f"is no function, and has no {'write_many' if most_writes > 1 else 'write'}"])
        self._call = PluginCall(function, threads=threads, event="write_failed", unsure=True)
        self._codec = Codec()

    async def write(self, writes: Sequence[SinkWrite]) -> Sequence[OriginError | None]:
        """Write, and return for each None once the origin has it, or why it has not.

        Raises:
            OriginError: The same for all of them.
        """
        given = [self._given(write) for write in writes]
        outcomes = [each if isinstance(each, OriginError) else None for each in given]
        good = [each for each in given if isinstance(each, Write)]
        if not good:
            return outcomes
        said = await self._call(good[0] if self.most_writes == 1 else good)
        if self.most_writes == 1 or said is None:
            return outcomes
        if not isinstance(said, Mapping):
            text = f"the sink must return nothing, or a mapping of keys to exceptions, not {type(said).__name__}"
            raise OriginError(text, again=False, maybe_done=True)
        return [
            _why(said.get(each.key)) if isinstance(each, Write) else outcome
            for each, outcome in zip(given, outcomes, strict=True)
        ]

    def _given(self, write: SinkWrite) -> Write | OriginError:
        """Return a write as plug-ins see it."""
        key = name_of_key(write.key)
        if write.value is None:
            return Write(key, ABSENT, write.version)
        try:
            return Write(key, self._codec.decode(write.value, write.flags), write.version)
        except CacheError as error:
            return OriginError(f"the value cannot be given to the sink: {error}", again=False)

    async def close(self) -> None:
        """Let the plug-in close, if it can, and end the threads that are idle."""
        if self._closes:
            await close_plugin(self._plugin)
        self._call.close()


def _why(error: object) -> OriginError | None:
    if error is None or isinstance(error, OriginError):
        return error
    return OriginError(type(error).__name__, maybe_done=True)
