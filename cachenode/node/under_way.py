"""The writes under way, for those who wait until they are done.

A node that leaves must not refuse what has been seen here (``test_node_that_leaves_ends_its_writes_first``): it begins
no more writes, and waits until none is under way. Who wants to know of every change from some moment on waits only for
the writes that began before it: later ones know that they are noted, and under load there is always one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["UnderWay"]

T = TypeVar("T")


class UnderWay:
    """Counts the writes of this node's own keys."""

    __slots__ = ("_begun", "_ended", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}
        """Of the writes under way, the oldest first."""
        self._begun = 0
        self._ended = asyncio.Event()

    async def ended(self) -> None:
        """Return when no write of this node's own keys is under way. None may begin meanwhile (`Node.closing`)."""
        await asyncio.sleep(0)  # what has begun in this turn
        while self._numbers:
            self._ended.clear()
            await self._ended.wait()

    async def turned(self) -> None:
        """Return when no write of this node's own keys is under way that is under way now."""
        await asyncio.sleep(0)
        last = self._begun
        while self._numbers and next(iter(self._numbers)) <= last:
            self._ended.clear()
            await self._ended.wait()

    async def counted(self, rest: Coroutine[Any, Any, T]) -> T:
        """Await something that `ended` waits for."""
        self._begun += 1
        number = self._begun
        self._numbers[number] = None
        try:
            return await rest
        finally:
            del self._numbers[number]
            self._ended.set()
