"""Whether caching pays, for how long, and by which pattern: advice from what was measured, with the numbers behind it.

The rules are those of a decision framework that asks what a value costs, how often it is asked for, how often it
changes, and how stale it may be. Two things are added to it. Its rules for caching are reasons, not a verdict: what
changes as often as it is read, or is hardly ever found, is not worth caching however dear it is. And what was not
measured is not guessed: then the advice says what is missing.

Rates are of a key, not of a namespace: ten thousand keys that change once a day each change every nine seconds. Where
no change was seen the rate is at most three in the time for which all keys were watched (the rule of three: with 95 %
confidence, Hanley and Lippman-Hand, JAMA 1983).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Advice", "Measured", "Pattern", "Thresholds", "Wishes", "advise"]

_HOUR_S = 3_600.0
_DAY_S = 86_400.0
_UNSEEN = 3.0
"""How many changes there may have been at most where none was seen."""


class Pattern(Enum):
    """How values come into the cache, and writes to the origin."""

    CACHE_ASIDE = "cache-aside"
    READ_THROUGH = "read-through"
    WRITE_THROUGH = "write-through"
    WRITE_BEHIND = "write-behind"
    REFRESH_AHEAD = "refresh-ahead"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted of one group of keys. Sums over several nodes are measured too: see `plus`.

    Attributes:
        seconds: For how long.
        reads: Reads that reached a node; what near caches answer is not among them.
        hits: Those that found a value in the cache.
        stale_reads: Those that were given a value past its TTL.
        writes: Values written or removed by callers; what was loaded is not among them.
        invalidations: Keys that were declared untrue.
        loads: Loads whose duration was measured.
        load_seconds: Their sum.
        keys: Keys that are in the cache now.
        bytes: What these cost.
        reads_through: The nodes load from an origin.
    """

    seconds: float
    reads: float
    hits: float
    writes: float
    invalidations: float
    keys: float
    bytes: float = 0.0
    stale_reads: float = 0.0
    loads: float = 0.0
    load_seconds: float = 0.0
    reads_through: bool = False

    def plus(self, other: Measured) -> Measured:
        """Return both together: the same keys' group as two nodes have counted it."""
        return Measured(
            max(self.seconds, other.seconds),
            self.reads + other.reads,
            self.hits + other.hits,
            self.writes + other.writes,
            self.invalidations + other.invalidations,
            self.keys + other.keys,
            self.bytes + other.bytes,
            self.stale_reads + other.stale_reads,
            self.loads + other.loads,
            self.load_seconds + other.load_seconds,
            self.reads_through or other.reads_through,
        )


@dataclass(frozen=True, slots=True)
class Wishes:
    """What cannot be measured.

    Attributes:
        staleness_s: How long after a change the old value may still be read, if nobody tells the cache of it; None if
            that is not known.
        consistent: Readers must never see a value that has been replaced; writers must not lose one.
        load_s: What a load costs in seconds, where the cache cannot see loads; None to go by what was measured.
    """

    staleness_s: float | None = None
    consistent: bool = False
    load_s: float | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the rules change their mind. Rates are in one key's events a second, if nothing else is said.

    Attributes:
        min_seconds: So long must have been measured.
        min_reads: So many reads must have been seen.
        min_loads: So many loads must have been timed.
        dear_load_s: A load that takes longer is expensive.
        busy_reads_per_s: A group of keys that is read more often is busy.
        static_updates_per_s: A key that changes less often is relatively static.
        frozen_updates_per_s: A key that changes less often is static.
        lively_updates_per_s: A key that changes more often is lively.
        frozen_ttl_s: TTL of what is static.
        static_ttl_s: TTL of what is relatively static.
        medium_ttl_s: TTL of what is neither.
        lively_ttl_s: TTL of what is lively.
        reads_per_update: What is read less often between two changes is not worth keeping.
        min_hit_ratio: What is found more rarely is not worth keeping.
        good_hit_ratio: What is found more rarely needs work.
        cache_s: What a read of the cache costs.
        write_heavy: Part of writes in all operations from which on a group is write-heavy.
        read_heavy: Part of reads from which on it is read-heavy.
        refresh_part: The last part of a TTL in which a value is refreshed if it is asked for.
    """

    min_seconds: float = 60.0
    min_reads: float = 100.0
    min_loads: float = 5.0
    dear_load_s: float = 0.1
    busy_reads_per_s: float = 10.0
    static_updates_per_s: float = 1 / _HOUR_S
    frozen_updates_per_s: float = 1 / _DAY_S
    lively_updates_per_s: float = 1 / 300
    frozen_ttl_s: float = _DAY_S
    static_ttl_s: float = _HOUR_S
    medium_ttl_s: float = 1_800.0
    lively_ttl_s: float = 300.0
    reads_per_update: float = 2.0
    min_hit_ratio: float = 0.1
    good_hit_ratio: float = 0.8
    cache_s: float = 0.002
    write_heavy: float = 0.7
    read_heavy: float = 0.8
    refresh_part: float = 0.2


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why.

    Attributes:
        cache: Whether caching pays; None if that cannot be told.
        ttl_s: Which TTL; None if that cannot be told, or nothing should be cached.
        pattern: Which pattern; the same.
        refresh: True if values should be refreshed ahead of their end as well.
        reasons: The rules that speak for it or against it, each with its number.
        notes: What should be looked at besides.
        missing: What would have to be measured or said for an answer.
        numbers: What the rules have looked at.
    """

    cache: bool | None
    ttl_s: float | None = None
    pattern: Pattern | None = None
    refresh: bool = False
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


def advise(measured: Measured, wishes: Wishes | None = None, thresholds: Thresholds | None = None) -> Advice:
    """Return whether caching a group of keys pays, which TTL and which pattern.

    Args:
        measured: What was counted.
        wishes: What cannot be measured.
        thresholds: Where the rules change their mind.
    """
    wishes, limits = wishes or Wishes(), thresholds or Thresholds()
    missing = tuple(_missing(measured, wishes, limits))
    if missing:
        return Advice(None, missing=missing)
    numbers = _numbers(measured, wishes, limits)
    against = tuple(_against(numbers, limits))
    if against:
        return Advice(False, reasons=against, numbers=numbers)
    reasons = tuple(_reasons(numbers, wishes, limits))
    if not reasons:
        return Advice(False, reasons=("no rule speaks for it",), numbers=numbers)
    ttl_s = _ttl_s(numbers["updates_per_key_s"], wishes, limits)
    pattern = _pattern(measured, numbers, wishes, limits)
    refresh = _refreshes(numbers, ttl_s, limits)
    if refresh and pattern is Pattern.CACHE_ASIDE:
        pattern = Pattern.REFRESH_AHEAD
    notes = tuple(_notes(measured, numbers, wishes, limits))
    return Advice(True, ttl_s, pattern, refresh, reasons, notes, (), numbers)


def _missing(measured: Measured, wishes: Wishes, limits: Thresholds) -> Iterator[str]:
    if not measured.seconds >= limits.min_seconds:
        yield f"time: measured for {measured.seconds:.0f} s, needs {limits.min_seconds:g} s"
    if not measured.reads >= limits.min_reads:
        yield f"reads: {measured.reads:.0f} seen, needs {limits.min_reads:g}"
    if wishes.load_s is None and not measured.loads >= max(1.0, limits.min_loads):
        yield f"load cost: {measured.loads:.0f} loads timed, needs {limits.min_loads:g}; or say what a load takes"
    if not measured.keys >= 1:
        yield "keys: none is in the cache"


def _numbers(measured: Measured, wishes: Wishes, limits: Thresholds) -> dict[str, float]:
    seconds, keys = measured.seconds, measured.keys
    updates = measured.writes + measured.invalidations
    load_s = measured.load_seconds / measured.loads if wishes.load_s is None else wishes.load_s
    hit_ratio = measured.hits / measured.reads
    operations = measured.reads + updates
    return {
        "reads_per_s": measured.reads / seconds,
        "reads_per_key_s": measured.reads / seconds / keys,
        "updates_per_key_s": (updates or _UNSEEN) / seconds / keys,
        "reads_per_update": measured.reads / (updates or _UNSEEN),
        "write_ratio": updates / operations,
        "hit_ratio": hit_ratio,
        "stale_ratio": measured.stale_reads / measured.reads,
        "load_s": load_s,
        "entry_bytes": measured.bytes / keys,
        "saved_s_per_s": measured.hits / seconds * load_s - measured.reads / seconds * limits.cache_s,
    }


def _against(numbers: dict[str, float], limits: Thresholds) -> Iterator[str]:
    if numbers["reads_per_update"] < limits.reads_per_update:
        yield f"{numbers['reads_per_update']:.2g} reads between two changes, worth it from {limits.reads_per_update:g}"
    if numbers["hit_ratio"] < limits.min_hit_ratio:
        yield f"hit ratio {numbers['hit_ratio']:.1%}, worth it from {limits.min_hit_ratio:.0%}"
    if numbers["saved_s_per_s"] <= 0:
        cost = f"hits save {numbers['hit_ratio']:.1%} of {_span(numbers['load_s'])}"
        yield f"{cost}, a read of the cache costs {_span(limits.cache_s)}"


def _reasons(numbers: dict[str, float], wishes: Wishes, limits: Thresholds) -> Iterator[str]:
    if numbers["load_s"] > limits.dear_load_s:
        yield f"a load takes {_span(numbers['load_s'])}, expensive from {_span(limits.dear_load_s)}"
    if numbers["reads_per_s"] > limits.busy_reads_per_s:
        yield f"{numbers['reads_per_s']:.3g} reads/s, busy from {limits.busy_reads_per_s:g}"
    if numbers["updates_per_key_s"] < limits.static_updates_per_s:
        often = _every(numbers["updates_per_key_s"])
        yield f"a key changes every {often}, static from {_every(limits.static_updates_per_s)}"
    if wishes.staleness_s:
        yield f"a value may be {_span(wishes.staleness_s)} old"


def _ttl_s(updates_per_key_s: float, wishes: Wishes, limits: Thresholds) -> float:
    if updates_per_key_s < limits.frozen_updates_per_s:
        ttl_s = limits.frozen_ttl_s
    elif updates_per_key_s < limits.static_updates_per_s:
        ttl_s = limits.static_ttl_s
    elif updates_per_key_s > limits.lively_updates_per_s:
        ttl_s = limits.lively_ttl_s
    else:
        ttl_s = limits.medium_ttl_s
    return ttl_s if not wishes.staleness_s else min(ttl_s, wishes.staleness_s)


def _pattern(measured: Measured, numbers: dict[str, float], wishes: Wishes, limits: Thresholds) -> Pattern:
    if numbers["write_ratio"] > limits.write_heavy:
        return Pattern.WRITE_THROUGH if wishes.consistent else Pattern.WRITE_BEHIND
    if 1 - numbers["write_ratio"] > limits.read_heavy and wishes.consistent and measured.writes:
        return Pattern.WRITE_THROUGH
    return Pattern.READ_THROUGH if measured.reads_through else Pattern.CACHE_ASIDE


def _refreshes(numbers: dict[str, float], ttl_s: float, limits: Thresholds) -> bool:
    """Return True if a key is asked for before its value ends, and its load is worth not waiting for."""
    asked = numbers["reads_per_key_s"] * ttl_s * limits.refresh_part
    return numbers["load_s"] > limits.dear_load_s and asked >= 1 and numbers["write_ratio"] <= limits.write_heavy


def _notes(measured: Measured, numbers: dict[str, float], wishes: Wishes, limits: Thresholds) -> Iterator[str]:
    if numbers["hit_ratio"] < limits.good_hit_ratio:
        ratio = f"the hit ratio is {numbers['hit_ratio']:.1%}, below {limits.good_hit_ratio:.0%}"
        yield f"{ratio}: look at evictions, at TTLs, and at keys that are asked for once"
    if not measured.invalidations and not measured.writes:
        yield "nobody tells the cache of changes: a value is as old as its TTL allows"
    if wishes.consistent and wishes.staleness_s:
        yield "consistent and stale at once: the TTL follows the staleness, the pattern the consistency"


def _every(rate: float) -> str:
    return _span(1 / rate)


def _span(seconds: float) -> str:
    for unit, length in (("d", _DAY_S), ("h", _HOUR_S), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1_000:.3g} ms"
