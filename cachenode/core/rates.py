"""How many keys a second each identity may ask a node for: token buckets, one for each name in the file of tokens.

A bucket holds two seconds' worth and fills evenly, so bursts are taken and long runs are not. A call is taken whole as
long as anything is left, and what it takes beyond that is owed: a large batch is let in and the next waits the longer,
where refusing what never fits would starve it for good.
"""

from __future__ import annotations

from cachenode.core.access import Grant, Role

__all__ = ["Bucket", "Rates"]

_BURST_S = 2.0


class Bucket:
    """What one identity may still ask for.

    Args:
        per_s: Keys a second.
        now: The time.
    """

    __slots__ = ("_at", "_left", "per_s")

    def __init__(self, per_s: float, now: float) -> None:
        self.per_s = per_s
        self._left = per_s * _BURST_S
        self._at = now

    def take(self, keys: int, now: float, *, anyway: bool = False) -> float:
        """Take keys out. Return 0, or the seconds after which there are some again: then nothing was taken.

        Args:
            keys: How many; a call without keys counts as one.
            now: The time.
            anyway: Whether they are taken even where nothing is left.
        """
        self._left = min(self._left + (now - self._at) * self.per_s, self.per_s * _BURST_S)
        self._at = now
        if self._left < min(1.0, self.per_s) and not anyway:
            return (min(1.0, self.per_s) - self._left) / self.per_s
        self._left -= max(keys, 1)
        return 0.0


class Rates:
    """The buckets of all identities.

    Args:
        per_s: Keys a second of those that have no limit of their own; 0: any number.

    Attributes:
        refused: Calls and batches that were refused.
    """

    __slots__ = ("_buckets", "_per_s", "refused")

    def __init__(self, per_s: float = 0.0) -> None:
        self._per_s = per_s
        self._buckets: dict[str, Bucket] = {}
        self.refused = 0

    def of(self, grant: Grant, now: float) -> Bucket | None:
        """Return the bucket of who has a grant; None if it may ask for any number, as peers may."""
        per_s = grant.keys_per_s or self._per_s
        if not per_s or grant.role is Role.PEER:
            return None
        bucket = self._buckets.get(grant.name)
        if bucket is None:  # as many as there are names in the file
            bucket = self._buckets[grant.name] = Bucket(per_s, now)
        bucket.per_s = per_s
        return bucket
