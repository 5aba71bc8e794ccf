"""When loaded values are due to be loaded anew, before their life ends: so that no caller has to wait for it.

A value that a caller has loaded gets two ends. At the *soft* one, its TTL, it should be replaced; at the *hard* one,
`stale_s` later, it is gone. From its *due* time on the first caller who asks is given the value at once together with
the right to load it anew; all others are given the value. The due time is the earliest of

- the soft end (stale-while-revalidate, RFC 5861);
- `ahead`, as a fraction of the TTL, before it (refresh-ahead: only what is asked for is renewed);
- ``load_s * beta * E`` before it, E drawn from the exponential distribution of mean 1 (XFetch: Vattani, Chierichetti,
  Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015, algorithm 1, where the draw is
  ``-ln(rand())``). It is drawn once for each value, by the owner, and not for each request: one renews for all anyway,
  so all that is left to do is to let values of one age fall due at different times, dear ones earlier.

A renewal that fails leaves the value as it is (stale-if-error), and pauses the key's loads for a while
(`cachenode.core.load_backoff`). What was written by somebody is not due before its life ends: that costs its next
caller one load. What was loaded and came here from L2, or from a former owner, says by its flags that its life was
extended: it is due at its soft end, and not before (`Reads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cachenode.core.policy import NamespacePolicy

__all__ = ["Renewals", "spread_ttl"]

_NOT_BEFORE = 0.1
"""No value is due in this first part of its TTL, however long it took to load: else it would be loaded all the time."""
_NEVER = (math.inf, math.inf)
_LOOKED_AT = 2
"""Notes that are looked at for every new one, oldest first: those of values that are gone go."""


def spread_ttl(ttl_s: float, jitter: float, draw: float) -> float:
    """Return a TTL that is shorter by up to the fraction `jitter`: what is stored at once should not end at once.

    Args:
        ttl_s: The longest life.
        jitter: 0 for none, below 1.
        draw: From [0, 1).
    """
    return ttl_s if math.isinf(ttl_s) else ttl_s * (1.0 - jitter * draw)


class Renewals:
    """The due times of one namespace's loaded values.

    Args:
        policy: Of the namespace.
        draw: Returns numbers of an exponential distribution of mean 1.
    """

    __slots__ = ("_ahead", "_beta", "_draw", "_due", "_wanted")

    def __init__(self, policy: NamespacePolicy, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._due: dict[bytes, tuple[int, float, float]] = {}
        self.change(policy)

    def change(self, policy: NamespacePolicy) -> None:
        """Follow another policy for what is stored from now on.

        What is here keeps its ends: it was stored to be served stale until its hard one, and must be marked until then
        (``test_values_stored_before_are_still_marked``).
        """
        self._ahead = policy.refresh_ahead
        self._beta = policy.xfetch_beta
        self._wanted = self.wanted(policy)

    @staticmethod
    def wanted(policy: NamespacePolicy) -> bool:
        """Return True if values of a namespace are ever renewed."""
        return bool(policy.stale_s or policy.refresh_ahead or policy.xfetch_beta)

    def note(
        self,
        key: bytes,
        version: int,
        now: float,
        ttl_s: float,
        load_s: float,
        present: Callable[[bytes], bool],
        *,
        stale_s: float = 0.0,
    ) -> None:
        """Take note that a value has been loaded and stored.

        Args:
            key: Its key.
            version: Its version: another one is not meant.
            now: When it was stored.
            ttl_s: Seconds to its soft end.
            load_s: Seconds that loading took.
            present: Whether a key is in memory.
            stale_s: For how long after its soft end it is kept.
        """
        self._due.pop(key, None)
        self._look_through(present)
        if math.isinf(ttl_s) or not (self._wanted or stale_s):
            return
        before_s = max(self._ahead * ttl_s, load_s * self._beta * self._draw() if self._beta else 0.0)
        soft = now + ttl_s
        self._due[key] = version, max(soft - before_s, now + _NOT_BEFORE * ttl_s), soft

    def _look_through(self, present: Callable[[bytes], bool]) -> None:
        for _ in range(min(_LOOKED_AT, len(self._due))):
            oldest = next(iter(self._due))
            due = self._due.pop(oldest)
            if present(oldest):
                self._due[oldest] = due

    def ends(self, key: bytes, version: int) -> tuple[float, float]:
        """Return when a value is due and when its TTL ends; infinite if that is not known: only its hard end counts."""
        known = self._due.get(key)
        return known[1:] if known is not None and known[0] == version else _NEVER

    def __len__(self) -> int:
        return len(self._due)

    def __repr__(self) -> str:
        return f"<Renewals of {len(self._due)} keys>"
