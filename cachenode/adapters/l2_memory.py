"""The shared store in a dict, for tests and simulations: the contract of the Redis one, on an injected clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cachenode.core.entries import L2Entry, L2Write
from cachenode.ports import Clock
from cachenode_api.selectors import Selector

__all__ = ["MemoryL2"]


class _Slot(NamedTuple):
    value: bytes | None  # None: a tombstone
    flags: int
    version: int
    deadline: float
    position: int = 0


class MemoryL2:
    """An `L2Store` in memory.

    It has no budget: a tombstone or an expired value is freed when its key is next used, not before.

    Args:
        clock: For deadlines.
        tombstone_s: How long a drop refuses older writes.
    """

    def __init__(self, clock: Clock, *, tombstone_s: float = 60.0) -> None:
        self.history = 0
        self._clock = clock
        self._tombstone_s = tombstone_s
        self._slots: dict[tuple[str, bytes], _Slot] = {}
        self._barriers: dict[tuple[str, Selector], int] = {}
        self._locks: dict[tuple[str, bytes], tuple[bytes, float]] = {}

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key, None where there is none."""
        now = self._clock.now()
        return [self._entry(namespace, key, now) for key in keys]

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Store each value whose version is higher than the stored one's (a tombstone's counts too)."""
        now = self._clock.now()
        done = []
        for write in writes:
            stored = self._live(namespace, write.key, now)
            newer = stored is None or write.version > stored.version
            if newer:
                deadline = now + max(write.ttl_s, 0.001)
                self._slots[namespace, write.key] = _Slot(
                    write.value, write.flags, write.version, deadline, write.position
                )
            done.append(newer)
        return done

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        """Let values live longer that are still there in their version."""
        now = self._clock.now()
        done = []
        for key, version, ttl_s in lives:
            stored = self._live(namespace, key, now)
            there = stored is not None and stored.value is not None and stored.version == version
            later = stored is not None and there and now + ttl_s > stored.deadline
            if stored is not None and later:
                self._slots[namespace, key] = stored._replace(deadline=now + ttl_s)
            done.append(later)
        return done

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Remove each key whatever version it has, leaving a tombstone."""
        now = self._clock.now()
        done = []
        for key, version in drops:
            stored = self._live(namespace, key, now)
            highest = version if stored is None else max(version, stored.version)
            self._slots[namespace, key] = _Slot(None, 0, highest, now + self._tombstone_s)
            done.append(stored is not None and stored.value is not None)
        return done

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Keep barriers."""
        for position, selector in barriers:
            kept = namespace, selector
            self._barriers[kept] = max(position, self._barriers.get(kept, 0))

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        """Return the barriers that are kept."""
        return [(namespace, position, selector) for (namespace, selector), position in self._barriers.items()]

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Take the lock of a key, or prolong it."""
        now, place = self._clock.now(), (namespace, key)
        held_by, until = self._locks.get(place, (token, now))
        if held_by != token and now < until:
            return False
        self._locks[place] = token, now + ttl_s
        return True

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        """Give the lock of a key back, if the token still has it."""
        held_by, until = self._locks.get((namespace, key), (b"", 0.0))
        if held_by != token or self._clock.now() >= until:
            return False
        del self._locks[namespace, key]
        return True

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return all keys of a namespace."""
        del cursor
        return [key for name, key in self._slots if name == namespace], 0

    def stored(self, namespace: str, key: bytes) -> tuple[int, bool]:
        """Return the version under which a key is stored or was removed, 0 for none, and whether there is a value."""
        slot = self._live(namespace, key, self._clock.now())
        return (0, False) if slot is None else (slot.version, slot.value is not None)

    def forget(self) -> None:
        """Begin anew, empty, as a server that was restarted."""
        self.history += 1
        self._slots.clear()
        self._locks.clear()
        self._barriers.clear()

    async def ping(self) -> None:
        """Return: memory always answers."""

    async def close(self) -> None:
        """Keep everything: another user of this object may go on."""

    def _live(self, namespace: str, key: bytes, now: float) -> _Slot | None:
        slot = self._slots.get((namespace, key))
        if slot is None or now < slot.deadline:
            return slot
        del self._slots[namespace, key]
        return None

    def _entry(self, namespace: str, key: bytes, now: float) -> L2Entry | None:
        slot = self._live(namespace, key, now)
        if slot is None or slot.value is None:
            return None
        remaining = math.inf if math.isinf(slot.deadline) else slot.deadline - now
        return L2Entry(slot.value, slot.flags, slot.version, remaining, slot.position)
