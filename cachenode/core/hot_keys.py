"""Which keys other nodes ask for so often that they had better keep a copy.

The owner counts the reads that other nodes forward to it, exactly, by windows of a second: forwarded reads are few
beside a node's own, and a window's table is thrown away with it. A key that reaches the rate is hot for some seconds
and stays so for as long as it is asked for; one that cools is forgotten.

A copy takes its reads away from the count. So a hot key cools while it is copied, the copies fade, the reads come back
and make it hot again: one burst in `KEEP_S`, in place of all its reads.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["KEEP_S", "HotKeys"]

KEEP_S = 10.0
"""How long a key stays hot, and its copies are kept, after the rate was last seen."""
_WINDOW_S = 1.0


class HotKeys:
    """The keys that are asked for often.

    Args:
        per_s: Reads within a second that make a key hot; 0 counts nothing.
        limit: Most keys counted in a window: more are not hot ones.
    """

    __slots__ = ("_counts", "_ends_at", "_hot", "_limit", "_per_s")

    def __init__(self, per_s: int, *, limit: int = 10_000) -> None:
        self._per_s = per_s
        self._limit = limit
        self._counts: dict[Hashable, int] = {}
        self._hot: dict[Hashable, float] = {}
        self._ends_at = 0.0

    def count(self, key: Hashable, now: float) -> bool:
        """Count a read. Return True if the key is hot."""
        if not self._per_s:
            return False
        if now >= self._ends_at:
            self._turn(now)
        reads = self._counts.get(key, 0) + 1
        if reads > 1 or len(self._counts) < self._limit:
            self._counts[key] = reads
        if reads >= self._per_s:
            self._hot[key] = now + KEEP_S
            return True
        return bool(self._hot) and self._hot.get(key, 0.0) > now

    def _turn(self, now: float) -> None:
        self._ends_at = now + _WINDOW_S
        self._counts.clear()
        if self._hot:
            self._hot = {key: until for key, until in self._hot.items() if until > now}

    def __len__(self) -> int:
        return len(self._hot)

    def __repr__(self) -> str:
        return f"<HotKeys {len(self._hot)} hot, {len(self._counts)} counted>"
