"""The write-behind queue in memory: a model of what `queue_redis` does, for tests and simulations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import L2Write, QueuedWrite
from cachenode.core.queued import SHARDS, DeadLetter, Fetched, Outcome, Put, QueueStatus, shard_of
from cachenode.ports import Clock

__all__ = ["MemoryQueue"]


@dataclass(slots=True)
class _Entry:
    key: bytes
    at: float
    delivered: bool = False


@dataclass(slots=True)
class _Shard:
    entries: dict[bytes, _Entry] = field(default_factory=dict)
    consumer: str = ""
    until: float = 0.0


@dataclass(slots=True)
class _Letter:
    write: QueuedWrite
    attempts: int
    at: float
    why: str


class MemoryQueue:
    """A `WriteQueue` in memory.

    Args:
        clock: For leases and ages.
        values: The shared store that `put` writes to as well; None: it does not.
    """

    def __init__(self, clock: Clock, values: MemoryL2 | None = None) -> None:
        self.carries_values = values is not None
        self.records: dict[str, dict[bytes, QueuedWrite]] = {}
        """The newest queued write of each key, by namespace."""
        self._clock = clock
        self._values = values
        self._shards: dict[tuple[str, int], _Shard] = {}
        self._dead: dict[str, dict[bytes, _Letter]] = {}
        self._numbers = count(1)

    async def put(self, namespace: str, writes: Sequence[QueuedWrite], most: int) -> list[Put]:
        """Queue writes, each if it is newer than what is queued and stored of its key."""
        return [await self._put(namespace, write, most) for write in writes]

    async def _put(self, namespace: str, write: QueuedWrite, most: int) -> Put:
        records = self.records.setdefault(namespace, {})
        queued = records.get(write.key)
        if queued is not None and queued.version >= write.version:
            return Put(Outcome.SUPERSEDED)
        if queued is None and len(records) + len(self._dead.get(namespace, {})) >= most:
            return Put(Outcome.FULL)
        found = False
        if self._values is not None:
            version, found = self._values.stored(namespace, write.key)
            if version >= write.version:
                return Put(Outcome.SUPERSEDED)
            if write.value is None:
                await self._values.drop(namespace, [(write.key, write.version)])
            else:
                await self._values.write(namespace, [L2Write(*write)])  # type: ignore[arg-type]
        self._queue(namespace, write)
        return Put(Outcome.QUEUED if queued is None else Outcome.REPLACED, found)

    def _queue(self, namespace: str, write: QueuedWrite) -> None:
        records = self.records.setdefault(namespace, {})
        if write.key not in records:
            self._shard(namespace, shard_of(write.key)).entries[self._next_id()] = _Entry(write.key, self._clock.now())
        records[write.key] = QueuedWrite(
            write.key, write.value, write.flags if write.value is not None else 0, write[3]
        )

    async def newest(self, namespace: str, keys: Sequence[bytes], most_bytes: int = 0) -> list[QueuedWrite | None]:
        """Return the queued write of each key, None where there is none."""
        records, size = self.records.get(namespace, {}), 0
        found: list[QueuedWrite | None] = []
        for key in keys:
            write = records.get(key)
            size += len(write.value or b"") if write is not None else 0
            if most_bytes and size > most_bytes and found:
                break
            found.append(write)
        return found

    async def fetch(
        self, namespace: str, shard: int, consumer: str, *, lease_s: float, most: int, claim: bytes = b""
    ) -> Fetched:
        """Take a shard, or prolong its lease, and return entries that were not delivered before."""
        now, place = self._clock.now(), self._shard(namespace, shard)
        if place.consumer != consumer and now < place.until:
            return Fetched(False, free_in_s=place.until - now)
        place.consumer, place.until = consumer, now + lease_s
        left = [
            (id_, entry)
            for id_, entry in place.entries.items()
            if (entry.delivered and int(id_) > int(claim.partition(b"-")[0]) if claim else not entry.delivered)
        ]
        taken = left[:most]
        for _, entry in taken:
            entry.delivered = True
        cursor = b""
        if claim:
            cursor = claim if not most else taken[-1][0] if len(left) > most else b""
        oldest_s = max((now - entry.at for entry in place.entries.values()), default=0.0)
        entries = tuple((id_, entry.key, now - entry.at) for id_, entry in taken)
        return Fetched(True, entries=entries, cursor=cursor, waiting=len(place.entries), oldest_s=oldest_s)

    async def done(
        self, namespace: str, shard: int, consumer: str, applied: Sequence[tuple[bytes, bytes, int]]
    ) -> list[bool] | None:
        """Take keys out of the queue whose write of a version the origin has."""
        if not self._holds(namespace, shard, consumer):
            return None if applied else []
        return [self._settle(namespace, shard, id_, key, version) for id_, key, version in applied]

    async def bury(
        self, namespace: str, shard: int, consumer: str, dead: Sequence[tuple[bytes, bytes, int, int, str]]
    ) -> list[bool] | None:
        """As `done`, for writes that become dead letters."""
        if not self._holds(namespace, shard, consumer):
            return None if dead else []
        left = []
        for id_, key, version, attempts, why in dead:
            write = self.records.get(namespace, {}).get(key)
            newer = self._settle(namespace, shard, id_, key, version)
            if write is not None and not newer:
                letter = _Letter(write, attempts, self._clock.now(), why)
                self._dead.setdefault(namespace, {})[self._next_id()] = letter
            left.append(newer)
        return left

    def _settle(self, namespace: str, shard: int, id_: bytes, key: bytes, version: int) -> bool:
        """Take a key out of the queue. Return True if a newer write is queued, so that it stays."""
        records = self.records.get(namespace, {})
        queued = records.get(key)
        if queued is not None and queued.version > version:
            return True
        records.pop(key, None)
        self._shard(namespace, shard).entries.pop(id_, None)
        return False

    async def release(self, namespace: str, shard: int, consumer: str) -> None:
        """Give a shard back, if the consumer has it."""
        place = self._shard(namespace, shard)
        if place.consumer == consumer:
            place.consumer, place.until = "", 0.0

    async def status(self, namespace: str) -> QueueStatus:
        """Return how much waits."""
        now = self._clock.now()
        ages = [now - entry.at for shard in range(SHARDS) for entry in self._shard(namespace, shard).entries.values()]
        return QueueStatus(
            len(self.records.get(namespace, {})), max(ages, default=0.0), len(self._dead.get(namespace, {}))
        )

    async def dead_letters(self, namespace: str, after: bytes, most: int) -> list[DeadLetter]:
        """Return dead letters in the order of their ids, those after an id."""
        now = self._clock.now()
        found = [
            DeadLetter(
                id_,
                letter.write.key,
                letter.write.value is None,
                letter.write.version,
                len(letter.write.value or b""),
                letter.attempts,
                now - letter.at,
                letter.why,
            )
            for id_, letter in self._dead.get(namespace, {}).items()
            if int(id_) > int(after or b"0")
        ]
        return found[:most]

    async def replay(self, namespace: str, letters: Sequence[DeadLetter]) -> list[bool]:
        """Queue dead letters again, each unless a newer write of its key is queued."""
        queued = []
        for letter in letters:
            dead = self._dead.get(namespace, {}).pop(letter.id, None)
            known = self.records.get(namespace, {}).get(letter.key)
            again = dead is not None and (known is None or known.version < letter.version)
            if again and dead is not None:
                self._queue(namespace, dead.write)
            queued.append(again)
        return queued

    async def discard(self, namespace: str, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for ever."""
        dead = self._dead.get(namespace, {})
        return sum(dead.pop(letter.id, None) is not None for letter in letters)

    async def problems(self) -> list[str]:
        """Return nothing: memory promises nothing."""
        return []

    async def close(self) -> None:
        """Keep everything: another user of this object may go on."""

    def _shard(self, namespace: str, shard: int) -> _Shard:
        return self._shards.setdefault((namespace, shard), _Shard())

    def _holds(self, namespace: str, shard: int, consumer: str) -> bool:
        place = self._shard(namespace, shard)
        return place.consumer == consumer and self._clock.now() < place.until

    def _next_id(self) -> bytes:
        return b"%d" % next(self._numbers)
