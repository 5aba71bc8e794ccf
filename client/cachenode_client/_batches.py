"""Batches under way: which caller waits for which key of which batch, and how a reply reaches them.

Calls made in one turn of the loop with the same operation, namespace and timeout join one open batch (`EachBatch`); a
call with many keys is a batch of its own (`ManyBatch`). Both are answered by one or more replies, each key once. A
waiter is anything with a future's ``done``, ``set_result`` and ``set_exception``: asyncio futures here, a lock-based
one in the blocking client.

The timeout belongs to the batch, not to the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from cachenode_api.reasons import detail_at
from cachenode_api.v1 import common_pb2 as pb
from cachenode_client.errors import CacheError, NodeError, Overloaded, from_reason

__all__ = ["LEASE_BITS", "Due", "EachBatch", "Group", "ManyBatch", "ManyResult", "PendingBatch", "Waiter", "give_back"]

GET = pb.OPERATION_GET
SET = pb.OPERATION_SET
DELETE = pb.OPERATION_DELETE
TOUCH = pb.OPERATION_TOUCH
LEASE = pb.OPERATION_LEASE
FULFILL = pb.OPERATION_FULFILL
ABANDON = pb.OPERATION_ABANDON
INCR = pb.OPERATION_INCR
INVALIDATE = pb.OPERATION_INVALIDATE
BARRIER = pb.OPERATION_BARRIER
CHANGES = frozenset({SET, DELETE, TOUCH, FULFILL, INCR, INVALIDATE})
"""What makes an older copy of a key untrue."""
_INVALIDATE = frozenset({INVALIDATE, BARRIER})
_GIVE_RECORDS = frozenset({GET, LEASE, INCR})

LEASE_BITS = 32
"""Of a LEASE's number the upper bits are the milliseconds of its soft timeout."""
SLIDE = -1
"""The number of a GET that gives what it finds the life of the namespace anew."""

_LEASE_MASK = (1 << LEASE_BITS) - 1

KEY_OVERHEAD = 24
"""Most bytes that a key costs in a frame besides itself and its value: lengths, flags, TTL."""

Group = tuple[int, str, float, bool, int, bool, bytes, *tuple[str, ...]]
"""What calls must share to leave in one batch: operation, namespace, timeout in seconds, whether layers are wanted, and
a number: of a LEASE the milliseconds it is to last, and above `LEASE_BITS` those of its soft timeout, of a SET the
version to match, of an INCR what is added, of a GET the milliseconds of the life that it gives what it finds, 0 for
none and `SLIDE` for the namespace's, of an INVALIDATE and BARRIER 1 to expire; and whether the owner's part is enough:
copies elsewhere may be served for as long as their leases; and the block of what the values depend on, of a SET, LEASE
and FULFILL. Inside a span that is being recorded, and only there, one more: its traceparent (see `tracing`)."""


class Waiter(Protocol):
    """Who waits for the result of one key."""

    def done(self) -> bool:
        """Return True if nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Hand over the result."""

    def set_exception(self, exception: CacheError, /) -> None:
        """Hand over the failure."""


class Due(NamedTuple):
    """What a LEASE finds of a value that is due: the value, and the right to load it anew."""

    record: bytes
    token: int


class PendingBatch:
    """A batch with its columns and its state."""

    __slots__ = (
        "deadline",
        "details",
        "flags",
        "group",
        "id",
        "keys",
        "left",
        "sent",
        "size",
        "tokens",
        "ttls_ms",
        "values",
    )

    def __init__(self, group: Group) -> None:
        self.group = group
        self.id = 0
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.flags: list[int] = []
        self.ttls_ms: list[int] = []
        self.tokens: Sequence[int] = ()
        self.details: Sequence[str] = ()
        self.size = 0
        self.left = 0
        self.sent = False
        self.deadline = 0.0

    def measure(self) -> int:
        """Return about how many bytes the batch takes in a frame, rather more than less."""
        size = sum(map(len, self.keys)) + KEY_OVERHEAD * len(self.keys)
        return size + sum(map(len, self.values)) if self.values else size

    def to_wire(self) -> pb.Batch:
        """Return the message, and take note that the batch is sent."""
        self.sent = True
        self.left = len(self.keys)
        operation, namespace, timeout_s, _, number, owner_only, parents, *span = self.group
        return pb.Batch(
            id=self.id,
            operation=operation,  # type: ignore[arg-type]
            namespace=namespace,
            keys=self.keys,
            values=self.values,
            flags=self.flags,
            ttls_ms=self.ttls_ms,
            timeout_ms=int(timeout_s * 1_000),
            tokens=self.tokens,
            details=self.details,
            lease_ms=number & _LEASE_MASK if operation == LEASE else 0,
            soft_timeout_ms=number >> LEASE_BITS if operation == LEASE else 0,
            if_versions=[number] if operation == SET and number else (),
            deltas=[number] if operation == INCR else (),
            slide=operation == GET and number != 0,
            slide_ms=number if operation == GET and number > 0 else 0,
            mode=pb.INVALIDATION_MODE_EXPIRE
            if operation in _INVALIDATE and number
            else pb.INVALIDATION_MODE_UNSPECIFIED,
            acknowledgement=pb.ACKNOWLEDGEMENT_OWNER if owner_only else pb.ACKNOWLEDGEMENT_UNSPECIFIED,
            depends_on=[parents] if parents else (),
            traceparent=span[0] if span else "",
        )

    def take(self, reply: pb.Reply) -> bool:
        """Hand a reply to whom it concerns. Return True if the batch is complete.

        Raises:
            ValueError: The reply does not fit the batch (also IndexError).
        """
        raise NotImplementedError

    def fail(self, make_error: type[CacheError] | Any) -> None:
        """Hand a failure to all who still wait."""
        raise NotImplementedError


class EachBatch(PendingBatch):
    """Keys of many callers, a waiter each.

    A GET's result is the record, empty if absent; with layers wanted it is (record, layer, now_s). A LEASE's is the
    record too, or the token, an int, for who is to load, or both, `Due`. A write's result is its version.
    """

    __slots__ = ("orphans", "waiters")

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.waiters: list[Waiter] = []
        self.orphans: list[tuple[bytes, int]] = []
        """Keys that this client was to load, with their tokens, whose callers no longer wait."""

    def split(self) -> EachBatch:
        """Give up the later half of the keys, before the batch is sent; return it, with the same deadline."""
        later, half = EachBatch(self.group), len(self.keys) // 2
        later.deadline = self.deadline
        for name in ("keys", "waiters", "values", "flags", "ttls_ms"):
            column = getattr(self, name)
            setattr(later, name, column[half:])
            del column[half:]
        return later

    def take(self, reply: pb.Reply) -> bool:
        """Hand each answered key's result to its waiter."""
        results: Sequence[Any] = reply.records if self.group[0] in _GIVE_RECORDS else reply.versions
        if reply.tokens:
            results = [_leased(token, record) for token, record in zip(reply.tokens, results, strict=True)]
        if self.group[3]:
            layers, now_s = reply.layers, reply.now_s
            results = [(record, layers[at] if layers else 1, now_s) for at, record in enumerate(results)]
        waiters: Sequence[Waiter] = self.waiters
        if reply.indices:
            waiters = [waiters[index] for index in reply.indices]
        if reply.tokens:
            keys = [self.keys[index] for index in reply.indices] if reply.indices else self.keys
            told = zip(keys, waiters, reply.tokens, strict=True)
            self.orphans += [(key, token) for key, waiter, token in told if token and waiter.done()]
        if reply.reasons:
            _deliver_some(waiters, results, reply)
        else:
            if len(results) != len(waiters):
                raise ValueError
            for waiter, result in zip(waiters, results, strict=True):
                if not waiter.done():
                    waiter.set_result(result)
        self.left -= len(waiters)
        return self.left <= 0

    def fail(self, make_error: Any) -> None:
        """Hand a failure to all who still wait; each gets an exception of its own."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(make_error())


def _leased(token: int, record: bytes) -> bytes | int | Due:
    return (Due(record, token) if record else token) if token else record


def _deliver_some(waiters: Sequence[Waiter], results: Sequence[Any], reply: pb.Reply) -> None:
    for at, waiter in enumerate(waiters):
        if waiter.done():
            continue
        if reply.reasons[at]:
            waiter.set_exception(_error_at(reply, at))
        else:
            waiter.set_result(results[at])


def _error_at(reply: pb.Reply, at: int) -> CacheError:
    error = from_reason(reply.reasons[at], detail_at(reply.details, at))
    if isinstance(error, Overloaded):
        error.retry_after_s = reply.retry_after_ms / 1_000
    return error


class ManyResult:
    """Results of a call with many keys, by position in the call's share of keys."""

    __slots__ = ("errors", "results")

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [None] * count
        self.errors: dict[int, CacheError] = {}


class _Nobody:
    """A waiter for what nobody wants to know."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any, /) -> None:
        pass

    def set_exception(self, exception: CacheError, /) -> None:
        pass


class ManyBatch(PendingBatch):
    """Many keys of one caller."""

    __slots__ = ("result", "waiter")

    def __init__(self, group: Group, waiter: Waiter) -> None:
        super().__init__(group)
        self.waiter = waiter
        self.result: ManyResult | None = None

    def take(self, reply: pb.Reply) -> bool:
        """Collect the answered keys; hand all over when the last has come."""
        results: Sequence[Any] = reply.records if self.group[0] == GET else reply.versions
        if not reply.indices and not reply.reasons:
            if len(results) != len(self.keys):
                raise ValueError
            whole = ManyResult(0)
            whole.results = list(results)
            self._finish(whole)
            return True
        if self.result is None:
            self.result = ManyResult(len(self.keys))
        indices: Sequence[int] = reply.indices or range(len(self.keys))
        for at, index in enumerate(indices):
            if reply.reasons and reply.reasons[at]:
                self.result.errors[index] = _error_at(reply, at)
            else:
                self.result.results[index] = results[at]
        self.left -= len(indices)
        if self.left > 0:
            return False
        self._finish(self.result)
        return True

    def _finish(self, result: ManyResult) -> None:
        if not self.waiter.done():
            self.waiter.set_result(result)

    def fail(self, make_error: Any) -> None:
        """Fail the keys that have no result yet; those that have keep it."""
        if self.waiter.done():
            return
        result = self.result or ManyResult(len(self.keys))
        for index, value in enumerate(result.results):
            if value is None and index not in result.errors:
                result.errors[index] = make_error()
        self._finish(result)


def give_back(group: Group, leases: Sequence[tuple[bytes, int]]) -> ManyBatch:
    """Return the batch that gives back leases whose callers are gone, so that others may load at once."""
    batch = ManyBatch((ABANDON, group[1], 1.0, False, 0, False, b""), _Nobody())
    batch.keys = [key for key, _ in leases]
    batch.tokens = [token for _, token in leases]
    return batch


def malformed() -> CacheError:
    """Return the error for a reply that breaks the contract."""
    return NodeError("The node sent a reply that does not fit the request.", reason="malformed_reply")
