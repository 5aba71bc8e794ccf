"""Loads that failed are not tried again at once: what is down is not helped by being asked a thousand times a second.

After a failure a key's next load waits for `first_s`, after each further one for twice as long, `max_s` at most. Who
asks meanwhile is told the failure. Only the moment is kept, never a value: errors are not cached as answers.
"""

from __future__ import annotations

__all__ = ["LoadBackoff"]


class LoadBackoff:
    """The keys of one namespace whose last load failed.

    Args:
        first_s: Pause after the first failure.
        max_s: Longest pause.
        limit: Most keys; beyond it the oldest is forgotten.
    """

    __slots__ = ("_by_key", "_first_s", "_limit", "_max_s")

    def __init__(self, *, first_s: float = 0.1, max_s: float = 5.0, limit: int = 10_000) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._limit = limit
        self._by_key: dict[bytes, tuple[float, float]] = {}

    def failed(self, key: bytes, now: float) -> None:
        """A load of the key has failed."""
        _, pause = self._by_key.pop(key, (0.0, self._first_s / 2))
        pause = min(self._max_s, 2 * pause)
        self._by_key[key] = (now + pause, pause)
        if len(self._by_key) > self._limit:
            del self._by_key[next(iter(self._by_key))]

    def succeeded(self, key: bytes) -> None:
        """The key has a value."""
        if self._by_key:
            self._by_key.pop(key, None)

    def left_s(self, key: bytes, now: float) -> float:
        """Return for how long no load of the key should begin, 0 if one may now."""
        if not self._by_key:
            return 0.0
        known = self._by_key.get(key)
        return max(0.0, known[0] - now) if known is not None else 0.0

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"<LoadBackoff {len(self._by_key)} keys>"
