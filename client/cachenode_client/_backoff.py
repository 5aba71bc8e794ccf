"""When to try again: a schedule under a deadline, and a budget that keeps retries a small part of all calls.

Pure: the clock and the random numbers are arguments. Two things make a retry dangerous, and each has its remedy here.
Clients that failed together would come back together, so a delay is drawn evenly from zero up to a limit that doubles
with each attempt ("full jitter"). And in an outage every call would become several, so retries are paid from a bucket
that fills with a tenth of a retry per call: when nearly everything fails, nearly nothing is tried twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

__all__ = ["RetryBudget", "Schedule"]

_MAX_DOUBLINGS = (
    64  # Beyond any sensible limit; an unbounded power of two would overflow in a client that reconnects for days.
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Exponential back-off with full jitter.

    Attributes:
        first_s: The limit of the first delay; each further one is twice as long.
        max_s: No delay is longer.
        retries: How many tries may follow the first one; None for no end (reconnecting).
    """

    first_s: float = 0.02
    max_s: float = 5.0
    retries: int | None = 3

    def limit_s(self, retry: int) -> float:
        """Return the longest delay before a retry, counted from 0."""
        return min(self.max_s, self.first_s * 2.0 ** min(retry, _MAX_DOUBLINGS))

    def delay_s(self, retry: int, rng: Random, *, now: float, deadline: float) -> float | None:
        """Return how long to wait before a retry, or None to give up.

        Args:
            retry: Number of the retry, counted from 0.
            rng: Source of the jitter.
            now: The present time.
            deadline: When the call's time is over, on the clock of `now`; infinite if never.

        Returns:
            A delay that ends before the deadline. None if there are no retries left, or if the delay drawn would end
            at or after the deadline: waiting longer for an answer that cannot come in time helps nobody.
        """
        if self.retries is not None and retry >= self.retries:
            return None
        delay = rng.random() * self.limit_s(retry)
        return delay if now + delay < deadline else None


@dataclass(slots=True, kw_only=True)
class RetryBudget:
    """A token bucket that pays for retries.

    Guarantee: up to any moment, retries ≤ ``max_tokens + ratio × calls + per_s × seconds``. Not thread-safe.

    Attributes:
        ratio: Retries that one call earns.
        per_s: Retries that one second earns, so that a client with few calls may retry too.
        max_tokens: Most retries that can be saved up.
        tokens: Retries that may be made now. A full bucket at first.
        at: When `tokens` was last brought up to date.
    """

    ratio: float = 0.1
    per_s: float = 3.0
    max_tokens: float = 10.0
    tokens: float = 10.0
    at: float = 0.0

    def record_call(self) -> None:
        """Note a first try, which earns a part of a retry."""
        self.tokens = min(self.max_tokens, self.tokens + self.ratio)

    def try_spend(self, now: float) -> bool:
        """Pay for one retry; False if there is nothing left, and the failure must be reported instead."""
        earned = max(0.0, now - self.at) * self.per_s
        self.at = max(self.at, now)
        self.tokens = min(self.max_tokens, self.tokens + earned)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
