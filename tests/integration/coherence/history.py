"""What client processes did and saw, and the check of it from outside.

All processes run on one machine, so CLOCK_MONOTONIC orders their operations in real time. Every key has one writer, who
writes 1, 2, 3 …; so "older" is a comparison of numbers. Two kinds of keys:

- *cache keys* are set, and read with `get`. A write whose outcome the client does not know may take effect at any later
  moment, so its value may be read at any time from its beginning on.
- *origin keys* are committed to an origin and then invalidated; they are read with `get_or_load`, whose loader reads
  the origin.

The rules: a read that began after a write was acknowledged does not return an older value (C3, and C2 for loads); of
one client's reads of a key that follow each other, the later returns no older value (C4). A miss is always allowed.
Of origin keys C4 is not asked: a value that was loaded and not stored has no place in the cache's order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from struct import Struct
from typing import NamedTuple

__all__ = ["ACKNOWLEDGED", "MISS", "READ", "UNKNOWN", "Operation", "Verdict", "check", "is_origin", "recorded"]

READ, ACKNOWLEDGED, UNKNOWN = range(3)
MISS = -1
RECORD = Struct("<BIqqq")


class Operation(NamedTuple):
    """One operation of one client: what, on which key, which value, from when to when in nanoseconds."""

    kind: int
    key: int
    value: int
    began: int
    ended: int


class Stale(NamedTuple):
    """A read that broke a rule."""

    rule: str
    client: str
    read: Operation
    newer: Operation

    def __str__(self) -> str:
        late_ms = (self.read.began - self.newer.ended) / 1e6
        return (
            f"{self.rule}: {self.client} read {self.read.value} of key {self.read.key} at {self.read.began}, in "
            f"{(self.read.ended - self.read.began) / 1e6:.1f} ms; {late_ms:.1f} ms before, {self.newer.value} was "
            f"{'written' if self.newer.kind == ACKNOWLEDGED else 'read'}, in "
            f"{(self.newer.ended - self.newer.began) / 1e6:.1f} ms"
        )


@dataclass
class Verdict:
    """What the check found."""

    reads: int = 0
    misses: int = 0
    writes: int = 0
    unknown: int = 0
    stale: list[Stale] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.reads:,} reads ({self.misses:,} misses) beside {self.writes:,} acknowledged writes and "
            f"{self.unknown:,} of unknown outcome: {len(self.stale)} stale"
        )


def is_origin(key: int) -> bool:
    """Return True for a key whose truth is the origin."""
    return key % 2 == 1


def recorded(path: Path) -> Iterator[Operation]:
    """Yield the operations in a client's file; a client that was killed may have left a record half written."""
    content = path.read_bytes()
    for fields in RECORD.iter_unpack(content[: len(content) // RECORD.size * RECORD.size]):
        yield Operation(*fields)


def check(histories: dict[str, Iterable[Operation]]) -> Verdict:
    """Return what is wrong with the histories of clients, by client."""
    verdict = Verdict()
    reads: dict[int, list[tuple[str, Operation]]] = defaultdict(list)
    writes: dict[int, list[Operation]] = defaultdict(list)
    unknown: dict[int, set[int]] = defaultdict(set)
    for client, operations in histories.items():
        for operation in operations:
            if operation.kind == READ:
                verdict.reads += 1
                verdict.misses += operation.value == MISS
                reads[operation.key].append((client, operation))
            elif operation.kind == ACKNOWLEDGED:
                verdict.writes += 1
                writes[operation.key].append(operation)
            else:
                verdict.unknown += 1
                unknown[operation.key].add(operation.value)
    for key, of_key in reads.items():
        seen = [(client, read) for client, read in of_key if read.value != MISS and read.value not in unknown[key]]
        verdict.stale += _older_than_written(seen, writes[key])
        verdict.stale += () if is_origin(key) else _going_back(seen)
    return verdict


def _older_than_written(reads: list[tuple[str, Operation]], writes: list[Operation]) -> Iterator[Stale]:
    """Yield the reads that began after a newer write was acknowledged."""
    by_end = sorted(writes, key=lambda write: write.ended)
    ends = [write.ended for write in by_end]
    newest = list(accumulate(by_end, _newer))
    for client, read in reads:
        before = bisect_left(ends, read.began)
        if before and newest[before - 1].value > read.value:
            yield Stale("C3", client, read, newest[before - 1])


def _newer(one: Operation, other: Operation) -> Operation:
    return max(one, other, key=lambda write: write.value)


def _going_back(reads: list[tuple[str, Operation]]) -> Iterator[Stale]:
    """Yield the reads that returned something older than an earlier read of the same client."""
    by_client: dict[str, list[Operation]] = defaultdict(list)
    for client, read in reads:
        by_client[client].append(read)
    for client, own in by_client.items():
        yield from (
            Stale("C4", stale.client, stale.read, stale.newer)
            for stale in _older_than_written([(client, read) for read in own], own)
        )
