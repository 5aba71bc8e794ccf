"""TTLs by how much a key is wanted: what is asked for often lives long, what was asked for once does not.

The steps are looked at in their order, and the first that fits says the TTL. Those that are built in are the thresholds
of the usual snippet (24 hours for what was asked for more than 1,000 times, and so on), with two differences. "Last
access" is the one before the newest: the newest is what brings the value here, so by that every key would have been
asked for a moment ago. And a count is of the last hour or two, not of all time (`cachenode.core.frequency`).

While a namespace answers less than `hit_rate` of its reads, each value gets the next longer TTL of the steps: values
end before they are asked for again. The rate is one of recent reads, and counts once there were enough of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["DEFAULT_STEPS", "AdaptiveTtl", "Choice", "HitRate", "Step", "parse_step"]

DEFAULT_STEPS = (">1000: 24h", ">100: 4h", ">10: 1h", "<1m: 1h", "<5m: 30m", "15m")
_STEP = re.compile(r"\s*(?:(>)\s*(\d{1,5})\s*:|(<)\s*([\d.]+\s*[smhd]?)\s*:)?\s*([\d.]+\s*[smhd]?)\s*\Z")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)\Z")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST_S = 365 * 86_400
_ENOUGH_READS = 100
"""Reads from which on a hit rate means something."""


class Step(NamedTuple):
    """A TTL and whom it is for.

    `above` is a count that the accesses must exceed, `within_s` a time that must not have passed since the last access
    but one. `text` is how people write it.
    """

    ttl_s: float
    above: int
    within_s: float
    text: str


def parse_step(text: str) -> Step:
    """Return the step of a text: ``>100: 4h``, ``<5m: 30m``, or ``15m`` for all others.

    Raises:
        ValueError: It is not such a text; the error's text names the rule.
    """
    match = _STEP.match(text)
    ttl_s = _span(match[5]) if match else 0.0
    within_s = _span(match[4]) if match and match[3] else math.inf
    if match is None or not 0 < ttl_s <= _LONGEST_S or not within_s > 0:
        raise ValueError('must be steps such as ">100: 4h" (accesses), "<5m: 30m" (since the last one) or "15m"')
    return Step(ttl_s, int(match[2]) if match[1] else -1, within_s, text.strip())


def _span(text: str) -> float:
    match = _SPAN.match(text.strip())
    return float(match[1]) * _UNITS_S[match[2]] if match else 0.0


class Choice(NamedTuple):
    """A TTL and why: the step that fitted, and whether the hit rate has moved it to a longer one."""

    ttl_s: float
    step: Step
    longer: bool


class AdaptiveTtl:
    """The rule of one namespace.

    Args:
        steps: In the order in which they are tried; the last is for all.
        min_s: No TTL is shorter.
        max_s: Nor longer.
        hit_rate: Below it values live one step longer; 0: never.

    Raises:
        ValueError: The steps leave somebody out, or the bounds cross.
    """

    __slots__ = ("_longer", "_steps", "hit_rate", "max_s", "min_s")

    def __init__(self, steps: Sequence[Step], min_s: float, max_s: float, hit_rate: float) -> None:
        if not steps or steps[-1].above >= 0 or not math.isinf(steps[-1].within_s):
            raise ValueError("adaptive_steps: the last must be a TTL alone, for what none before it fits")
        if not 0 < min_s <= max_s:
            raise ValueError("adaptive_min_s: must be above 0 and at most adaptive_max_s")
        self._steps = tuple(steps)
        lives = sorted({step.ttl_s for step in steps})
        self._longer = dict(zip(lives, [*lives[1:], lives[-1]], strict=True))
        self.min_s = min_s
        self.max_s = max_s
        self.hit_rate = hit_rate

    def choose(self, accesses: int, since_s: float, hit_rate: float | None) -> Choice:
        """Return the TTL of a key.

        Args:
            accesses: How often it was asked for lately.
            since_s: Seconds since the access before the newest; infinite if there was none.
            hit_rate: Part of the namespace's reads that found a value; None if that is not known.
        """
        step = next(step for step in self._steps if accesses > step.above and _within(since_s, step.within_s))
        longer = hit_rate is not None and hit_rate < self.hit_rate
        ttl_s = self._longer[step.ttl_s] if longer else step.ttl_s
        return Choice(min(max(ttl_s, self.min_s), self.max_s), step, longer)


def _within(since_s: float, limit_s: float) -> bool:
    return since_s < limit_s or math.isinf(limit_s)


class HitRate:
    """The hit rate of the reads of the last window or two, from counters that only rise.

    Args:
        window_s: After so long what was counted before counts half.
    """

    __slots__ = ("_ages_at", "_hits", "_reads", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._hits = 0.0
        self._reads = 0.0
        self._ages_at = -math.inf

    def of(self, hits: int, reads: int, now: float) -> float | None:
        """Return the rate; None while there were too few reads to tell.

        Args:
            hits: All reads so far that found a value.
            reads: All reads so far.
            now: The time.
        """
        if now >= self._ages_at:
            if not math.isinf(self._ages_at):  # half of what is counted since then goes
                self._hits, self._reads = (self._hits + hits) / 2, (self._reads + reads) / 2
            self._ages_at = now + self._window_s
        recent = reads - self._reads
        return (hits - self._hits) / recent if recent >= _ENOUGH_READS else None
