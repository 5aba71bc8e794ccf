"""The largest entries in this node's memory.

Found by a walk when somebody asks. A list that every write kept up to date would cost every write something, and miss
what it has dropped once.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from cachenode.node.walking import walk
from cachenode_api.records import HEADER, HEADER_BYTES

if TYPE_CHECKING:
    from cachenode.node.service import Node

__all__ = ["BigKey", "biggest_keys"]


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
    async for namespace, records, now, _ in walk(node, name):
        here = [
            BigKey(
                len(record) - HEADER_BYTES,
                namespace.policy.name,
                key,
                max(0.0, HEADER.unpack_from(record)[3] - now),
            )
            for key, record in records
        ]
        found = heapq.nlargest(limit, [*found, *here])
    return found
