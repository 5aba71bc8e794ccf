"""Changes that depend on what is there: SET with a version to match, and INCR. Decided by the owner, in order.

A change looks at the present value, in memory, else in L2, decides, and takes its version in the same turn of the loop:
from then on it is ordered among all writes of the key.

Interleavings, each forced by a test in ``tests/node/test_changes.py``:

1. A plain set is under way: its version is the present one for a condition, and a counter waits for its value
   (``test_condition_sees_a_set_under_way``, ``test_counter_waits_for_a_set_under_way``).
2. A delete is under way: its tombstone says that there is nothing, although readers may still find the value
   (``test_condition_sees_a_delete_under_way``).
3. A plain set comes while L2 takes the change: it has the higher version and stays
   (``test_set_during_a_change_stays``).
4. Many changes read the value from L2 at the same time: a fill token lets one of them build on what was read, and the
   others look again (``test_changes_that_read_together_build_on_each_other``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, L2Write, Operation
from cachenode.core.failures import CONDITION_FAILED, NOT_A_COUNTER, NOT_OWNER, UNCERTAIN, failed
from cachenode.errors import L2Unavailable
from cachenode.node.filler import new_record
from cachenode.node.lives import ttls
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, INT_FLAGS, STALE
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply

__all__ = ["Changes"]

_LOST_RIGHT = frozenset({Reason.NOT_OWNER, Reason.NOT_READY})
_COUNTER = re.compile(rb"-?[0-9]{1,19}\Z")
_LARGEST = (1 << 63) - 1
_SOME_VERSION = 1
"""Of a value that the origin has and the cache does not: no version that a caller may know."""


class Changes:
    """The part of a node that changes values by what they are."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def apply(self, batch: Batch, namespace: Namespace, left: list[int], reply: Reply) -> None:
        """Apply a batch's changes to keys of this node; answer each when it is done, and remove it from `left`."""

        async def answer(index: int) -> None:
            outcome = await self._outcome(batch, namespace, index)
            left.remove(index)
            self._answer(outcome, batch, index, reply)

        await asyncio.gather(*(answer(index) for index in list(left)))

    async def change(self, batch: Batch, namespace: Namespace, index: int) -> BatchResult:
        """Apply one change to a key of this node, and return its result."""
        outcome = await self._outcome(batch, namespace, index)
        return failed(batch, {index: outcome}) if isinstance(outcome, Failure) else outcome

    async def _outcome(self, batch: Batch, namespace: Namespace, index: int) -> BatchResult | Failure:
        one = self._increase if batch.operation is Operation.INCR else self._set_if
        return await one(batch, namespace, index)

    def _answer(self, outcome: BatchResult | Failure, batch: Batch, index: int, reply: Reply) -> None:
        if isinstance(outcome, Failure):
            self._node.failures[outcome.reason] += 1
            reply(failed(batch, {index: outcome}))
            return
        outcome.indices = [index]
        outcome.now_s = self._node.clock.now()
        reply(outcome)

    async def _set_if(self, batch: Batch, namespace: Namespace, index: int) -> BatchResult | Failure:
        key, writes = batch.keys[index], self._node.writes
        record: bytes | Failure = await self._present(namespace, key)
        if not record and _at(batch.if_versions, index) in (ANY_VERSION, ABSENT_VERSION):
            record = await self._at_origin(namespace, key)
        if isinstance(record, Failure):
            return record
        if not self._node.placement.owns(key):
            return NOT_OWNER
        present = max(HEADER.unpack_from(record)[2] if record else 0, namespace.writing.get(key, 0))
        if not _matches(_at(batch.if_versions, index), present):
            return CONDITION_FAILED
        (ttl_s,) = ttls(self._node, batch, namespace, [index])
        flags = batch.flags[index] if batch.flags else 0
        version, position = self._node.versions.next(), namespace.barriers.position
        write = L2Write(key, batch.values[index], flags, version, ttl_s, position)
        return _result(await writes.put(batch, namespace, 0, write))

    async def _increase(self, batch: Batch, namespace: Namespace, index: int) -> BatchResult | Failure:
        key, node = batch.keys[index], self._node
        record = await self._present(namespace, key)
        while key in namespace.writing:
            await asyncio.wait([namespace.settled.setdefault(key, asyncio.get_running_loop().create_future())])
            record = await self._present(namespace, key)
        found = record or await self._at_origin(namespace, key)
        if isinstance(found, Failure):
            return found
        record = found
        if not node.placement.owns(key):
            return NOT_OWNER
        number = _number(record)
        if number is None or abs(number := number + _at(batch.deltas, index)) > _LARGEST:
            return NOT_A_COUNTER
        now = node.clock.now()
        if record and not (batch.ttls_ms and _at(batch.ttls_ms, index)):
            ttl_s = HEADER.unpack_from(record)[3] - now
        else:
            (ttl_s,) = ttls(node, batch, namespace, [index])
        value = b"%d" % number
        write = L2Write(key, value, INT_FLAGS, node.versions.next(), ttl_s, namespace.barriers.position)
        stored = await node.writes.put(batch, namespace, 0, write)
        if stored.failures:
            return _failure(stored)
        return BatchResult(records=[HEADER.pack(0, INT_FLAGS, write.version, now + ttl_s) + value])

    async def _present(self, namespace: Namespace, key: bytes) -> bytes:
        """Return the key's record; empty if there is none, if it is being removed, or if L2 is away.

        What it was before a write that is under way, if one is: see `Namespace.writing`.
        """
        while True:
            now, tier = self._node.clock.now(), self._node.l2_for(namespace)
            record: bytes | None = self._node.present(namespace, key, now)
            if record is None and key not in namespace.writing and tier is not None and tier.available:
                (token,), entry = namespace.fills.begin([key]), None
                try:
                    with contextlib.suppress(L2Unavailable):
                        (entry,) = await tier.read(namespace.policy.name, [key])
                finally:
                    unchanged = namespace.fills.settle(key, token)
                if not unchanged:  # since the read began: what it brought may be older
                    continue
                record = new_record(entry, now)
            if not record or namespace.tombstones.covers(key, HEADER.unpack_from(record)[2], now):
                return b""
            return b"" if HEADER.unpack_from(record)[1] & STALE else record  # expired: nothing is built on it

    async def _at_origin(self, namespace: Namespace, key: bytes) -> bytes | Failure:
        """Return the record of a key that the cache does not have, where writes go through it to the origin.

        There the cache's having nothing does not mean that there is nothing.
        """
        if namespace.sink is None or namespace.origin is None:
            return b""
        (entry,), failures = await self._node.read_through.unkept(namespace, [key])
        if failures:
            return failures[0]
        return new_record(entry and entry._replace(version=_SOME_VERSION), self._node.clock.now())


def _matches(expected: int, present: int) -> bool:
    if expected == ANY_VERSION:
        return present != 0
    if expected == ABSENT_VERSION:
        return present == 0
    return expected in (0, present)


def _at(column: Sequence[int], index: int) -> int:
    return column[0 if len(column) == 1 else index]


def _number(record: bytes) -> int | None:
    """Return a record's whole number, 0 for none; None if it is something else."""
    if not record:
        return 0
    value = record[HEADER_BYTES:]
    if HEADER.unpack_from(record)[1] != INT_FLAGS or not _COUNTER.match(value):
        return None
    return int(value)


def _result(stored: BatchResult) -> BatchResult | Failure:
    return _failure(stored) if stored.failures else stored


def _failure(stored: BatchResult) -> Failure:
    """Return why a change failed; one that this node lost the right to acknowledge may have been done all the same.

    Told otherwise, the caller would try again, and meet its own change (the simulation found this).
    """
    failure = stored.failures[0]
    return UNCERTAIN if failure.reason in _LOST_RIGHT else failure
