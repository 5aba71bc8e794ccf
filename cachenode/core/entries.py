"""The values that cross the borders of the core: batches, their results, and entries of the shared store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from cachenode.core.holders import Holder
from cachenode_api.reasons import Reason

__all__ = [
    "Batch",
    "BatchResult",
    "Failure",
    "L2Entry",
    "L2Write",
    "Layer",
    "Loaded",
    "Operation",
    "QueuedWrite",
    "RemovalCause",
    "SinkWrite",
]


class Operation(IntEnum):
    """What a batch does to its keys; the numbers of the wire enum."""

    GET = 1
    SET = 2
    DELETE = 3
    TOUCH = 4
    LEASE = 5
    FULFILL = 6
    ABANDON = 7
    INCR = 8
    INVALIDATE = 9
    BARRIER = 10
    APPLY = 11
    DISTRUST = 12
    REPLAY = 13
    OFFER = 14
    HAND_OVER = 15
    LINK = 16
    CASCADE = 17
    BLOOM_BEGIN = 20
    BLOOM_TAKE = 21
    WARM = 22
    BLOOM_SAVE = 23
    BEQUEATH = 38

    @property
    def reads(self) -> bool:
        """True if it only reads, or gets the right to load."""
        return self is Operation.GET or self is Operation.LEASE

    @property
    def gives_records(self) -> bool:
        """True if its results are records, False if they are versions."""
        return self.reads or self is Operation.INCR or self is Operation.LINK


class Layer(IntEnum):
    """Where a value was found; the numbers of the wire enum."""

    L1 = 1
    L2 = 2


class RemovalCause(IntEnum):
    """Why an entry left memory."""

    EXPLICIT = 1
    REPLACED = 2
    INVALIDATED = 3
    EXPIRED = 4
    CAPACITY = 5
    MOVED = 6


class L2Entry(NamedTuple):
    """A live value of the shared store.

    `ttl_s` is the remaining life, infinite if it does not expire. `position` is that of its namespace's newest barrier
    when its write or load began (`cachenode.core.barriers`): a later one that covers it makes it untrue.
    """

    value: bytes
    flags: int
    version: int
    ttl_s: float
    position: int = 0


class Loaded(NamedTuple):
    """What an origin has for a key. `ttl_s` is its life if the origin knows better than the namespace.

    `value` may begin with a block of tags, as the flags say (`cachenode_api.records`). What is not to be kept is handed
    to those who wait for it, and loaded again for who asks next. `depends_on` are keys of the same namespace, or pairs
    of a namespace and a key (`cachenode_api.dependencies.canonical_parents`).
    """

    value: bytes
    flags: int
    ttl_s: float | None = None
    keep: bool = True
    depends_on: tuple[str | bytes | tuple[str, str | bytes], ...] = ()


class L2Write(NamedTuple):
    """A value for the shared store, which takes it only if its version is higher than the one it holds."""

    key: bytes
    value: bytes
    flags: int
    version: int
    ttl_s: float
    position: int = 0


class SinkWrite(NamedTuple):
    """A write for an origin: the newest of its key that this node's caller knows.

    `value` is None where the key is to be removed; it bears no tags. `version` orders the writes of a key: an origin
    that keeps it can refuse what comes late or twice.
    """

    key: bytes
    value: bytes | None
    flags: int
    version: int


class QueuedWrite(NamedTuple):
    """A write that is acknowledged once it is in the queue of its namespace, and in the shared store with that.

    `value` is None for a removal; it may begin with a block of tags, as the flags say. `ttl_s` and `position` are those
    of an `L2Write`.
    """

    key: bytes
    value: bytes | None
    flags: int
    version: int
    ttl_s: float = float("inf")
    position: int = 0


@dataclass(slots=True)
class Batch:
    """One operation on many keys of one namespace, as parallel columns (see ``Batch`` in common.proto).

    `acknowledged` says that a write waits until nobody holds an older copy. `stand_in` says, between nodes, that who
    asks cannot reach the keys' owner. `expire` says that what is declared untrue may be served for a while, marked as
    stale, where its namespace allows that. `near` never travels: the holder of copies who asks, if it is one.
    `region` says, between nodes, from which region a declaration of untruth comes: it is not told to any other.
    `slide` says of a GET that it renews the lives of what it finds, to `slide_ms`, 0 for what a write would give.
    `epoch` belongs to OFFER, HAND_OVER, LINK and BEQUEATH, `position`, `since_s` and `latest_ms` to HAND_OVER.
    `depends_on` has a block of references per key, or one for all (`cachenode_api.dependencies`).
    """

    operation: Operation
    namespace: str
    keys: Sequence[bytes]
    values: Sequence[bytes] = ()
    flags: Sequence[int] = ()
    ttls_ms: Sequence[int] = ()
    timeout_s: float = 0.0
    tokens: Sequence[int] = ()
    details: Sequence[str] = ()
    lease_s: float = 0.0
    soft_timeout_s: float = 0.0
    if_versions: Sequence[int] = ()
    deltas: Sequence[int] = ()
    acknowledged: bool = True
    stand_in: bool = False
    expire: bool = False
    near: Holder[Any] | None = None
    epoch: int = 0
    position: int = 0
    since_s: float = 0.0
    slide: bool = False
    slide_ms: int = 0
    depends_on: Sequence[bytes] = ()
    region: str = ""
    latest_ms: Sequence[int] = ()


class Failure(NamedTuple):
    """Why one key of a batch failed; `detail` is for people and holds neither key nor value.

    `retry_after_ms` is how long to wait before the same is asked again; 0 if nothing is known about that.
    """

    reason: Reason
    detail: str = ""
    retry_after_ms: int = 0


@dataclass(slots=True)
class BatchResult:
    """Results of some keys of a batch.

    Attributes:
        indices: Positions of the answered keys in the batch; None means all, in order.
        records: GET, LEASE, INCR: a record per answered key, empty if absent. LINK: a block of what the key depends on.
        versions: Else: the version per answered key; 0 from DELETE and TOUCH means absent, from FULFILL not stored.
        failures: By position in `records` or `versions`.
        layers: GET: the layer per answered key; None means that all came from L1.
        now_s: GET: the clock against which the records' deadlines count.
        tokens: LEASE: the token per answered key; 0 where the caller is not to load. None means all 0. LINK: for how
            many microseconds the key has not changed.
        near: GET, LEASE: the records may be copied: they are this node's own, and nothing is changing them.
        hot: GET of a peer: the keys are asked for so often that the peer had better keep a copy.
    """

    indices: Sequence[int] | None = None
    records: Sequence[bytes] = ()
    versions: Sequence[int] = ()
    failures: dict[int, Failure] = field(default_factory=dict)
    layers: Sequence[int] | None = None
    now_s: float = 0.0
    tokens: Sequence[int] = ()
    near: bool = False
    hot: bool = False
