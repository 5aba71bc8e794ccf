"""Brings this node's own keys from L2 into memory, under fill tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import L2Entry, L2Write, Layer
from cachenode.errors import L2Unavailable
from cachenode_api.records import HEADER

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["fill", "new_record", "store_entry"]


def new_record(entry: L2Entry | None, now: float) -> bytes:
    """Return the record of an entry that is not in memory, empty for none."""
    if entry is None:
        return b""
    return HEADER.pack(0, entry.flags, entry.version, now + entry.ttl_s) + entry.value


def store_entry(namespace: Namespace, key: bytes, entry: L2Entry | L2Write, now: float) -> bool:
    """Put an entry in memory. Return False if a newer one is there."""
    return namespace.store.put(
        key, entry.value, flags=entry.flags, version=entry.version, deadline=now + entry.ttl_s, now=now
    )


async def fill(node: Node, namespace: Namespace, keys: Sequence[bytes]) -> tuple[list[bytes], list[Layer]]:
    """Return the record of each key, from memory if it is there by now, else from L2; keep what may be kept.

    Absent keys have an empty record. L2 that is away counts as empty. What was written during the read is answered,
    not what was read.
    """
    tier = node.l2_for(namespace)
    tokens = namespace.fills.begin(keys)
    entries: list[L2Entry | None] = [None] * len(keys)
    try:
        if tier is not None:
            entries = await tier.read(namespace.policy.name, keys)
    except L2Unavailable:
        pass
    finally:
        storable = [namespace.fills.settle(key, token) for key, token in zip(keys, tokens, strict=True)]
    now = node.clock.now()
    records, layers = [], []
    for key, entry, may_store in zip(keys, entries, storable, strict=True):
        current = namespace.store.get(key, now)
        records.append(new_record(entry, now) if current is None else current)
        layers.append(Layer.L2 if current is None else Layer.L1)
        if current is None and entry is not None and may_store and node.placement.owns(key):
            store_entry(namespace, key, entry, now)
    node.namespaces.memory.make_room()
    return records, layers
