"""A circuit breaker as a state machine: it decides whether to call, and never calls anything itself.

::

    CLOSED ──N failures in a row──► OPEN ──retry_s passed──► HALF_OPEN ──success──► CLOSED
                                     ▲                           │
                                     └──────────failure──────────┘

HALF_OPEN has let exactly one probe through and refuses everybody else until that probe reports. A probe that never
reports (its caller was cancelled) is forgotten after another `retry_s`, or the breaker would stay shut for ever.

Outcomes of calls that left before the breaker opened arrive while it is OPEN. They are ignored: a late success says
nothing about the present, and a late failure must not push the next probe further away.

Failures are counted per caller, so one timed-out batch that carried several callers opens the breaker at once. That
is intended: each of them has paid the time limit already.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Breaker", "BreakerState"]


class BreakerState(Enum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Stops calls to something that keeps failing, and tries it again from time to time.

    Args:
        failures: So many failures in a row open it.
        retry_s: How long it stays open before one probe may pass.
    """

    __slots__ = ("_in_a_row", "_limit", "_retry_s", "_since", "_state")

    def __init__(self, *, failures: int = 3, retry_s: float = 1.0) -> None:
        if failures < 1 or retry_s < 0:
            raise ValueError("breaker: failures must be at least 1 and retry_s at least 0")
        self._limit = failures
        self._retry_s = retry_s
        self._state = BreakerState.CLOSED
        self._in_a_row = 0
        self._since = 0.0

    @property
    def state(self) -> BreakerState:
        """The state after the last event; time alone does not change it, only `allow` does."""
        return self._state

    def allow(self, now: float) -> bool:
        """Return True if a call may go out. Who gets True must report `succeeded` or `failed`."""
        if self._state is BreakerState.CLOSED:
            return True
        if now - self._since < self._retry_s:
            return False
        self._state, self._since = BreakerState.HALF_OPEN, now
        return True

    def succeeded(self, now: float) -> None:
        """Report a call that worked."""
        del now  # the same shape as `failed`, so that callers treat both alike
        if self._state is BreakerState.OPEN:
            return
        self._state, self._in_a_row = BreakerState.CLOSED, 0

    def failed(self, now: float) -> None:
        """Report a call that did not work."""
        if self._state is BreakerState.OPEN:
            return
        self._in_a_row += 1
        if self._state is BreakerState.HALF_OPEN or self._in_a_row >= self._limit:
            self._state, self._since = BreakerState.OPEN, now
