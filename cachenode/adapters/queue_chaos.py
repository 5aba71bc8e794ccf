"""A write-behind queue that fails on demand, around any other one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from cachenode.core.entries import QueuedWrite
from cachenode.core.queued import DeadLetter, Fetched, Outcome, Put, QueueStatus
from cachenode.errors import L2Unavailable
from cachenode.ports import WriteQueue

__all__ = ["ChaosQueue"]

T = TypeVar("T")


class ChaosQueue:
    """A `WriteQueue` with faults. With none it behaves as the queue inside.

    A *lost call* never reaches the queue inside. A *lost reply* does: what was to be done is done, and the caller does
    not know.

    Args:
        inner: The queue that does the work.
        random: Source of the dice; seed it to repeat a run.

    Attributes:
        down: While True nothing is reached: puts are refused, all else fails.
        lose_call: Probability that a call is lost on the way in.
        lose_reply: Probability that a reply is lost on the way out.
    """

    def __init__(self, inner: WriteQueue, random: Random, *, lose_call: float = 0.0, lose_reply: float = 0.0) -> None:
        self.down = False
        self.lose_call = lose_call
        self.lose_reply = lose_reply
        self._inner = inner
        self._random = random

    @property
    def carries_values(self) -> bool:
        """As the queue inside."""
        return self._inner.carries_values

    async def put(self, namespace: str, writes: Sequence[QueuedWrite], most: int) -> list[Put]:
        """Queue writes, unless a fault strikes."""
        if self.down:
            return [Put(Outcome.REFUSED, why="the queue is down on purpose")] * len(writes)
        try:
            return await self._struck(lambda: self._inner.put(namespace, writes, most))
        except L2Unavailable as error:
            return [Put(Outcome.UNCERTAIN, why=str(error))] * len(writes)

    async def newest(self, namespace: str, keys: Sequence[bytes], most_bytes: int = 0) -> list[QueuedWrite | None]:
        """Return queued writes, unless a fault strikes."""
        return await self._struck(lambda: self._inner.newest(namespace, keys, most_bytes))

    async def fetch(
        self, namespace: str, shard: int, consumer: str, *, lease_s: float, most: int, claim: bytes = b""
    ) -> Fetched:
        """Take a shard, unless a fault strikes."""
        return await self._struck(
            lambda: self._inner.fetch(namespace, shard, consumer, lease_s=lease_s, most=most, claim=claim)
        )

    async def done(
        self, namespace: str, shard: int, consumer: str, applied: Sequence[tuple[bytes, bytes, int]]
    ) -> list[bool] | None:
        """Take keys out of the queue, unless a fault strikes."""
        return await self._struck(lambda: self._inner.done(namespace, shard, consumer, applied))

    async def bury(
        self, namespace: str, shard: int, consumer: str, dead: Sequence[tuple[bytes, bytes, int, int, str]]
    ) -> list[bool] | None:
        """Make dead letters, unless a fault strikes."""
        return await self._struck(lambda: self._inner.bury(namespace, shard, consumer, dead))

    async def release(self, namespace: str, shard: int, consumer: str) -> None:
        """Give a shard back, unless a fault strikes."""
        await self._struck(lambda: self._inner.release(namespace, shard, consumer))

    async def status(self, namespace: str) -> QueueStatus:
        """Return how much waits, unless a fault strikes."""
        return await self._struck(lambda: self._inner.status(namespace))

    async def dead_letters(self, namespace: str, after: bytes, most: int) -> list[DeadLetter]:
        """Return dead letters, unless a fault strikes."""
        return await self._struck(lambda: self._inner.dead_letters(namespace, after, most))

    async def replay(self, namespace: str, letters: Sequence[DeadLetter]) -> list[bool]:
        """Queue dead letters again, unless a fault strikes."""
        return await self._struck(lambda: self._inner.replay(namespace, letters))

    async def discard(self, namespace: str, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters, unless a fault strikes."""
        return await self._struck(lambda: self._inner.discard(namespace, letters))

    async def problems(self) -> list[str]:
        """Return those of the queue inside, unless a fault strikes."""
        return await self._struck(self._inner.problems)

    async def close(self) -> None:
        """Close the queue inside. No fault strikes here."""
        await self._inner.close()

    async def _struck(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.down or self._random.random() < self.lose_call:
            raise L2Unavailable("the queue is unavailable: a call was lost on purpose")
        result = await call()
        if self._random.random() < self.lose_reply:
            raise L2Unavailable("the queue is unavailable: a reply was lost on purpose")
        return result
