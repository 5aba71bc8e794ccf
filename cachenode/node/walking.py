"""A walk through this node's memory, in slices with the loop's other work between them.

A million entries take about a second in all. Entries that are there during the whole walk are met exactly once; what
comes meanwhile may be missed, and a key that goes and comes again may be met twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["SLICE", "Slice", "walk"]

SLICE = 500
"""Slots looked at in a turn: a fraction of a millisecond, and some two with what callers make of the entries."""


class Slice(NamedTuple):
    """Some entries: keys with their records.

    Attributes:
        namespace: Whose entries.
        records: Keys and records that have not expired.
        now: When they were looked at.
        slots: Slots of the namespace that the walk has passed until now, vacant ones included.
    """

    namespace: Namespace
    records: list[tuple[bytes, bytes]]
    now: float
    slots: int


async def walk(node: Node, name: str = "", *, per_s: float = 0.0) -> AsyncIterator[Slice]:
    """Yield the entries of a namespace, or of all.

    Args:
        node: Whose memory.
        name: Of the only namespace that is looked at; empty for all.
        per_s: Slots passed a second, about; 0: as many as the loop's other work leaves time for.
    """
    for namespace in list(node.namespaces):
        if name not in ("", namespace.policy.name):
            continue
        cursor, slots, store = 0, 0, namespace.store
        while True:
            now = node.clock.now()
            keys, following = store.scan(cursor, SLICE)
            records = [(key, record) for key in keys if (record := store.peek(key, now)) is not None]
            slots = following or slots + SLICE
            yield Slice(namespace, records, now, slots)
            cursor = following
            await asyncio.sleep(SLICE / per_s if per_s else 0)
            if not cursor:
                break
