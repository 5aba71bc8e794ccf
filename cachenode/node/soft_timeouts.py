"""Soft timeouts: who asks for a value past its TTL waits a little for the new one before being given the old one.

Without one a value that is past its TTL, and still served (`stale_s`, or expired by an invalidation), is given at once
to all who ask while it is loaded anew. With one they wait for that load for so long, and are given the old value,
marked, if it takes longer or fails. The load goes on. Where nobody loads (the last load failed a moment ago, or the key
is being written) there is nothing to wait for.

Interleavings, each forced by a test in ``tests/node/test_soft_timeouts.py``:

1. The key is removed while its reader waits, and the time is over: the old value is not given any more; the reader
   waits like one who has found nothing (``test_value_that_is_removed_meanwhile``).
2. The key is written while its reader waits: the reader is given what was written once the time is over
   (``test_value_that_is_written_meanwhile``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode_api.records import HEADER, HEADER_BYTES, STALE

if TYPE_CHECKING:
    from cachenode.node.loads import Waiter
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["await_loads", "to_await"]

_PART = 0.5
"""Of the time that the caller gives: the old value must reach it before that is over."""


def to_await(batch: Batch, namespace: Namespace, records: Sequence[bytes], tokens: Sequence[int]) -> Sequence[int]:
    """Return for which records past their TTL, which are marked, a load is waited for; the others are served stale."""
    stale = [index for index, record in enumerate(records) if record and HEADER.unpack_from(record)[1] & STALE]
    if not stale:
        return ()
    awaited: list[int] = []
    if _soft_timeout_s(batch, namespace):
        mine = {index for index, token in enumerate(tokens) if token}
        awaited = [index for index in stale if index not in mine and namespace.flights.find(batch.keys[index])]
    namespace.observed.stale_reads += len(stale) - len(awaited)
    return awaited


def await_loads(
    node: Node, batch: Batch, namespace: Namespace, indices: Sequence[int], reply: Reply, holder: Hashable
) -> tuple[list[int], Rest]:
    """Return the part of a batch that waits for loads: the positions of its keys, and what answers them."""
    left = list(indices)
    waiters: dict[int, Waiter] = {}
    for index in indices:
        flight = namespace.flights.find(batch.keys[index])
        assert flight is not None, "told in the same turn"
        waiters[index] = asyncio.get_running_loop().create_future()
        flight.waiting.append(waiters[index])
    namespace.load_waits += len(waiters)

    async def answer(index: int, waiter: Waiter) -> None:
        record = await _awaited(node, batch, namespace, index, waiter)
        if record is None:
            await node.loads.lease(batch, namespace, [index], reply, holder)
        else:
            reply(BatchResult(indices=[index], records=[record], now_s=node.clock.now()))
        left.remove(index)

    async def rest() -> None:
        await asyncio.gather(*(answer(index, waiter) for index, waiter in waiters.items()))

    return left, rest()


async def _awaited(node: Node, batch: Batch, namespace: Namespace, index: int, waiter: Waiter) -> bytes | None:
    """Return what a load brings in time, else what is in memory, marked as it may be; None if that is nothing."""
    await asyncio.wait({waiter}, timeout=_soft_timeout_s(batch, namespace))
    outcome = waiter.result() if waiter.done() else None
    if isinstance(outcome, bytes):
        return outcome
    waiter.cancel()
    key, now = batch.keys[index], node.clock.now()
    record = node.present(namespace, key, now)
    if record is None:
        return None
    slot, flags, version, deadline = HEADER.unpack_from(record)
    soft_end = namespace.renewals.ends(key, version)[1] if namespace.renewals is not None else math.inf
    if flags & STALE or soft_end <= now:
        namespace.observed.stale_reads += 1
        namespace.observed.soft_timeouts += 1
        return HEADER.pack(slot, flags | STALE, version, deadline) + record[HEADER_BYTES:]
    return record


def _soft_timeout_s(batch: Batch, namespace: Namespace) -> float:
    soft_s = batch.soft_timeout_s
    if batch.operation is not Operation.LEASE:
        soft_s = namespace.origin.soft_timeout_s if namespace.origin is not None else 0.0
    return min(soft_s, batch.timeout_s * _PART) if batch.timeout_s else soft_s
