"""How hard an origin may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["OriginLimits", "Priority"]


class Priority(IntEnum):
    """Who goes first when an origin is busy."""

    DEMAND = 0
    REFRESH = 1
    WARMING = 2


@dataclass(frozen=True, slots=True)
class OriginLimits:
    """How hard one node may ask one origin. The configuration makes it.

    Attributes:
        concurrency: Calls at a time; more keys wait.
        timeout_s: Longest duration of one call.
        attempts: Calls for a key until it counts as failed.
        first_pause_s: Pause before the second attempt, doubled with each further one, each shorter by up to half at
            random, so that several nodes do not come back at the same moment.
        max_pause_s: Longest pause.
        window_s: How long the first key of a batch waits for others; 0: for those of the same turn of the loop.
        breaker_failures: Failed calls in a row after which the origin is left alone.
        breaker_retry_s: For how long.
        soft_timeout_s: How long a read waits for the load of a value that there is, past its TTL; 0: not at all.
    """

    concurrency: int = 16
    timeout_s: float = 5.0
    attempts: int = 3
    first_pause_s: float = 0.05
    max_pause_s: float = 1.0
    window_s: float = 0.0
    breaker_failures: int = 5
    breaker_retry_s: float = 1.0
    soft_timeout_s: float = 0.0

    def pause_s(self, attempt: int, draw: float) -> float:
        """Return the pause after a failed attempt.

        Args:
            attempt: How many attempts have failed, from 1 on.
            draw: From [0, 1).
        """
        return min(self.max_pause_s, self.first_pause_s * 2.0 ** (attempt - 1)) * (1.0 - draw / 2)
