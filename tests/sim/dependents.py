"""Values that depend on others under the external checker: what was made from a parent before it changed is not read.

Parents are keys of the default namespace (``p``), dependents of one of their own (``d``); the last of those depends on
the first, so on its parents too. A dependent is set, or loaded by a loader that takes its time.

- **C3** A read that began after a change of a parent was acknowledged does not return what was surely stored before
  the change began, nor what began to be loaded before it (C2). Changes are writes and removals, of a parent of a parent
  too; loads are not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from cachenode_client import Parent
from tests.sim.checker import Violation
from tests.sim.history import History, Kind, Op
from tests.sim.origin import OriginDown

if TYPE_CHECKING:
    from tests.sim.workload import Client

__all__ = ["DEPENDENT", "check_dependents", "read_dependent", "write_dependent", "write_parent"]

DEPENDENT = "deps"
_LAST = "d:2"
_LIFE_S = 5.0
"""Older links are not asked about."""


def parents_of(key: str) -> list[Parent]:
    """Return what a dependent names."""
    if key == _LAST:
        return [Parent(DEPENDENT, "d:0"), Parent("default", "p:1")]
    return [Parent("default", f"p:{key[-1]}")]


# What clients do.


async def read_dependent(client: Client, key: str) -> None:
    """Get a dependent, or load it if it is not there."""
    rng, mix = client.rng, client.mix
    if rng.random() < 0.5:
        op = client.op(Kind.READ, "get", key, rng.choice(mix.read_timeouts_s))
        op.value = await client.do([op], client.cache.get(key, namespace=DEPENDENT, timeout_s=op.timeout_s))
        return
    op = client.op(Kind.READ, "get_or_load", key, rng.choice((2.0, 5.0)))
    call = client.cache.get_or_load(
        key,
        _loader(client, key),
        depends_on=parents_of(key) if rng.random() < 0.8 else parents_of(key)[::-1],
        namespace=DEPENDENT,
        timeout_s=op.timeout_s,
        lease_s=rng.choice(mix.lease_s),
    )
    op.value = await client.do([op], call)


def _loader(client: Client, key: str) -> Callable[[], Awaitable[str]]:
    async def load() -> str:
        rng, mix, value = client.rng, client.mix, client.value(key)
        client.history.made[value] = client.now
        await client.pause(rng.random() * (mix.slow_load_s if rng.random() < mix.slow_load else mix.load_s))
        if rng.random() < mix.load_fails:
            raise OriginDown
        return value

    return load


async def write_dependent(client: Client, key: str) -> None:
    """Set a dependent, or touch it."""
    rng = client.rng
    timeout_s = rng.choice(client.mix.write_timeouts_s)
    if rng.random() < 0.2:
        op = client.op(Kind.TOUCH, "touch", key, timeout_s)
        await client.do([op], client.cache.touch(key, ttl_s=30.0, namespace=DEPENDENT, timeout_s=timeout_s))
        return
    value = client.value(key)
    op = client.op(Kind.WRITE, "set", key, timeout_s, value=value)
    ttl_s = rng.choice((None, 0.8))
    call = client.cache.set(
        key, value, depends_on=parents_of(key), ttl_s=ttl_s, namespace=DEPENDENT, timeout_s=timeout_s
    )
    op.version = await client.do([op], call) or 0


async def write_parent(client: Client, key: str) -> None:
    """Change a parent, in one of many ways."""
    rng, cache = client.rng, client.cache
    timeout_s, dice = rng.choice(client.mix.write_timeouts_s), rng.random()
    if dice < 0.5:
        value = client.value(key)
        op = client.op(Kind.WRITE, "set", key, timeout_s, value=value)
        op.version = await client.do([op], cache.set(key, value, timeout_s=timeout_s)) or 0
        return
    ways: list[tuple[str, list[str], Awaitable[object]]] = []
    if dice < 0.7:
        ways.append(("delete", [key], cache.delete(key, timeout_s=timeout_s)))
    elif dice < 0.9:
        ways.append(("invalidate", [key], cache.invalidate(key, timeout_s=timeout_s)))
    else:
        keys = [each for each in client.keys if each[0] == "p"]
        ways.append(("invalidate prefix", keys, cache.invalidate(prefix="p:", timeout_s=timeout_s)))
    [(how, keys, call)] = ways
    await client.do([client.op(Kind.REMOVE, how, each, timeout_s) for each in keys], call)


# What must hold.


def check_dependents(history: History) -> Iterator[Violation]:
    """Yield all violations of keys that depend on others."""
    ops: dict[str, list[Op]] = {}
    for op in history.ops:
        if op.key[0] in "dp":
            ops.setdefault(op.key, []).append(op)
    for key, own in ops.items():
        if key[0] == "d":
            parents = [parent.key for parent in parents_of(key)]
            changes = [op for parent in parents for op in ops.get(str(parent), ()) if op.done and _changes(op)]
            yield from _reads(key, own, _Latest(changes), history)
    yield from _over_another(ops, history)


def _changes(op: Op) -> bool:
    return op.kind in {Kind.WRITE, Kind.REMOVE}


class _Latest:
    """Of changes that were done by some time, the one that began last."""

    def __init__(self, changes: list[Op]) -> None:
        changes = sorted(changes, key=lambda op: op.ended)
        self._ends = [op.ended for op in changes]
        self._latest = list(accumulate(changes, _later))

    def before(self, moment: float) -> Op | None:
        """Return it, None if there is none."""
        at = bisect_left(self._ends, moment)
        return self._latest[at - 1] if at else None


def _later(one: Op, other: Op) -> Op:
    return max(one, other, key=lambda op: op.began)


def _reads(key: str, ops: list[Op], changes: _Latest, history: History) -> Iterator[Violation]:
    writes = {op.value: op for op in ops if op.kind is Kind.WRITE}
    for read in ops:
        if read.kind is not Kind.READ or not read.done or read.value is None:
            continue
        written, loaded = writes.get(read.value), history.made.get(str(read.value))
        if written is None and loaded is None:
            yield Violation("C3", f"{read} was never written", read.began, read.began, key, [read])
            continue
        before = loaded if written is None else written.ended
        change = changes.before(read.began)
        if before is not None and change is not None and change.began > before:
            yield _outlived(read, written, change)


def _outlived(read: Op, written: Op | None, change: Op) -> Violation:
    what = f"was {written}" if written is not None else "was loaded"
    text = f"{read}\n    depends on what has changed by {change}\n    {what}"
    return Violation("C3", text, read.began, min(change.began, read.began), read.key, [change, read])


def _over_another(ops: dict[str, list[Op]], history: History) -> Iterator[Violation]:
    """Yield reads of the last dependent that outlive a change of what it depends on over the first.

    That is asked if the first one was surely there, and depended on it, from before the last one was written until the
    change.
    """
    sets = [op for op in ops.get("d:0", ()) if op.kind is Kind.WRITE and op.done]
    others = [op for key in ("d:0", "p:0") for op in ops.get(key, ()) if _changes(op)]
    writes = {op.value: op for op in ops.get(_LAST, ()) if op.kind is Kind.WRITE and op.done}
    changes = _Latest([op for op in ops.get("p:0", ()) if op.done and _changes(op)])
    for read in ops.get(_LAST, ()):
        written, change = writes.get(read.value), changes.before(read.began)
        if read.kind is not Kind.READ or not read.done or written is None or change is None:
            continue
        if change.began <= written.ended or history.disturbed(written.began - _LIFE_S, read.began):
            continue
        first = next((op for op in reversed(sets) if op.ended < written.began), None)
        if first is None or first.began < written.began - _LIFE_S:
            continue
        alone = all(op in (first, change) or op.ended < first.began or op.began > change.ended for op in others)
        if alone:
            yield _outlived(read, written, change)
