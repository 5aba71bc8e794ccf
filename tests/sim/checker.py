"""The external checker: from what the clients did and saw, in true time, it says which promise was broken.

It knows nothing of how the cache works. A write whose outcome its client does not know may take effect at any later
moment, so its value may be read at any time. A miss is always allowed; the cache promises no durability.

- **C1** The versions of one key's writes rise in the order of those that do not overlap.
- **C3** A read that began after a write or removal was acknowledged does not return what was surely older. For
  origin keys that is **C2** too: what was loaded before the invalidation is not returned.
- **C4** Of one client's reads of a key, the later returns nothing that is surely older. (A value that was loaded and
  not stored has no place in that order, so origin keys are not asked.)
- **C5** Nothing is read past its life.
- **C6** A key is not loaded twice at a time, unless it was written or removed, a lease ended, or something was broken.
- **one-winner** Of several replacements of the same version one is done.
- **count** Increments count once; none that was acknowledged is missing (if nothing can be lost), and none that surely
  was not done counts.
- **time** Every call ends within its time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

from cachenode_api.version import epoch_of
from tests.sim.history import History, Kind, Load, Op, Outcome
from tests.sim.loop import Host

__all__ = ["Newest", "Violation", "check", "stale", "version_order"]

_NEAR_S = 2.3
"""After `ack="owner"` near caches may serve their copies for so long."""
_DRIFT = 1.11
_SLACK_S = 0.15
_OVERTIME_S = 0.35
_LEAST_LEASE_S = 0.9
"""The shortest lease of a load, less the clocks' drift; it begins when the owner grants it, after it was asked for."""


@dataclass
class Violation:
    """A broken promise.

    Attributes:
        clause: Which.
        text: How.
        at: When it showed.
        since: From when on what happened matters.
        key: Of which key.
    """

    clause: str
    text: str
    at: float
    since: float
    key: str
    ops: list[Op] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.clause}: {self.text}"


def check(history: History, *, keeps: bool = False, calm: bool = False) -> list[Violation]:
    """Return all violations.

    Args:
        history: What was done and seen.
        keeps: Nothing can be lost, so counters must be exact.
        calm: Nothing was broken, so there is no excuse for a second load.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        by_key[op.key].append(op)
    found: list[Violation] = []
    for key, ops in by_key.items():
        if key[0] in "os":
            found += _origin_reads(key, ops)
        elif key[0] == "n":
            found += _counts(key, ops, keeps=keeps)
        elif key[0] not in "rwd":  # those have checkers of their own
            found += _cache_reads(key, ops, history.epochs)
            found += version_order(key, ops)
        if key[0] == "t":
            found += _lives(key, ops)
        if key[0] == "v":
            found += _winners(key, ops)
    found += _loads(history, calm=calm)
    found += _times(history)
    return sorted(found, key=lambda violation: violation.at)


def _highest(ops: Iterable[Op], rank: Callable[[Op], float]) -> list[Op]:
    """Return for each position the highest of the operations up to there."""

    def higher(one: Op, other: Op) -> Op:
        return max(one, other, key=rank)

    return list(accumulate(ops, higher))


def _by_began(op: Op) -> float:
    return op.began


def _by_version(op: Op) -> float:
    return op.version


def _writes(ops: Iterable[Op]) -> list[Op]:
    """Return the writes that were done or may have been."""
    return [op for op in ops if op.kind in {Kind.WRITE, Kind.SWAP} and (not op.done or op.version)]


class Newest(NamedTuple):
    """What was surely done before a moment, of all that counts against a value."""

    ends: list[float]
    begins: list[Op]
    versions: list[Op]

    @classmethod
    def of(cls, ops: Iterable[Op], lag_s: float = 0.0) -> Newest:
        """Sort operations by their ends; `lag_s` is how much later they count."""
        done = sorted((op for op in ops if op.done), key=lambda op: op.ended)
        return cls(
            [op.ended + lag_s for op in done],
            _highest(done, _by_began),
            _highest(done, _by_version),
        )

    def last_begun(self, before: float) -> Op | None:
        """Return what began last of all that ended before a moment."""
        at = bisect_left(self.ends, before)
        return self.begins[at - 1] if at else None

    def newer(self, written: Op, before: float) -> Op | None:
        """Return what ended before a moment and is surely newer than a write that was done."""
        at = bisect_left(self.ends, before)
        if not at:
            return None
        if self.begins[at - 1].began > written.ended:
            return self.begins[at - 1]
        if self.versions[at - 1].version > written.version > 0:
            return self.versions[at - 1]
        return None


def _cache_reads(key: str, ops: list[Op], epochs: dict[int, float]) -> Iterator[Violation]:
    writes = _writes(ops)
    by_value = {op.value: op for op in writes}
    changes = [*writes, *(op for op in ops if op.kind is Kind.REMOVE)]
    everybody = [op for op in changes if not op.lax]
    strict = Newest.of(op for op in everybody if not (op.tagged and op.kind is Kind.REMOVE))
    by_tag = Newest.of(everybody)
    lax = Newest.of((op for op in changes if op.lax and not (op.tagged and op.kind is Kind.REMOVE)), _NEAR_S)
    reads = [op for op in ops if op.kind is Kind.READ and op.done and op.value is not None]
    for read in reads:
        written = by_value.get(read.value)
        if written is None or written.began > read.ended:
            yield Violation("C3", f"{read} was never written", read.began, read.began, key, [read])
            continue
        if not written.done:
            continue
        newest = by_tag if written.tagged else strict
        newer = newest.newer(written, read.began) or lax.newer(written, read.began)
        if newer is not None:
            yield stale("C3", read, written, newer)
    for own in _by_client(reads, changes).values():
        yield from _going_back(own, by_value, epochs)


def _by_client(reads: list[Op], changes: list[Op]) -> dict[str, list[Op]]:
    clients: dict[str, list[Op]] = defaultdict(list)
    for op in [*reads, *(op for op in changes if op.lax and op.done)]:
        clients[op.client].append(op)
    return clients


def _going_back(ops: list[Op], by_value: dict[str | int | None, Op], epochs: dict[int, float]) -> Iterator[Violation]:
    """Yield a client's reads of what is surely older than what it had read or written.

    A write whose key moves meanwhile may be done twice: what was seen before the epoch of its version is not what that
    version orders.
    """
    reads = [op for op in ops if op.kind is Kind.READ]
    seen = sorted(ops, key=lambda op: op.ended)
    known = [by_value.get(op.value) if op.kind is Kind.READ else op for op in seen]
    ordered = [
        None if written is None or op.ended < epochs.get(epoch_of(written.version), 0.0) else written
        for op, written in zip(seen, known, strict=True)
    ]
    ends = [op.ended for op in seen]
    begun = list(accumulate(known, lambda one, other: _later(one, other, by_version=False)))
    highest = list(accumulate(ordered, lambda one, other: _later(one, other, by_version=True)))
    for read in reads:
        written, at = by_value.get(read.value), bisect_left(ends, read.began)
        if not at or written is None or not written.done:
            continue
        for before, by_version in ((begun[at - 1], False), (highest[at - 1], True)):
            if before is None or before is written or (before.tagged and before.kind is Kind.REMOVE):
                continue
            newer = before.began > written.ended or (by_version and before.version > written.version > 0)
            if newer and (before.done or before.kind is not Kind.REMOVE):
                yield stale("C4", read, written, before)
                break


def _later(one: Op | None, other: Op | None, *, by_version: bool) -> Op | None:
    if one is None or other is None:
        return one or other
    if by_version:
        return max(one, other, key=lambda op: op.version)
    return max(one, other, key=lambda op: op.began)


def stale(clause: str, read: Op, written: Op, newer: Op) -> Violation:
    """Return the violation of a read that is older than something."""
    text = f"{read}\n    is older than {newer}\n    was {written}"
    return Violation(clause, text, read.began, min(newer.began, read.began), read.key, [written, newer, read])


def _origin_reads(key: str, ops: list[Op]) -> Iterator[Violation]:
    removals = [op for op in ops if op.kind is Kind.REMOVE and op.done]
    for clause, group, lag_s in (
        ("C3", [op for op in removals if not op.lax], 0.0),
        ("C3", [op for op in removals if op.lax], _NEAR_S),
    ):
        ordered = sorted(group, key=lambda op: op.ended)
        ends = [op.ended + lag_s for op in ordered]
        newest = _highest(ordered, _number)
        for read in ops:
            if read.kind is not Kind.READ or not read.done or read.value is None:
                continue
            at = bisect_left(ends, read.began)
            if at and _number(newest[at - 1]) > _number(read):
                newer = newest[at - 1]
                text = f"{read}\n    is older than {newer}"
                yield Violation(clause, text, read.began, newer.began, key, [newer, read])


def _number(op: Op) -> int:
    assert isinstance(op.value, int), "origin keys and counters hold numbers"
    return op.value


def version_order(key: str, ops: list[Op]) -> Iterator[Violation]:
    """Yield writes that have no higher version than what was done before they began."""
    done = sorted((op for op in _writes(ops) if op.done), key=lambda op: op.ended)
    ends = [op.ended for op in done]
    highest = _highest(done, _by_version)
    for op in done:
        at = bisect_left(ends, op.began)
        if at and highest[at - 1].version >= op.version:
            text = f"{op}\n    has no higher version than {highest[at - 1]}"
            yield Violation("C1", text, op.ended, highest[at - 1].began, key, [highest[at - 1], op])


def _lives(key: str, ops: list[Op]) -> Iterator[Violation]:
    by_value = {op.value: op for op in _writes(ops) if op.done}
    touches = [op for op in ops if op.kind is Kind.TOUCH]
    for read in ops:
        written = by_value.get(read.value)
        if read.kind is not Kind.READ or not read.done or written is None:
            continue
        end = written.ended + written.ttl_s * _DRIFT
        for touch in touches:
            if touch.ended > written.began and touch.began < read.ended:
                end = max(end, touch.ended + touch.ttl_s * _DRIFT if touch.done else math.inf)
        if read.began > end + _SLACK_S:
            text = f"{read}\n    is {read.began - end:.3f} s past the life of {written}"
            yield Violation("C5", text, read.began, written.began, key, [written, read])


def _winners(key: str, ops: list[Op]) -> Iterator[Violation]:
    won: dict[int, Op] = {}
    for op in ops:
        if op.kind is Kind.SWAP and op.done and op.version and op.base:
            other = won.setdefault(op.base, op)
            if other is not op:
                yield Violation(
                    "one-winner", f"{op}\n    replaced the same as {other}", op.ended, other.began, key, [other, op]
                )


def _counts(key: str, ops: list[Op], *, keeps: bool) -> Iterator[Violation]:
    """Yield what is wrong with a counter, which begins at 0 and only rises by one."""
    counts = [op for op in ops if op.kind is Kind.COUNT]
    begins = sorted(op.began for op in counts)
    ends = sorted(op.ended for op in counts if op.done)
    numbers: dict[int, Op] = {}
    for op in ops:
        if not op.done or op.value is None or op.kind not in {Kind.COUNT, Kind.READ}:
            continue
        number, most = _number(op), bisect_left(begins, op.ended)
        if op.kind is Kind.COUNT and keeps and numbers.setdefault(number, op) is not op:
            yield Violation("count", f"{op}\n    counted as {numbers[number]}", op.ended, op.began - 1, key, [op])
        if number > most:
            yield Violation("count", f"{op}\n    of {most} increments", op.ended, op.began - 5, key, [op])
        least = bisect_left(ends, op.began)
        if keeps and number < least:
            yield Violation("C3", f"{op}\n    after {least} increments", op.ended, op.began - 1, key, [op])


def _loads(history: History, *, calm: bool) -> Iterator[Violation]:
    """Yield loads of a key that overlap for no reason; only asked where nothing was broken."""
    if not calm:
        return
    by_key: dict[str, list[Load]] = defaultdict(list)
    for load in history.loads:
        by_key[load.key].append(load)
    for key, loads in by_key.items():
        if key[0] in "rd":
            continue
        excuses = [op for op in history.ops if op.kind is Kind.REMOVE and _detaches(op, key)]
        for load, following in pairwise(loads):
            asked, until = min(load.asked, following.asked), following.began
            if until >= min(load.ended, load.asked + _LEAST_LEASE_S):
                continue
            removed = any(op.began < until and op.ended > asked for op in excuses)
            # What another load brought was being stored, which is a write.
            landed = any(other.ended < until and other.landed > asked for other in loads if other is not load)
            if not removed and not landed:
                yield Violation("C6", f"{load}\n    while {following}", until, load.asked, key)


def _detaches(op: Op, key: str) -> bool:
    """Return True if a removal may have ended a key's load; what a load brings may have any tags."""
    return op.key == key or (op.tagged and (op.key[0] == "s") == (key[0] == "s"))


def _times(history: History) -> Iterator[Violation]:
    end = max((op.ended for op in history.ops if op.ended < math.inf), default=0.0)
    for op in history.ops:
        assert isinstance(op.host, Host), "an operation has a host"
        if op.outcome is Outcome.OPEN and op.host.dead:
            continue
        ended = min(op.ended, end + 60.0)
        took = ended - op.began - op.host.paused_within(op.began, ended)
        if took > op.timeout_s * _DRIFT + _OVERTIME_S:
            yield Violation("time", f"{op} took {took:.3f} of {op.timeout_s} s", ended, op.began, op.key, [op])
