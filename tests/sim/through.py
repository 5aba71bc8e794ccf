"""Read-through under the external checker: what the nodes load, and what they say is absent.

Whoever writes such a key commits to the origin first. So of a write or removal X that was acknowledged the
origin's number is known, and whatever is loaded since X began has at least that number.

- **C2, C3** A read that began after X returns that number or a later one, or what somebody set who had not surely done
  so before X. It returns nothing only if the origin had nothing under such a number. So what was loaded, or found to be
  absent, before X is not served after it. If X was an expiry, what is said to be stale may be older, until the time for
  which the namespace serves that is over.
- **C5** A value is not read later than its TTL, and the time for which the namespace serves it stale, after the last
  load or write that brought it. Where nothing was broken it is said to be stale once its TTL is over.
- **C6** Two nodes do not load a key at a time, nor does one twice, unless it was written or removed meanwhile. Only
  asked where nothing was broken.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from random import Random
from typing import Any

from tests.sim.checker import Violation
from tests.sim.history import History, Kind, Load, Op
from tests.sim.origin import Origin, is_absent

__all__ = ["check_through", "through_policy"]

_NEAR_S = 2.3
_DRIFT = 1.11
_SLACK_S = 0.15
_LANDED_S = 1.0
"""Where nothing is broken a loaded value is stored long before."""
_STORING_S = 0.2
"""What a load brings is written for so long at most, and that write is one like any other to the next load."""


def through_policy(seed: int) -> dict[str, Any]:
    """Return the settings of a run's namespace: with stale values or not, with refreshes or not."""
    rng = Random(f"{seed} through")
    return {
        "ttl_s": rng.choice((0.6, 1.5)),
        "stale_s": rng.choice((0.0, 0.8)),
        "refresh_ahead": rng.choice((0.0, 0.6)),
        "xfetch_beta": rng.choice((0.0, 1.0)),
        "negative_ttl_s": rng.choice((0.5, 5.0)),
        "soft_timeout_s": rng.choice((0.0, 0.03)),
    }


def check_through(
    history: History, origin: Origin, policy: Mapping[str, Any], *, calm: bool = False
) -> list[Violation]:
    """Return all violations of keys that the nodes load.

    Args:
        history: What was done and seen.
        origin: The database as it was left.
        policy: Of their namespace.
        calm: Nothing was broken.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    loads: dict[str, list[Load]] = defaultdict(list)
    for op in history.ops:
        if op.key[0] == "r":
            by_key[op.key].append(op)
    for load in history.loads:
        if load.key[0] == "r":
            loads[load.key].append(load)
    found: list[Violation] = []
    for key, ops in by_key.items():
        found += _reads(key, ops, origin.commits.get(key, []), policy["stale_s"] * _DRIFT + _SLACK_S)
        found += _lives(key, ops, loads[key], policy, history, calm=calm)
        if calm:
            found += _overlaps(key, _detaching(history, key), loads[key])
    return sorted(found, key=lambda violation: violation.at)


def _number(op: Op) -> int:
    assert isinstance(op.value, int), "the origin holds numbers"
    return op.value


def _higher(one: Op, other: Op) -> Op:
    return max(one, other, key=_number)


def _changes(ops: list[Op]) -> list[Op]:
    return [op for op in ops if op.kind in {Kind.REMOVE, Kind.WRITE}]


def _reads(key: str, ops: list[Op], commits: list[float], stale_s: float) -> Iterator[Violation]:
    """Yield reads of what is surely older than what had been written or removed, or expired and is not marked."""
    sets: dict[int, Op] = {_number(op): op for op in ops if op.kind is Kind.WRITE}
    reads = [op for op in ops if op.kind is Kind.READ and op.done]
    unmarked = [op for op in reads if op.how == "lookup" and not op.stale]  # the other calls do not say
    for lax, expire, lag_s, judged in (
        (False, False, 0.0, reads),
        (True, False, _NEAR_S, reads),
        (False, True, 0.0, unmarked),
        (True, True, _NEAR_S, unmarked),
        (False, True, stale_s, reads),
        (True, True, _NEAR_S + stale_s, reads),
    ):
        counted = (op for op in _changes(ops) if op.done and (op.lax, op.expire) == (lax, expire))
        done = sorted(counted, key=lambda op: op.ended)
        ends = [op.ended + lag_s for op in done]
        newest = list(accumulate(done, _higher))
        for read in judged:
            at = bisect_left(ends, read.began)
            change = newest[at - 1] if at else None
            if ((lax or expire) and change is None) or _explained(read, change, sets, done[:at], commits):
                continue
            text = f"{read}\n    is older than {change}"
            began = change.began if change is not None else read.began
            yield Violation("C3", text, read.began, began, key, [*([change] if change is not None else ()), read])


def _explained(read: Op, change: Op | None, sets: dict[int, Op], done: list[Op], commits: list[float]) -> bool:
    """Return True if a read may return what it returned after some changes, the newest of which is given."""
    least = _number(change) if change is not None else 0
    known = bisect_left(commits, read.ended)
    if read.value is None:
        return any(map(is_absent, range(least, known + 1)))
    number = _number(read)
    if number > known or is_absent(number):
        return False
    if number >= least:
        return True
    given = sets.get(number)
    return given is not None and (
        not given.done or all(each.began <= given.ended for each in done if each is not given)
    )


def _lives(
    key: str, ops: list[Op], loads: list[Load], policy: Mapping[str, Any], history: History, *, calm: bool
) -> Iterator[Violation]:
    """Yield reads of what is past its life, and of what is past its TTL and not marked."""
    ttl_s, stale_s = policy["ttl_s"], policy["stale_s"]
    brought: dict[int, list[float]] = defaultdict(list)
    for load in loads:
        brought[load.value].append(load.ended)
    for op in ops:
        if op.kind is Kind.WRITE:
            brought[_number(op)].append(op.ended if op.done else math.inf)
    for read in ops:
        if read.kind is not Kind.READ or not read.done or read.value is None:
            continue
        times = [at for at in brought[_number(read)] if at <= read.ended or at == math.inf]
        last = max(times, default=math.inf)
        if last == math.inf or history.disturbed(last, last + _LANDED_S):
            continue
        since = read.began - last - _SLACK_S
        if since > (ttl_s + stale_s) * _DRIFT:
            yield Violation("C5", f"{read}\n    was brought at {last:.4f}", read.began, last, key, [read])
        elif calm and since > ttl_s * _DRIFT and read.how == "lookup" and not read.stale:
            yield Violation("C5", f"{read}\n    is not marked stale", read.began, last, key, [read])


def _detaching(history: History, key: str) -> list[Op]:
    """Return what takes a key's load off it; what a load brings may have any tags."""
    return _changes([op for op in history.ops if op.key == key or (op.tagged and op.key[0] == "r")])


def _overlaps(key: str, changes: list[Op], loads: list[Load]) -> Iterator[Violation]:
    """Yield loads that overlap for no reason."""
    for load, following in pairwise(loads):
        if following.began >= load.ended:
            continue
        asked, until = min(load.asked, following.asked), following.began
        changed = any(op.began < until and op.ended > asked for op in changes)
        stored = any(asked - _STORING_S < other.ended < until for other in loads)
        if not changed and not stored:
            yield Violation("C6", f"{load}\n    while {following}", until, asked, key)
