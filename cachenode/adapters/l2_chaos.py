"""A shared store that fails on demand, around any other one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from cachenode.core.entries import L2Entry, L2Write
from cachenode.errors import L2Unavailable
from cachenode.ports import L2Store
from cachenode_api.selectors import Selector

__all__ = ["ChaosL2"]

T = TypeVar("T")


class ChaosL2:
    """An `L2Store` with faults. With none it behaves as the store inside.

    A *lost call* never reaches the store inside. A *lost reply* does: the store has done its work and the caller gets
    `L2Unavailable` all the same, which is what a timeout looks like and what a naive caller gets wrong.

    Args:
        inner: The store that does the work.
        random: Source of the dice; seed it to repeat a run.
        lose_call: Probability that a call is lost on the way in.
        lose_reply: Probability that a reply is lost on the way out.
        delay: Probability that a call waits for `delay_s` first.
        delay_s: How long a delayed call waits.
        sleep: How to wait; simulations bring their own.

    Attributes:
        down: While True every call is lost.
        lose_call: As the argument; may be set at will, as may be the next three.
        lose_reply: As the argument.
        delay: As the argument.
        delay_s: As the argument.
    """

    def __init__(
        self,
        inner: L2Store,
        random: Random,
        *,
        lose_call: float = 0.0,
        lose_reply: float = 0.0,
        delay: float = 0.0,
        delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.down = False
        self.lose_call = lose_call
        self.lose_reply = lose_reply
        self.delay = delay
        self.delay_s = delay_s
        self._inner = inner
        self._random = random
        self._sleep = sleep

    @property
    def history(self) -> int:
        """That of the store inside."""
        return self._inner.history

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key, unless a fault strikes."""
        return await self._struck(lambda: self._inner.read(namespace, keys))

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Store values, unless a fault strikes."""
        return await self._struck(lambda: self._inner.write(namespace, writes))

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        """Let values live longer, unless a fault strikes."""
        return await self._struck(lambda: self._inner.prolong(namespace, lives))

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Remove values, unless a fault strikes."""
        return await self._struck(lambda: self._inner.drop(namespace, drops))

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Keep barriers, unless a fault strikes."""
        await self._struck(lambda: self._inner.note_barriers(namespace, barriers))

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        """Return the barriers that are kept, unless a fault strikes."""
        return await self._struck(self._inner.barriers)

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Take a lock, unless a fault strikes."""
        return await self._struck(lambda: self._inner.lock(namespace, key, token, ttl_s))

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        """Give a lock back, unless a fault strikes."""
        return await self._struck(lambda: self._inner.unlock(namespace, key, token))

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return some keys, unless a fault strikes."""
        return await self._struck(lambda: self._inner.keys(namespace, cursor))

    async def ping(self) -> None:
        """Return if the store inside answers, unless a fault strikes."""
        await self._struck(self._inner.ping)

    async def close(self) -> None:
        """Close the store inside. No fault strikes here."""
        await self._inner.close()

    async def _struck(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._random.random() < self.delay:
            await self._sleep(self.delay_s)
        if self.down or self._random.random() < self.lose_call:
            raise L2Unavailable("the shared store is unavailable: a call was lost on purpose")
        result = await call()
        if self._random.random() < self.lose_reply:
            raise L2Unavailable("the shared store is unavailable: a reply was lost on purpose")
        return result
