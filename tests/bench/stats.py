"""Pure statistics of the benchmark: order of rounds, medians, spreads, ratios, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Better", "Outcome", "Summary", "judge", "ratio_of", "round_order", "summarise"]

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One contender's rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A comparison: `ratio` above 1 means that we are ahead, whichever way the unit is better."""

    ratio: float
    low: float
    high: float
    met: bool | None


def round_order(contenders: int, rounds: int) -> list[list[int]]:
    """Return who is measured when: each round visits all, every second one backwards (ABBA), so that drift cancels."""
    forwards = list(range(contenders))
    return [forwards if at % 2 == 0 else forwards[::-1] for at in range(rounds)]


def summarise(rounds: Sequence[float]) -> Summary:
    """Return median, lowest and highest of the rounds.

    Raises:
        ValueError: There is no round, or one is not a positive number: nothing real measures zero.
    """
    if not rounds or not all(0 < value < float("inf") for value in rounds):
        raise ValueError("a contender's rounds are missing or not positive")
    return Summary(statistics.median(rounds), min(rounds), max(rounds))


def ratio_of(ours: float, peer: float, better: Better) -> float:
    """Return by how much we are ahead: ours / peer where higher is better, peer / ours where lower is."""
    return ours / peer if better == "higher" else peer / ours


def judge(ours: Sequence[float], peer: Sequence[float], better: Better, *, target: float | None) -> Outcome:
    """Compare two contenders round by round and by their medians.

    The ratio is that of the medians; the spread is that of the rounds, each against the peer's of the same number.

    Returns:
        `met` is None where there is no target.
    """
    ratio = ratio_of(summarise(ours).median, summarise(peer).median, better)
    paired = [ratio_of(mine, other, better) for mine, other in zip(ours, peer, strict=True)]
    return Outcome(ratio, min(paired), max(paired), None if target is None else ratio >= target)
