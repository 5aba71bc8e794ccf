"""What the Bloom filter of a namespace has counted on one node."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BloomCounters"]


@dataclass(frozen=True, slots=True)
class BloomCounters:
    """One namespace's filter on one node.

    Attributes:
        state: "none" (never built), "ready", "partial" (it says nothing about keys that moved since it was begun) or
            "suspended" (a barrier by tag came: it says nothing at all).
        building: True while a rebuild is under way.
        absences: Reads that it answered: no value.
        passed: Reads of keys that it has, which were looked for.
        skipped: Reads of keys about which it may say nothing.
        false_positives: Loads of keys that it has, of which the origin had none.
        rebuilds: How often a new one was put in use.
        failures: Rebuilds that this node led and that failed.
        source: Where the one in use comes from: "built", "merged" or "saved" (`Source`), "" without one.
        merges: How often a merge was put in use, instead of a list of the origin's keys.
        refusals: Merges that this node led and that could not be believed, so that the origin had to be listed.
        saves: How often this node has saved what it knows.
        bytes: What it takes of memory, the one that is being built included.
        expected: Keys it has room for.
        listed: Keys that the last rebuild found.
        fill: Part of its bits that are set, when it was put in use.
        age_s: Seconds since the origin's keys were listed; negative if never.
    """

    state: str = "none"
    building: bool = False
    absences: int = 0
    passed: int = 0
    skipped: int = 0
    false_positives: int = 0
    rebuilds: int = 0
    failures: int = 0
    source: str = ""
    merges: int = 0
    refusals: int = 0
    saves: int = 0
    bytes: int = 0
    expected: int = 0
    listed: int = 0
    fill: float = 0.0
    age_s: float = -1.0

    @property
    def false_positive_rate(self) -> float:
        """Loads that found nothing, of the reads that passed; 0 without any."""
        return self.false_positives / self.passed if self.passed else 0.0
