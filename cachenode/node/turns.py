"""Whose turn it is to change a key by what it is now: one at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Turns"]


class Turns:
    """The turns of the keys of one namespace; a key that nobody waits for takes no memory."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[bytes, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: bytes) -> AsyncIterator[None]:
        """Wait for a turn of the key, and hold it."""
        lock, users = self._by_key.get(key) or (asyncio.Lock(), 0)
        self._by_key[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._by_key.pop(key)
            if users > 1:
                self._by_key[key] = lock, users - 1

    def __len__(self) -> int:
        return len(self._by_key)
