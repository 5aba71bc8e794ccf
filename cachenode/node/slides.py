"""Reads that renew an entry's life (sliding TTL), in memory and in L2.

A read is answered at once; the entry's end is moved beside that, without a new version: the value is the same, so
nobody's copy has become untrue, and who changes it by version does not meet a reader. L2 moves its end only if it still
holds that version. What has happened to the key meanwhile therefore wins, whatever comes first.

Only the owner moves ends, and only of what it has in memory. What reads past an owner, from copies or from L2, moves
nothing. A near copy never outlives its entry, for an end only becomes later; but reads that it answers are not seen by
the owner. So where all reads slide a copy is good for a tenth of a TTL, and then its reader asks again.

Interleavings, each forced by a test in ``tests/node/test_slides.py``:

1. A write or removal of the key is under way: it decides the life, and the read moves nothing
   (``test_read_beside_a_write_moves_nothing``, ``test_read_beside_a_removal_moves_nothing``).
2. The key is removed, or written, while L2 is told of the later end: L2 has another version by then
   (``test_end_that_comes_to_l2_late``).
3. A barrier has covered the entry, which waits for being removed: a read does not find it, so it moves nothing
   (``test_barred_entry_is_not_renewed``).
4. L2 cannot be told: it ends the entry earlier than memory does, and the next read that moves the end tells it again
   (``test_l2_that_is_away_is_told_next_time``).
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult
from cachenode.core.sliding import STEP
from cachenode_api.records import DEPENDENT, HEADER, HEADER_BYTES, NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply

__all__ = ["SlidingReads"]

Later = tuple[bytes, int, float]
"""A key, the version of its entry, and how long that is to live from now on."""


class SlidingReads:
    """The part of a node that moves ends."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()

    def renewing(self, batch: Batch, namespace: Namespace, reply: Reply) -> Reply:
        """Return a reply that moves the ends of what it answers."""

        def answer(result: BatchResult) -> None:
            if result.records:
                self._move(batch, namespace, result)
            reply(result)

        return answer

    def _move(self, batch: Batch, namespace: Namespace, result: BatchResult) -> None:
        now = self._node.clock.now()
        records, later = list(result.records), []
        indices = range(len(records)) if result.indices is None else result.indices
        for at, index in enumerate(indices):
            if not records[at]:
                continue
            key = batch.keys[index]
            ttl_s = self._life(batch, namespace, key, now)
            slot, flags, version, deadline = HEADER.unpack_from(records[at])
            end = self._end(namespace, key, version, ttl_s, now)
            if end is not None:
                later.append((key, version, end - now))
            shown = deadline if end is None else end
            if result.near and namespace.policy.sliding:
                shown = min(shown, now + STEP * ttl_s)
            if shown != deadline:
                records[at] = HEADER.pack(slot, flags, version, shown) + records[at][HEADER_BYTES:]
        result.records, result.hot = records, False  # copies elsewhere would take reads away
        if later:
            self._tell_l2(namespace, later)

    def _life(self, batch: Batch, namespace: Namespace, key: bytes, now: float) -> float:
        if batch.slide_ms:
            return math.inf if batch.slide_ms == NO_TTL_MS else batch.slide_ms / 1_000
        wanted = namespace.wanted(key, now)
        return namespace.policy.ttl_s if wanted is None or wanted.choice is None else wanted.choice.ttl_s

    def _end(self, namespace: Namespace, key: bytes, version: int, ttl_s: float, now: float) -> float | None:
        """Move the end of an entry in memory; return it, None if it stays where it is."""
        if key in namespace.writing or key in namespace.changing or not self._node.may_keep(key):
            return None
        record = namespace.store.peek(key, now)
        if record is None or namespace.tombstones.covers(key, version, now):
            return None
        _, flags, there, deadline = HEADER.unpack_from(record)
        if there != version or flags & DEPENDENT:  # the owners of its parents know when it ends
            return None
        end = namespace.slides.end(key, version, deadline, ttl_s, now, partial(_present, namespace, now))
        if end <= deadline:
            return None
        namespace.store.prolong(key, end)
        return end

    def _tell_l2(self, namespace: Namespace, later: list[Later]) -> None:
        tier = self._node.l2_for(namespace)
        if tier is None or not tier.available:
            return
        task = asyncio.get_running_loop().create_task(tier.prolong(namespace.policy.name, later))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _present(namespace: Namespace, now: float, key: bytes) -> bool:
    return namespace.store.peek(key, now) is not None
