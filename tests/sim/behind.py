"""Write-behind: the queue and a second table of a run, what clients do to it, and what they must see.

The queue lies on a server of its own that forgets nothing, as durability ``fsync`` promises; L2 may forget, freeze and
be replaced meanwhile. The table keeps versions, and refuses what comes late (`tests.sim.written`); it refuses nothing
for good, so nothing becomes a dead letter.

- **C7** At the end, when nothing waits any more, each row is the newest acknowledged write of its key, or one that is
  not surely older.
- **C3** A read that began after a write was acknowledged returns it, or something that is not surely older, also when
  the value has left memory and L2 and the table does not have it yet.
- **C1** Versions of a key rise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachenode.adapters.batching import TurnBatcher
from cachenode.core.entries import QueuedWrite
from cachenode.core.queued import DeadLetter, Fetched, Outcome, Put, QueueStatus
from cachenode.errors import L2Unavailable
from cachenode.origins import ABSENT
from tests.sim.checker import Violation, version_order
from tests.sim.history import History, Kind, Op
from tests.sim.stores import RedisClient, _now, _Wire
from tests.sim.written import WRITTEN_ORIGIN, Table, _reads

if TYPE_CHECKING:
    from tests.sim.workload import Client

__all__ = ["BEHIND", "BEHIND_ORIGIN", "BEHIND_POLICY", "QueueLink", "check_behind", "read", "write"]

BEHIND = "behind"
BEHIND_ORIGIN = WRITTEN_ORIGIN | {"loader": "rows", "sink": "rows"}
BEHIND_POLICY = {"origin": "rows", "write": "behind", "ttl_s": 60.0}


class QueueLink:
    """Takes the place of `RedisQueue`: its batching and time limits, over a simulated way to a `MemoryQueue`."""

    def __init__(self, client: RedisClient, _cluster: str, *, carries_values: bool, **_: Any) -> None:
        self.carries_values = carries_values
        self._server = client.server
        self._wire = _Wire(client.network, client.server, client.faults)
        self._calls: TurnBatcher[Callable[[], Any], Any] = TurnBatcher(
            self._run, in_flight=8, limit_s=0.5, wait_limits=10, max_items=128
        )

    async def _run(self, items: list[Callable[[], Any]]) -> list[Any]:
        return await self._wire.trip(lambda: [item() for item in items])

    async def _call(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        (found,) = await self._calls.submit([lambda: _now(call())])
        return found

    async def put(self, namespace: str, writes: Sequence[QueuedWrite], most: int) -> list[Put]:
        try:
            return await self._call(lambda: self._server.queue.put(namespace, writes, most))  # type: ignore[no-any-return]
        except L2Unavailable as error:
            return [Put(Outcome.UNCERTAIN, why=str(error))] * len(writes)

    async def newest(self, namespace: str, keys: Sequence[bytes], most_bytes: int = 0) -> list[QueuedWrite | None]:
        return await self._call(lambda: self._server.queue.newest(namespace, keys, most_bytes))  # type: ignore[no-any-return]

    async def fetch(
        self, namespace: str, shard: int, consumer: str, *, lease_s: float, most: int, claim: bytes = b""
    ) -> Fetched:
        def call() -> Coroutine[Any, Any, Fetched]:
            return self._server.queue.fetch(namespace, shard, consumer, lease_s=lease_s, most=most, claim=claim)

        return await self._call(call)  # type: ignore[no-any-return]

    async def done(
        self, namespace: str, shard: int, consumer: str, applied: Sequence[tuple[bytes, bytes, int]]
    ) -> list[bool] | None:
        return await self._call(lambda: self._server.queue.done(namespace, shard, consumer, applied))  # type: ignore[no-any-return]

    async def bury(
        self, namespace: str, shard: int, consumer: str, dead: Sequence[tuple[bytes, bytes, int, int, str]]
    ) -> list[bool] | None:
        return await self._call(lambda: self._server.queue.bury(namespace, shard, consumer, dead))  # type: ignore[no-any-return]

    async def release(self, namespace: str, shard: int, consumer: str) -> None:
        await self._call(lambda: self._server.queue.release(namespace, shard, consumer))

    async def status(self, namespace: str) -> QueueStatus:
        return await self._call(lambda: self._server.queue.status(namespace))  # type: ignore[no-any-return]

    async def dead_letters(self, namespace: str, after: bytes, most: int) -> list[DeadLetter]:
        return await self._call(lambda: self._server.queue.dead_letters(namespace, after, most))  # type: ignore[no-any-return]

    async def replay(self, namespace: str, letters: Sequence[DeadLetter]) -> list[bool]:
        return await self._call(lambda: self._server.queue.replay(namespace, letters))  # type: ignore[no-any-return]

    async def discard(self, namespace: str, letters: Sequence[DeadLetter]) -> int:
        return await self._call(lambda: self._server.queue.discard(namespace, letters))  # type: ignore[no-any-return]

    async def problems(self) -> list[str]:
        return await self._call(self._server.queue.problems)  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self._calls.close()


# What clients do.


async def read(client: Client, key: str) -> None:
    """Read a key: the nodes load what they do not have."""
    timeout_s = client.rng.choice(client.mix.read_timeouts_s)
    op = client.op(Kind.READ, "get", key, timeout_s)
    op.value = await client.do([op], client.cache.get(key, timeout_s=timeout_s, namespace=BEHIND))


async def write(client: Client, key: str) -> None:
    """Write, remove or invalidate a key."""
    dice, timeout_s, calls = client.rng.random(), client._timeout(), client.cache
    more: dict[str, Any] = {"timeout_s": timeout_s, "namespace": BEHIND}
    if dice < 0.7:
        value = client.value(key)
        op = client.op(Kind.WRITE, "set", key, timeout_s, value=value)
        op.version = await client.do([op], calls.set(key, value, **more)) or 0
    elif dice < 0.85:
        op = client.op(Kind.REMOVE, "delete", key, timeout_s)
        await client.do([op], calls.delete(key, **more))
    else:
        op = client.op(Kind.TOUCH, "invalidate", key, timeout_s)
        which = {"keys": key} if client.rng.random() < 0.5 else {"prefix": "b:"}
        await client.do([op], calls.invalidate(**which, **more))


# What they must see.


def check_behind(history: History, rows: Table) -> list[Violation]:
    """Return all violations of keys whose writes reach the table later.

    Args:
        history: What was done and seen.
        rows: The table as it was left, when nothing waited any more.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        if op.key[0] == "b":
            by_key[op.key].append(op)
    found: list[Violation] = []
    for key, ops in by_key.items():
        end, row = max(op.began for op in ops) + 1e9, rows.read(key)
        last = Op("rows", Kind.READ, "row", key, end, 1.0, ended=end, value=None if row is ABSENT else str(row))
        changes = [op for op in ops if op.kind in {Kind.WRITE, Kind.REMOVE}]
        reads = [op for op in ops if op.kind is Kind.READ and op.done]
        found += _reads(key, reads, changes)
        found += [replace(violation, clause="C7") for violation in _reads(key, [last], changes)]
        found += version_order(key, ops)
    return sorted(found, key=lambda violation: violation.at)
