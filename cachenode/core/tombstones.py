"""What was removed lately, and under which version: nothing as old may be stored in memory again.

Why: a write of a key may have been taken by L2 while its answer is still on the way. If a removal of the key is done
in that moment, the write comes back to an empty place, and nothing but the tombstone says that it is the older of the
two (``test_delete_during_set_is_not_undone``).

Tombstones are kept for longer than any write or fill can take. If there are too many, the oldest become a floor:
everything up to its version is refused. That refuses more than it must, never less.
"""

from __future__ import annotations

__all__ = ["Tombstones"]


class Tombstones:
    """The tombstones of one namespace.

    Args:
        keep_s: How long a removal is remembered.
        limit: Most keys remembered one by one.
    """

    __slots__ = ("_by_key", "_floor", "_floor_until", "_keep_s", "_limit")

    def __init__(self, *, keep_s: float = 60.0, limit: int = 100_000) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._by_key: dict[bytes, tuple[int, float]] = {}
        self._floor = 0
        self._floor_until = 0.0

    def note(self, key: bytes, version: int, now: float) -> None:
        """Remember that the key was removed under this version."""
        known = self._by_key.pop(key, None)  # so that the youngest is the last
        self._by_key[key] = (version if known is None else max(version, known[0]), now + self._keep_s)
        self._prune(now)

    def forget(self, key: bytes, version: int) -> None:
        """Forget a removal that was not done after all, unless a later one was noted since."""
        known = self._by_key.get(key)
        if known is not None and known[0] == version:
            del self._by_key[key]

    def covers(self, key: bytes, version: int, now: float) -> bool:
        """Return True if a value of this version must not be stored any more."""
        known = self._by_key.get(key)
        if known is not None and version <= known[0]:
            return True
        return version <= self._floor and now < self._floor_until

    def version_of(self, key: bytes, now: float) -> int:
        """Return the version under which the key was removed lately, 0 if it was not."""
        version, until = self._by_key.get(key, (0, 0.0))
        return version if now < until else 0

    def _prune(self, now: float) -> None:
        by_key = self._by_key
        while by_key:
            key = next(iter(by_key))
            version, until = by_key[key]
            if until > now:
                if len(by_key) <= self._limit:
                    return
                self._floor, self._floor_until = max(self._floor, version), until
            del by_key[key]

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"<Tombstones {len(self._by_key)} floor={self._floor}>"
