"""What the accesses of a namespace's keys decide: how long a value lives, and whether a loaded one is kept at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cachenode.core.adaptive_ttl import AdaptiveTtl, Choice, HitRate, parse_step
from cachenode.core.frequency import Frequency
from cachenode.core.policy import NamespacePolicy

__all__ = ["Demand", "Wanted"]


class Wanted(NamedTuple):
    """How much a key is wanted, and what follows from it.

    `since_s` are the seconds since the access before the newest, infinite if there was none; `hit_rate` is the
    namespace's, None if it is not known; `choice` is the TTL that a value would get, None if TTLs are not adaptive.
    """

    accesses: int
    since_s: float
    hit_rate: float | None
    choice: Choice | None


class Demand:
    """The accesses of one namespace, as its owner sees them: what a near cache answers is not among them.

    Args:
        policy: Of the namespace.

    Attributes:
        ttls: TTLs given.
        ttl_s: Their sum.
        admitted: Loaded values that were kept.
        not_admitted: Those that were handed out and not kept.
    """

    __slots__ = (
        "_adaptive",
        "_admit_after",
        "_frequency",
        "_rate",
        "admitted",
        "not_admitted",
        "note",
        "ttl_s",
        "ttls",
    )

    def __init__(self, policy: NamespacePolicy) -> None:
        self._frequency = Frequency(policy.demand_window_s)
        self.note = self._frequency.add
        self.change(policy)
        self._rate = HitRate(policy.demand_window_s)
        self.ttls = 0
        self.ttl_s = 0.0
        self.admitted = 0
        self.not_admitted = 0

    def change(self, policy: NamespacePolicy) -> None:
        """Decide by another policy from now on; what was counted stays."""
        self._adaptive = _rule(policy) if policy.adaptive_ttl else None
        self._admit_after = policy.admit_after

    @staticmethod
    def wanted(policy: NamespacePolicy) -> bool:
        """Return True if the accesses of a namespace decide anything."""
        return policy.adaptive_ttl or policy.admit_after > 1

    @property
    def gives_ttls(self) -> bool:
        """True if values that bring no TTL of their own get one from here."""
        return self._adaptive is not None

    def of(self, key: bytes, hits: int, reads: int, now: float) -> Wanted:
        """Return how much a key is wanted.

        Args:
            key: The key.
            hits: All reads of the namespace so far that found a value.
            reads: All reads of the namespace so far.
            now: The time.
        """
        accesses, since_s = self._frequency.count(key, now), self._frequency.since(key, now)
        rate = self._rate.of(hits, reads, now)
        choice = self._adaptive.choose(accesses, since_s, rate) if self._adaptive is not None else None
        return Wanted(accesses, since_s, rate, choice)

    def lives(self, keys: Iterable[bytes], hits: int, reads: int, now: float) -> list[float]:
        """Return the TTL of each key; the arguments are those of `of`."""
        choices = [self.of(key, hits, reads, now).choice for key in keys]
        lives = [choice.ttl_s for choice in choices if choice is not None]
        self.ttls += len(lives)
        self.ttl_s += sum(lives)
        return lives

    def admits(self, key: bytes, now: float) -> bool:
        """Return True if a loaded value is to be kept: its key was asked for often enough, this time included."""
        admitted = self._frequency.count(key, now) >= self._admit_after
        self.admitted += admitted
        self.not_admitted += not admitted
        return admitted

    def __repr__(self) -> str:
        return f"<Demand {self._frequency!r}>"


def _rule(policy: NamespacePolicy) -> AdaptiveTtl:
    steps = [parse_step(text) for text in policy.adaptive_steps]
    return AdaptiveTtl(steps, policy.adaptive_min_s, policy.adaptive_max_s, policy.adaptive_hit_rate)
