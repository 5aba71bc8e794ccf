"""An origin that the test controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from cachenode.core.entries import Loaded, SinkWrite
from cachenode.core.origin_limits import OriginLimits
from cachenode.errors import OriginError
from cachenode.node.origins import Origin
from cachenode.ports import Clock

__all__ = ["ScriptedLoader", "ScriptedSink", "origin_of"]


class ScriptedLoader:
    """A `Loader` over a dictionary, whose calls can be held and can fail.

    Attributes:
        values: What there is.
        calls: The keys of each call.
        failures: Taken from the front, one a call; None lets the call through.
        gate: Closed, it holds calls, which look at `values` before they wait.
    """

    def __init__(self, *, most_keys: int = 100) -> None:
        self.most_keys = most_keys
        self.values: dict[bytes, Loaded | OriginError] = {}
        self.calls: list[list[bytes]] = []
        self.failures: list[OriginError | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Event()
        self.closed = False

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self.values[key] = Loaded(value, 0)

    async def load(self, keys: Sequence[bytes]) -> Sequence[Loaded | OriginError | None]:
        self.calls.append(list(keys))
        found = [self.values.get(key) for key in keys]
        failure = self.failures.pop(0) if self.failures else None
        if not self.gate.is_set():
            self.held.set()
            await self.gate.wait()
        if failure is not None:
            raise failure
        return found

    @property
    def enumerates(self) -> bool:
        return True

    async def enumerate(self) -> AsyncIterator[bytes]:
        for key in list(self.values):
            yield key

    async def close(self) -> None:
        self.closed = True


class ScriptedSink:
    """A `Sink` over a dictionary, whose calls can be held and can fail.

    Attributes:
        values: What it has, by key: value, flags, version.
        calls: The writes of each call.
        failures: Taken from the front, one a call; None lets the call through. One that says `maybe_done` fails after
            the writes have been done.
        refused: Why a key is never written.
        gate: Closed, it holds calls, before they write.
        late: Holds them after that.
    """

    def __init__(self, *, most_writes: int = 100) -> None:
        self.most_writes = most_writes
        self.values: dict[bytes, tuple[bytes, int, int]] = {}
        self.calls: list[list[SinkWrite]] = []
        self.failures: list[OriginError | None] = []
        self.refused: dict[bytes, OriginError] = {}
        self.gate, self.late = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.late.set()
        self.held = asyncio.Event()
        self.closed = False

    async def write(self, writes: Sequence[SinkWrite]) -> Sequence[OriginError | None]:
        self.calls.append(list(writes))
        failure = self.failures.pop(0) if self.failures else None
        await self._pass(self.gate)
        if failure is None or failure.maybe_done:
            for write in writes:
                if write.key in self.refused:
                    continue
                if write.value is None:
                    self.values.pop(write.key, None)
                else:
                    self.values[write.key] = write.value, write.flags, write.version
        await self._pass(self.late)
        if failure is not None:
            raise failure
        return [self.refused.get(write.key) for write in writes]

    async def _pass(self, gate: asyncio.Event) -> None:
        if not gate.is_set():
            self.held.set()
            await gate.wait()

    async def close(self) -> None:
        self.closed = True


def origin_of(
    loader: ScriptedLoader | None, clock: Clock, *, sink: ScriptedSink | None = None, **limits: float
) -> Origin:
    """Return an origin that reads a loader and writes a sink, and does not pause between attempts."""
    return Origin("o", loader, OriginLimits(first_pause_s=0.0, **limits), clock, sink)  # type: ignore[arg-type]
