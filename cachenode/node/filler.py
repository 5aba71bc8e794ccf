"""Brings this node's own keys from L2 into memory, under fill tokens.

What L2 answers is worked off in portions, so that a batch of thousands of keys holds up nobody, and each is handed
over before the next is begun: its reader works on the first values while this node still stores the others.

What a write has brought to L2 while its answer is still on the way is kept although the write voids the token: it is
the newest there is, and whoever reads next would otherwise find the one before in memory
(``test_reads_do_not_go_back_while_a_write_is_under_way``; the simulation found this). Unless a removal or a barrier has
undone it meanwhile (``test_write_under_way_that_was_undone_is_not_kept``; the external checker found this).

A token is settled in the turn in which its key is stored, so a write between two portions voids it as one before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import L2Entry, L2Write, Layer
from cachenode.errors import L2Unavailable
from cachenode_api.records import HEADER, STALE

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["fill", "new_record", "store_entry"]

_PORTION = 128
"""Keys worked off at a time: one to two milliseconds."""


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


async def fill(
    node: Node,
    namespace: Namespace,
    keys: Sequence[bytes],
    done: Callable[[int, list[bytes], list[Layer], bool], None] = lambda _first, _records, _layers, _sure: None,
) -> None:
    """Find each key in memory if it is there by now, else in L2; keep what may be kept.

    Absent keys have an empty record. L2 that is away counts as empty. What was written during the read is answered,
    not what was read.

    Args:
        node: Its L2 is read.
        namespace: Of the keys.
        keys: All owned by this node.
        done: Called with the position of a portion's first key, its records, the layer each came from, and whether
            all may be copied: they are in memory, and nothing is changing them.
    """
    tier = node.l2_for(namespace)
    tokens = namespace.fills.begin(keys)
    entries: list[L2Entry | None] = [None] * len(keys)
    settled = 0
    try:
        if tier is not None:
            with contextlib.suppress(L2Unavailable):
                entries = await tier.read(namespace.policy.name, keys)
        while settled < len(keys):
            if settled:
                await asyncio.sleep(0)
            part = slice(settled, settled + _PORTION)
            settled = min(part.stop, len(keys))
            done(part.start, *_keep(node, namespace, keys[part], tokens[part], entries[part]))
    finally:
        for key, token in zip(keys[settled:], tokens[settled:], strict=True):
            namespace.fills.settle(key, token)


def _keep(
    node: Node, namespace: Namespace, keys: Sequence[bytes], tokens: Sequence[int], entries: Sequence[L2Entry | None]
) -> tuple[list[bytes], list[Layer], bool]:
    """Return a portion's records and layers, and whether they may be copied; store what may be stored."""
    now = node.clock.now()
    settle, owns = namespace.fills.settle, node.may_keep
    records, layers, sure = [], [], namespace.changing.keys().isdisjoint(keys)
    for key, token, found in zip(keys, tokens, entries, strict=True):
        entry = found
        if found is not None and namespace.writing and namespace.outdone(key, found.version):
            entry = None  # a reader has had a later one out of the write-behind queue
        may_store = settle(key, token)  # then nothing was stored here since the key was missed
        current = None if may_store else node.present(namespace, key, now)
        if current is not None:
            records.append(current)
            layers.append(Layer.L1)
            continue
        records.append(new_record(entry, now))
        layers.append(Layer.L2)
        if entry is not None:
            if entry.flags & STALE:  # a copy would keep its reader from asking for the renewal
                sure = False
            if (may_store or _newest(namespace, key, entry, now)) and owns(key):
                store_entry(namespace, key, entry, now)
            else:
                sure = False
    node.namespaces.memory.make_room(namespace.policy.name)
    return records, layers, sure


def _newest(namespace: Namespace, key: bytes, entry: L2Entry, now: float) -> bool:
    """Return True if a write that is under way brought the entry, and nothing has undone it."""
    if entry.version != namespace.writing.get(key) or namespace.tombstones.covers(key, entry.version, now):
        return False
    return not namespace.barred(key, entry.value, entry.flags, entry.position)
