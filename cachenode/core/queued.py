"""What lies in the queue of a namespace that writes behind, and what the queue says about it.

The queue has two parts. The *record* of a key is the newest value that its origin does not have yet: each write of the
key takes the place of the one before (coalescing), whether it waits for a second or for an hour. An *entry* in the
stream of the key's shard says that there is a record: one entry a key, however often the key is written. So the length
of the streams is the number of keys that wait, an order among the entries is not needed, and the order of a key's
writes is that of its record, which takes only newer versions.

A record's bytes: kind (1), version (8, big-endian), flags (4, big-endian), value.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from cachenode.core.entries import QueuedWrite

__all__ = [
    "SHARDS",
    "DeadLetter",
    "Fetched",
    "Outcome",
    "Put",
    "QueueStatus",
    "pack_record",
    "shard_of",
    "unpack_record",
]

SHARDS = 16
"""Streams of a namespace. Fixed: another number would look for what is queued in other streams."""

_RECORD = struct.Struct(">BQI")
_VALUE, _REMOVAL = 0, 1


def shard_of(key: bytes) -> int:
    """Return the shard whose stream names a key."""
    return crc32(key) % SHARDS


def pack_record(write: QueuedWrite) -> bytes:
    """Return the record of a write."""
    if write.value is None:
        return _RECORD.pack(_REMOVAL, write.version, 0)
    return _RECORD.pack(_VALUE, write.version, write.flags) + write.value


def unpack_record(key: bytes, record: bytes) -> QueuedWrite:
    """Return the write that a record stands for.

    Raises:
        ValueError: It is none.
    """
    if len(record) < _RECORD.size or record[0] not in (_VALUE, _REMOVAL):
        raise ValueError("record: not one of a queued write")
    kind, version, flags = _RECORD.unpack_from(record)
    return QueuedWrite(key, None if kind == _REMOVAL else record[_RECORD.size :], flags, version)


class Outcome(IntEnum):
    """What became of a write that was given to the queue."""

    SUPERSEDED = 0
    """A newer one is queued or stored; nothing was done."""
    QUEUED = 1
    """It waits for the origin."""
    REPLACED = 2
    """It waits in the place of an older one, which will never be written."""
    FULL = 3
    """As many keys wait as may; nothing was done."""
    REFUSED = 4
    """The queue cannot be reached, or does not take writes; nothing was done."""
    UNCERTAIN = 5
    """It may be queued or not, or not as safely as is asked for."""


class Put(NamedTuple):
    """The answer to one write: its outcome, whether the shared store had a value of the key, and what went wrong."""

    outcome: Outcome
    found: bool = False
    why: str = ""


class Fetched(NamedTuple):
    """What a consumer is told about a shard.

    Attributes:
        held: False if another consumer has it; everything else is empty then.
        free_in_s: How long another has it, at most.
        entries: Id, key and age in seconds of each entry.
        cursor: Where to go on with what was delivered before; empty at its end.
        waiting: Entries of the shard.
        oldest_s: Age of the oldest.
        lost: Entries that were delivered and are gone although nobody has done them: somebody else cut the stream.
    """

    held: bool
    free_in_s: float = 0.0
    entries: tuple[tuple[bytes, bytes, float], ...] = ()
    cursor: bytes = b""
    waiting: int = 0
    oldest_s: float = 0.0
    lost: int = 0


class QueueStatus(NamedTuple):
    """A namespace's queue: keys that wait, age in seconds of the oldest entry, letters that nobody has cared for."""

    waiting: int
    oldest_s: float
    dead: int


class DeadLetter(NamedTuple):
    """A write that the origin has refused for good, without its value.

    Attributes:
        id: Names it.
        key: Of the write.
        removal: Whether it was a removal.
        version: Of the write.
        size: Bytes of the value.
        attempts: How often it was tried.
        age_s: How long it has been a dead letter.
        reason: Why, for people; it holds no value.
    """

    id: bytes
    key: bytes
    removal: bool
    version: int
    size: int
    attempts: int
    age_s: float
    reason: str
