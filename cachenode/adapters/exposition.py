"""Metrics as text, written in slices: calls are answered between them.

Fifty namespaces are some 2,500 samples, which take about ten milliseconds to write; written at once they would hold up
every call meanwhile. The samples are of one moment all the same, since a collector takes the counters when it begins.
Not in a thread: the interpreter would let the loop wait for five milliseconds each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

__all__ = ["exposition"]

_SLICE_S = 0.002
_END = b"# EOF\n"
"""Ends a text in OpenMetrics, once."""


class _One:
    """A registry of one family, as encoders want it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


async def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that suits who asks, and its content type.

    Args:
        registry: What to show.
        accept: The request's Accept header.
    """
    encode: Callable[[_One], bytes]
    encode, content_type = choose_encoder(accept)  # they need no more than collect
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
    return b"".join([*parts, end]), content_type
