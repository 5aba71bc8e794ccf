"""What a region keeps of its links, failing on demand, around any other such store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from cachenode.core.regions import Cursor, Outgoing, RegionEntry
from cachenode.errors import L2Unavailable
from cachenode.ports import RegionStore

__all__ = ["ChaosRegions"]

T = TypeVar("T")


class ChaosRegions:
    """A `RegionStore` with faults. With none it behaves as the store inside.

    A *lost call* never reaches the store inside. A *lost reply* does: an entry is in the outbox, or a cursor has moved,
    and the caller does not know.

    Args:
        inner: The store that does the work.
        random: Source of the dice; seed it to repeat a run.

    Attributes:
        down: While True nothing is reached.
        lose_call: Probability that a call is lost on the way in.
        lose_reply: Probability that a reply is lost on the way out.
    """

    def __init__(self, inner: RegionStore, random: Random, *, lose_call: float = 0.0, lose_reply: float = 0.0) -> None:
        self.down = False
        self.lose_call = lose_call
        self.lose_reply = lose_reply
        self._inner = inner
        self._random = random

    async def append(self, entries: Sequence[RegionEntry]) -> None:
        """Add entries, unless a fault strikes."""
        await self._struck(lambda: self._inner.append(entries))

    async def fetch(
        self, remote: str, sender: str, *, lease_s: float, after: Cursor | None, most: int
    ) -> Outgoing | None:
        """Take the link and return what is to be told, unless a fault strikes."""
        return await self._struck(lambda: self._inner.fetch(remote, sender, lease_s=lease_s, after=after, most=most))

    async def release(self, remote: str, sender: str) -> None:
        """Give the link back, unless a fault strikes."""
        await self._struck(lambda: self._inner.release(remote, sender))

    async def pause(self, remote: str, *, paused: bool) -> None:
        """Have nothing sent any more, or again, unless a fault strikes."""
        await self._struck(lambda: self._inner.pause(remote, paused=paused))

    async def cursor(self, origin: str) -> Cursor | None:
        """Return a cursor, unless a fault strikes."""
        return await self._struck(lambda: self._inner.cursor(origin))

    async def advance(self, origin: str, known: Cursor | None, to: Cursor) -> bool:
        """Move a cursor, unless a fault strikes."""
        return await self._struck(lambda: self._inner.advance(origin, known, to))

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()

    async def _struck(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.down or self._random.random() < self.lose_call:
            raise L2Unavailable("the call was lost on purpose")
        result = await call()
        if self._random.random() < self.lose_reply:
            raise L2Unavailable("the reply was lost on purpose")
        return result
