"""Write-through: a table that the nodes read and write, what clients do to it, and what they must see.

Values are written once, so whoever reads one knows which write brought it. A call of a node's process may arrive at the
table when the process is dead; the table keeps versions, and refuses what comes late.

- **C3** A read that began after a write or removal was acknowledged returns what it wrote, or something that is not
  surely older; nothing only if the key may have been removed. The same of the table itself, at the end.
- **C1** Versions of a key rise.
- **at rest** When nobody writes any more the cache says what the table has.
- **origin first** What is read has been at the table before; so what the table has refused is never read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

from cachenode.origins import ABSENT, OriginError, Write
from cachenode_client import CacheClient
from tests.sim.checker import Newest, Violation, stale, version_order
from tests.sim.history import History, Kind, Op, Outcome

if TYPE_CHECKING:
    from tests.sim.workload import Client
    from tests.sim.world import World

__all__ = [
    "WRITTEN",
    "WRITTEN_ORIGIN",
    "WRITTEN_POLICY",
    "Access",
    "Table",
    "at_rest",
    "check_written",
    "read",
    "write",
]

WRITTEN = "written"
AT_REST = "get at rest"
_TIMEOUT_S = 0.8
WRITTEN_ORIGIN = {
    "loader": "table",
    "sink": "table",
    "batch_keys": 3,
    "batch_writes": 3,
    "attempts": 2,
    "timeout_s": _TIMEOUT_S,
}
WRITTEN_POLICY = {"origin": "table", "write": "through", "ttl_s": 60.0}


class Table:
    """Rows with versions, also of what was removed.

    Attributes:
        rows: Of each key its version and value.
        arrived: When each value came, in true time.
    """

    def __init__(self) -> None:
        self.rows: dict[str | bytes, tuple[int, Any]] = {}
        self.arrived: dict[Any, float] = {}

    def read(self, key: str) -> object:
        """Return a key's value."""
        return self.rows.get(key, (0, ABSENT))[1]

    def commit(self, writes: list[Write], now: float) -> None:
        """Do writes, except those that come late."""
        for each in writes:
            self.arrived.setdefault(each.value, now)
            if self.rows.get(each.key, (0, None))[0] < each.version:
                self.rows[each.key] = each.version, each.value


class Access:
    """What one node's process reads and writes the table with: a plug-in like a user's.

    Args:
        world: Where it runs.
        table: Which.
        refuses: Whether it refuses some writes for good.
        rng: Its dice.
    """

    def __init__(self, world: World, table: Table, rng: Random, *, refuses: bool = True) -> None:
        self._world = world
        self._table = table
        self._refuses = refuses
        self._rng = rng

    async def load_many(self, keys: list[str]) -> dict[str, object]:
        """Return what the table has, at a moment in between."""
        await self._world.pause(self._rng.random() * 0.02)
        found = {key: self._table.read(key) for key in keys}
        await self._world.pause(self._rng.random() * (0.5 if self._rng.random() < 0.2 else 0.02))
        return found

    async def write_many(self, writes: list[Write]) -> None:
        """Write; the table does so at a moment that does not depend on this process any more."""
        world, rng = self._world, self._rng
        if world.origin.down or rng.random() < 0.03:
            await world.pause(rng.random() * 0.05)
            raise OriginError("refused", again=rng.random() < 0.5 or not self._refuses)
        arrives_s = rng.random() * (_TIMEOUT_S * 0.7 if rng.random() < 0.2 else 0.02)
        world.loop.spawn(None, self._arrive(arrives_s, writes))
        await world.pause(arrives_s * 1.2 + rng.random() * (0.5 if rng.random() < 0.2 else 0.02))
        if rng.random() < 0.03:
            raise ConnectionResetError

    async def _arrive(self, seconds: float, writes: list[Write]) -> None:
        await self._world.pause(seconds)
        self._table.commit(writes, self._world.loop.now)


# What clients do.


async def read(client: Client, key: str) -> None:
    """Read a key, in one of the ways there are."""
    timeout_s, calls = client.rng.choice(client.mix.read_timeouts_s), client.cache
    if client.rng.random() < 0.2:
        keys = [each for each in client.keys if each[0] == "w"]
        ops = [client.op(Kind.READ, "get_many", each, timeout_s) for each in keys]
        found = await client.do(ops, calls.get_many(keys, timeout_s=timeout_s, namespace=WRITTEN))
        for op in ops:
            op.value = (found or {}).get(op.key)
    else:
        op = client.op(Kind.READ, "get", key, timeout_s)
        op.value = await client.do([op], calls.get(key, timeout_s=timeout_s, namespace=WRITTEN))


async def write(client: Client, key: str) -> None:
    """Write, remove or invalidate a key; or touch it."""
    dice, timeout_s, calls = client.rng.random(), client._timeout(), client.cache
    more: dict[str, Any] = {"timeout_s": timeout_s, "namespace": WRITTEN}
    if dice < 0.6:
        value = client.value(key)
        op = client.op(Kind.WRITE, "set", key, timeout_s, value=value)
        op.version = await client.do([op], calls.set(key, value, **more)) or 0
    elif dice < 0.7:
        value, how = client.value(key), client.rng.choice(("add", "replace"))
        op = client.op(Kind.WRITE, how, key, timeout_s, value=value)
        op.version = await client.do([op], getattr(calls, how)(key, value, **more)) or 0
        if op.done and not op.version:  # the condition did not hold
            op.kind, op.error = Kind.TOUCH, "condition"
    elif dice < 0.8:
        op = client.op(Kind.REMOVE, "delete", key, timeout_s)
        await client.do([op], calls.delete(key, **more))
    elif dice < 0.9:
        op = client.op(Kind.TOUCH, "touch", key, timeout_s)
        await client.do([op], calls.touch(key, ttl_s=30.0, **more))
    else:
        op = client.op(Kind.TOUCH, "invalidate", key, timeout_s)
        which = {"keys": key} if client.rng.random() < 0.5 else {"prefix": "w:"}
        await client.do([op], calls.invalidate(**which, **more))


async def at_rest(world: World, history: History, count: int) -> None:
    """Read all keys when nobody writes any more, and what was on its way has arrived."""
    await world.pause(3 * _TIMEOUT_S)
    host = world.host("rest")
    async with CacheClient(world.address, client_name="rest", namespace=WRITTEN) as client:
        for key in (f"w:{at}" for at in range(count)):
            op = Op("rest", Kind.READ, AT_REST, key, world.loop.now, 5.0, host=host)
            history.ops.append(op)
            op.value = await client.get(key, timeout_s=5.0)
            op.ended, op.outcome = world.loop.now, Outcome.OK


# What they must see.


def check_written(history: History, table: Table) -> list[Violation]:
    """Return all violations of keys whose writes go through to the table.

    Args:
        history: What was done and seen.
        table: As it was left.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        if op.key[0] == "w":
            by_key[op.key].append(op)
    found: list[Violation] = []
    for key, ops in by_key.items():
        end = max(op.began for op in ops) + 1e9
        row = table.read(key)
        last = Op("table", Kind.READ, "row", key, end, 1.0, ended=end, value=None if row is ABSENT else str(row))
        reads = [op for op in ops if op.kind is Kind.READ and op.done]
        found += _reads(key, [*reads, last], [op for op in ops if op.kind in {Kind.WRITE, Kind.REMOVE}])
        found += version_order(key, ops)
        for each in reads:
            if each.how == AT_REST and each.value != last.value:
                text = f"{each}\n    but the table has {last.value}"
                found.append(Violation("at rest", text, each.ended, each.began, key, [each]))
        for each in reads:
            if each.value is not None and table.arrived.get(each.value, math.inf) > each.ended:
                text = f"{each}\n    is not what the table has, or had"
                found.append(Violation("origin first", text, each.ended, each.began, key, [each]))
    return sorted(found, key=lambda violation: violation.at)


def _reads(key: str, reads: list[Op], changes: list[Op]) -> Iterator[Violation]:
    by_value = {op.value: op for op in changes if op.kind is Kind.WRITE}
    removals = [op for op in changes if op.kind is Kind.REMOVE]
    newest = Newest.of(changes)
    for each in reads:
        if each.value is None:
            written = newest.last_begun(each.began)
            if written is None or written.kind is Kind.REMOVE:
                continue
            if not any(op.ended > written.began and op.began < each.ended for op in removals):
                yield stale("C3", each, written, written)
            continue
        brought = by_value.get(each.value)
        if brought is None or brought.began > each.ended:
            yield Violation("C3", f"{each} was never written", each.began, each.began, key, [each])
        elif brought.done and (newer := newest.newer(brought, each.began)) is not None:
            yield stale("C3", each, brought, newer)
