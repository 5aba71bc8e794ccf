"""The largest entries in this node's memory.

Found by a walk when somebody asks, in slices with the loop's other work between them: a million entries take a second
in all. A list that every write kept up to date would cost every write something, and miss what it has dropped once.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, NamedTuple

from cachenode_api.records import HEADER, HEADER_BYTES

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["BigKey", "biggest_keys"]

_SLICE = 1_000
"""Slots looked at in a turn: less than a millisecond."""


class BigKey(NamedTuple):
    """An entry and the bytes of its value; `ttl_s` is its remaining life."""

    size: int
    namespace: str
    key: bytes
    ttl_s: float


async def biggest_keys(node: Node, limit: int, name: str = "") -> list[BigKey]:
    """Return the largest values in memory, the largest first.

    Args:
        node: Whose memory.
        limit: How many at most.
        name: Of the only namespace that is looked at; empty for all.
    """
    found: list[BigKey] = []
    for namespace in node.namespaces:
        if name in ("", namespace.policy.name):
            found = await _walk(node, namespace, limit, found)
    return found


async def _walk(node: Node, namespace: Namespace, limit: int, found: list[BigKey]) -> list[BigKey]:
    cursor, store, name = 0, namespace.store, namespace.policy.name
    while True:
        now = node.clock.now()
        keys, cursor = store.scan(cursor, _SLICE)
        records = [(key, record) for key in keys if (record := store.peek(key, now)) is not None]
        here = [
            BigKey(len(record) - HEADER_BYTES, name, key, max(0.0, HEADER.unpack_from(record)[3] - now))
            for key, record in records
        ]
        found = heapq.nlargest(limit, [*found, *here])
        if not cursor:
            return found
        await asyncio.sleep(0)
