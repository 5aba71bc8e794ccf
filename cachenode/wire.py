"""Between the wire's messages and the node's values; the only such place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cachenode.core.entries import Batch, BatchResult, Failure, Loaded, Operation
from cachenode.core.regions import RegionEntry
from cachenode_api.dependencies import canonical_parents, pack_references, parent_of, split_references
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.reasons import Reason, detail_at
from cachenode_api.records import NO_TTL_MS
from cachenode_api.selectors import Selector
from cachenode_api.v1 import common_pb2 as pb
from cachenode_api.v1 import region_pb2
from cachenode_api.view import Member, View

__all__ = [
    "MAX_DETAIL",
    "BadBatch",
    "batch_from_wire",
    "batch_to_wire",
    "invalidation_to_wire",
    "loaded_from_wire",
    "loaded_to_wire",
    "member_from_wire",
    "member_to_wire",
    "merge_reply",
    "region_entry_from_wire",
    "region_entry_to_wire",
    "replies_to_wire",
    "view_from_wire",
    "view_to_wire",
]

_OPERATIONS = {operation.value: operation for operation in Operation}
_BLOOMS = frozenset({Operation.BLOOM_BEGIN, Operation.BLOOM_TAKE, Operation.BLOOM_SAVE})
_BRING_VALUES = frozenset({Operation.SET, Operation.FULFILL, Operation.HAND_OVER}) | _BLOOMS
_END_FLIGHTS = frozenset({Operation.FULFILL, Operation.ABANDON})
_WITH_TOKENS = (_END_FLIGHTS | _BLOOMS) | {
    Operation.APPLY,
    Operation.DISTRUST,
    Operation.REPLAY,
    Operation.HAND_OVER,
    Operation.LINK,
    Operation.BEQUEATH,
}
_HANDOVERS = frozenset({Operation.OFFER, Operation.HAND_OVER})
_OF_A_VIEW = frozenset({Operation.LINK, Operation.BEQUEATH})
_WHOLE = frozenset({Operation.HAND_OVER, Operation.LINK})
"""Between nodes, with all of their columns."""
MAX_DETAIL = 200


class BadBatch(ValueError):
    """A batch whose columns do not fit together. Its text names the column and the limit."""


def batch_from_wire(message: pb.Batch, *, max_keys: int) -> Batch:
    """Return the batch of a message.

    Raises:
        BadBatch: The operation is unknown, there are no keys or too many, or a column has a wrong length.
    """
    operation = _OPERATIONS.get(message.operation)
    if operation is None:
        raise BadBatch("operation: unknown to this node")
    keys = list(message.keys)
    count = len(keys)
    if not 0 < count <= max_keys:
        raise BadBatch(f"keys: {count:,} in one batch, must be 1 to {max_keys:,}")
    if operation.reads:
        return _read_from_wire(message, operation, keys)
    values, flags, ttls_ms = list(message.values), list(message.flags), list(message.ttls_ms)
    tokens, details = list(message.tokens), list(message.details)
    if_versions, deltas = list(message.if_versions), list(message.deltas)
    for name, column, allowed in (
        ("values", values, (count if operation in _BRING_VALUES else 0,)),
        ("flags", flags, (count,) if operation in _WHOLE else (0, count)),
        ("ttls_ms", ttls_ms, (count,) if operation in _WHOLE else (0, 1, count)),
        ("tokens", tokens, (count if operation in _WITH_TOKENS else 0,)),
        ("details", details, (0, count if operation is Operation.ABANDON else 0)),
        ("if_versions", if_versions, (0, 1, count) if operation is Operation.SET else (0,)),
        ("deltas", deltas, (1, count) if operation is Operation.INCR else (0,)),
        ("latest_ms", message.latest_ms, (0, count) if operation is Operation.HAND_OVER else (0,)),
        ("depends_on", message.depends_on, _parents_allowed(operation, count)),
    ):
        if len(column) not in allowed:
            raise BadBatch(f"{name}: {len(column):,} for {count:,} keys")
    if any(len(detail) > MAX_DETAIL for detail in details):
        raise BadBatch(f"details: a text of more than {MAX_DETAIL:,} characters")
    batch = Batch(
        operation=operation,
        namespace=message.namespace or DEFAULT_NAMESPACE,
        keys=keys,
        values=values,
        flags=flags,
        ttls_ms=ttls_ms,
        timeout_s=message.timeout_ms / 1_000,
        tokens=tokens,
        details=details,
        if_versions=if_versions,
        deltas=deltas,
        acknowledged=message.acknowledgement != pb.ACKNOWLEDGEMENT_OWNER,
        expire=message.mode == pb.INVALIDATION_MODE_EXPIRE,
        depends_on=list(message.depends_on),
    )
    if operation in _OF_A_VIEW:
        batch.epoch = message.epoch
    if operation in _HANDOVERS:
        batch.epoch, batch.position, batch.since_s = message.epoch, message.position, message.since_s
        batch.latest_ms = list(message.latest_ms)
    return batch


def _read_from_wire(message: pb.Batch, operation: Operation, keys: list[bytes]) -> Batch:
    batch = Batch(operation, message.namespace or DEFAULT_NAMESPACE, keys, timeout_s=message.timeout_ms / 1_000)
    if operation is Operation.GET:
        if message.slide:
            batch.slide, batch.slide_ms = True, message.slide_ms
        return batch
    batch.lease_s, batch.stand_in = message.lease_ms / 1_000, message.stand_in
    batch.soft_timeout_s = message.soft_timeout_ms / 1_000
    batch.depends_on = list(message.depends_on)
    if len(batch.depends_on) not in {0, 1, len(keys)}:
        raise BadBatch(f"depends_on: {len(batch.depends_on):,} for {len(keys):,} keys")
    return batch


def _parents_allowed(operation: Operation, count: int) -> tuple[int, ...]:
    if operation is Operation.LINK:
        return (count,)
    return (0, 1, count) if operation in {Operation.SET, Operation.FULFILL} else (0,)


def batch_to_wire(batch: Batch, batch_id: int) -> pb.Batch:
    """Return the message of a batch."""
    return pb.Batch(
        id=batch_id,
        operation=batch.operation.value,  # type: ignore[arg-type]
        namespace=batch.namespace,
        keys=batch.keys,
        values=batch.values,
        flags=batch.flags,
        ttls_ms=batch.ttls_ms,
        timeout_ms=int(batch.timeout_s * 1_000),
        tokens=batch.tokens,
        details=batch.details,
        lease_ms=int(batch.lease_s * 1_000),
        soft_timeout_ms=int(batch.soft_timeout_s * 1_000),
        if_versions=batch.if_versions,
        deltas=batch.deltas,
        acknowledgement=pb.ACKNOWLEDGEMENT_UNSPECIFIED if batch.acknowledged else pb.ACKNOWLEDGEMENT_OWNER,
        stand_in=batch.stand_in,
        mode=pb.INVALIDATION_MODE_EXPIRE if batch.expire else pb.INVALIDATION_MODE_UNSPECIFIED,
        epoch=batch.epoch,
        position=batch.position,
        since_s=batch.since_s,
        slide=batch.slide,
        slide_ms=batch.slide_ms,
        depends_on=batch.depends_on,
        region=batch.region,
        latest_ms=batch.latest_ms,
    )


def replies_to_wire(batch_id: int, result: BatchResult, *, max_bytes: int) -> Iterator[pb.Reply]:
    """Return the messages of a result: one, or several when its records would not fit in one frame."""
    records = result.records
    if not records or sum(map(len, records)) <= max_bytes:
        yield _reply(batch_id, result)
        return
    first, size = 0, 0
    for at, record in enumerate(records):
        if at > first and size + len(record) > max_bytes:
            yield _reply(batch_id, _slice(result, first, at))
            first, size = at, 0
        size += len(record)
    yield _reply(batch_id, _slice(result, first, len(records)))


def _slice(result: BatchResult, first: int, last: int) -> BatchResult:
    indices = range(len(result.records)) if result.indices is None else result.indices
    return BatchResult(
        indices=indices[first:last],
        records=result.records[first:last],
        failures={at - first: failure for at, failure in result.failures.items() if first <= at < last},
        layers=result.layers[first:last] if result.layers else None,
        now_s=result.now_s,
        tokens=result.tokens[first:last],
        near=result.near,
        hot=result.hot,
    )


def _reply(batch_id: int, result: BatchResult) -> pb.Reply:
    reply = pb.Reply(
        id=batch_id,
        records=result.records,
        versions=result.versions,
        now_s=result.now_s,
        near=result.near,
        hot=result.hot,
    )
    if result.indices is not None:
        reply.indices.extend(result.indices)
    if result.layers is not None:
        reply.layers.extend(result.layers)
    if result.tokens:
        reply.tokens.extend(result.tokens)
    if result.failures:
        empty = Failure(Reason.OK)
        count = len(result.records) or len(result.versions)
        failures = [result.failures.get(at, empty) for at in range(count)]
        reply.reasons.extend([failure.reason.value for failure in failures])
        reply.details.extend([failure.detail for failure in failures])
        reply.retry_after_ms = max(failure.retry_after_ms for failure in failures)
    return reply


def merge_reply(into: BatchResult, reply: pb.Reply, count: int) -> int:
    """Put a reply's part into the result of a whole batch of `count` keys. Return how many keys it answered.

    Raises:
        ValueError: The reply names a key that the batch does not have.
    """
    indices: Sequence[int] = reply.indices or range(count)
    into.now_s = reply.now_s
    into.hot = reply.hot
    _spread(into.records, indices, reply.records)
    _spread(into.versions, indices, reply.versions)
    _spread(into.tokens, indices, reply.tokens)
    if into.layers is not None:
        _spread(into.layers, indices, reply.layers or [1] * len(indices))
    if reply.reasons:
        for at, index in enumerate(indices):
            if reply.reasons[at]:
                reason = _reason(reply.reasons[at])
                again_ms = reply.retry_after_ms if reason is Reason.OVERLOADED else 0
                into.failures[index] = Failure(reason, detail_at(reply.details, at), again_ms)
    return len(indices)


def _spread(column: Sequence[Any], indices: Sequence[int], values: Sequence[Any]) -> None:
    if not values:
        return
    if len(values) != len(indices) or not column:
        raise ValueError("reply: columns of different lengths, or of another operation")
    for index, value in zip(indices, values, strict=True):
        column[index] = value  # type: ignore[index]


def _reason(number: int) -> Reason:
    try:
        return Reason(number)
    except ValueError:
        return Reason.INTERNAL


def invalidation_to_wire(namespace: str, keys: Sequence[bytes], selectors: Sequence[Selector] = ()) -> pb.Invalidation:
    """Return the message of an invalidation."""
    return pb.Invalidation(
        namespace=namespace,
        keys=keys,
        selectors=[selector.text for selector in selectors],
        kinds=[selector.kind.value for selector in selectors],
    )


def member_to_wire(member: Member) -> pb.Member:
    """Return the message of a member."""
    return pb.Member(
        id=member.id,
        incarnation=member.incarnation,
        address=member.address,
        http_address=member.http_address,
        weight=member.weight,
    )


def member_from_wire(message: pb.Member) -> Member:
    """Return the member of a message."""
    return Member(message.id, message.incarnation, message.address, message.http_address, message.weight or 1)


def view_to_wire(view: View) -> pb.View:
    """Return the message of a view."""
    return pb.View(
        epoch=view.epoch,
        ring_seed=view.ring_seed,
        ring_hash=view.ring_hash,
        vnodes=view.vnodes,
        members=[member_to_wire(member) for member in view.members],
    )


def view_from_wire(message: pb.View) -> View:
    """Return the view of a message.

    Raises:
        InvalidView: It breaks the contract.
    """
    return View(
        epoch=message.epoch,
        ring_seed=message.ring_seed,
        ring_hash=message.ring_hash,
        vnodes=message.vnodes,
        members=tuple(member_from_wire(member) for member in message.members),
    )


def region_entry_to_wire(entry: RegionEntry) -> region_pb2.RegionEntry:
    """Return the message of what has become untrue, which is also what an outbox keeps."""
    return region_pb2.RegionEntry(
        namespace=entry.namespace,
        texts=entry.texts,
        kinds=entry.kinds,
        mode=pb.INVALIDATION_MODE_EXPIRE if entry.expire else pb.INVALIDATION_MODE_UNSPECIFIED,
        written=entry.written,
    )


def region_entry_from_wire(message: region_pb2.RegionEntry) -> RegionEntry:
    """Return what a message says to be untrue.

    Raises:
        BadBatch: It says nothing, or not of each text what it is.
    """
    if not message.texts or len(message.kinds) not in {0, len(message.texts)}:
        raise BadBatch(f"kinds: {len(message.kinds):,} for {len(message.texts):,} texts")
    expire = message.mode == pb.INVALIDATION_MODE_EXPIRE
    return RegionEntry(message.namespace, tuple(message.texts), tuple(message.kinds), expire, message.written)


def loaded_to_wire(loaded: Loaded, namespace: str) -> region_pb2.RegionValue:
    """Return the message for what an origin has for a key of a namespace."""
    message = region_pb2.RegionValue(value=loaded.value, flags=loaded.flags, not_kept=not loaded.keep)
    if loaded.ttl_s is not None:
        message.ttl_ms = NO_TTL_MS if loaded.ttl_s == math.inf else max(1, round(loaded.ttl_s * 1_000))
    if loaded.depends_on:
        message.depends_on = pack_references(canonical_parents(loaded.depends_on, namespace))
    return message


def loaded_from_wire(message: region_pb2.RegionValue) -> Loaded:
    """Return what another region's origin has for a key.

    Raises:
        InvalidDependencies: What it depends on is not well formed.
    """
    ttl_s = None
    if message.HasField("ttl_ms"):
        ttl_s = math.inf if message.ttl_ms == NO_TTL_MS else message.ttl_ms / 1_000
    parents = tuple(map(parent_of, split_references(message.depends_on)))
    return Loaded(message.value, message.flags, ttl_s, not message.not_kept, parents)
