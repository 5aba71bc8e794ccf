"""The shared store of a node that has none."""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.entries import L2Entry, L2Write
from cachenode_api.selectors import Selector

__all__ = ["NullL2"]


class NullL2:
    """An `L2Store` that forgets at once: every write is accepted, nothing is ever found. Never raises."""

    history = 0

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return None for each key."""
        del namespace
        return [None] * len(keys)

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Return True for each write."""
        del namespace
        return [True] * len(writes)

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        """Return False for each value."""
        del namespace
        return [False] * len(lives)

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Return False for each key."""
        del namespace
        return [False] * len(drops)

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Return."""

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        """Return none."""
        return []

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Return True: there is nobody to share it with."""
        del namespace, key, token, ttl_s
        return True

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        """Return True."""
        del namespace, key, token
        return True

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return none."""
        del namespace, cursor
        return [], 0

    async def ping(self) -> None:
        """Return."""

    async def close(self) -> None:
        """Return."""
