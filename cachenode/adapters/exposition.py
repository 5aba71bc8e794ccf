"""Metrics as text, written in slices: calls are answered between them.

Fifty namespaces are some 2,500 samples, which take about ten milliseconds to write; written at once they would hold up
every call meanwhile. The samples are of one moment all the same, since a collector takes the counters when it begins.
Not in a thread: the interpreter would let the loop wait for five milliseconds each time.

One text is written at a time, and whoever asks meanwhile shares the next one: hundreds who ask at once cost two texts,
and none is given counters of before it asked (``test_those_who_ask_at_once_share``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

__all__ = ["Exposition"]

_SLICE_S = 0.002
_END = b"# EOF\n"
"""Ends a text in OpenMetrics, once."""


class _One:
    """A registry of one family, as encoders want it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


async def _written(registry: CollectorRegistry, encode: Callable[[_One], bytes]) -> bytes:
    now = asyncio.get_running_loop().time
    parts, until = [], now() + _SLICE_S
    end = b""
    for family in registry.collect():
        part = encode(_One(family))
        if part.endswith(_END):
            part, end = part.removesuffix(_END), _END
        parts.append(part)
        if now() >= until:
            await asyncio.sleep(0)
            until = now() + _SLICE_S
    return b"".join([*parts, end])


class Exposition:
    """The metrics of a registry for any number of readers.

    Args:
        registry: What to show.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._turn = asyncio.Lock()
        self._next: dict[str, asyncio.Task[bytes]] = {}

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, as they are now or later, in the format that suits who asks, and its content type.

        Args:
            accept: The request's Accept header.
        """
        encode: Callable[[_One], bytes]
        encode, content_type = choose_encoder(accept)  # they need no more than collect
        shared = self._next.get(content_type)
        if shared is None:
            shared = asyncio.get_running_loop().create_task(self._write(encode, content_type))
            self._next[content_type] = shared
        return await asyncio.shield(shared), content_type

    async def _write(self, encode: Callable[[_One], bytes], content_type: str) -> bytes:
        async with self._turn:
            del self._next[content_type]  # who asks from now on wants what is counted from now on
            return await _written(self._registry, encode)
