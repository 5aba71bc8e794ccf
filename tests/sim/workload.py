"""What the clients of a run do: few keys, so that they get in each other's way, and values that are written once.

Families of keys, by the first letter:

- ``c`` cache keys: set, conditionally set, removed and covered by barriers of all kinds;
- ``o`` origin keys: committed to the origin and then invalidated, read with `get_or_load`;
- ``s`` the same in a namespace of their own, which is sometimes invalidated as a whole;
- ``n`` counters;
- ``t`` keys with a short life;
- ``v`` keys that are only replaced under the version that was read;
- ``w`` keys whose writes go through to a table (`tests.sim.written`);
- ``d`` keys that depend on others, and ``p`` those others (`tests.sim.dependents`);
- ``b`` keys whose writes reach another one later (`tests.sim.behind`);
- ``y`` keys that live on when they are read (`tests.sim.sliding`);
- ``r`` keys that the nodes load (read-through): committed to the origin, and then invalidated, or set, or neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cachenode_client import CacheClient
from cachenode_client.errors import CacheError, ManyFailed
from tests.sim import behind, sliding, written
from tests.sim.dependents import read_dependent, write_dependent, write_parent
from tests.sim.history import History, Kind, Load, Op, Outcome
from tests.sim.loop import Host
from tests.sim.origin import Origin, OriginDown, is_absent, tags_of
from tests.sim.world import THROUGH, World

__all__ = ["Client", "Mix"]

SIDE = "side"
_SPACES = {"s": SIDE, "r": THROUGH}
"""The families that have a namespace of their own, which is sometimes invalidated as a whole."""
_TTLS_S = (0.3, 1.0, 2.5)


@dataclass
class Mix:
    """How the clients work.

    Attributes:
        clients: How many there are.
        near: Probability that one has a near cache.
        keys: How many keys each family has.
        read_pause_s: Mean time between bursts of reads.
        write_pause_s: Mean time between writes of one client.
        weights: How often which family is chosen.
        load_s: Longest time of a load before and after the origin is read.
        lease_s: Of loads.
        load_fails: Probability that a loader fails.
        readers: How many read at a time in each client, so that not all wait for one node that is out of reach.
        read_timeouts_s: How long a read may take.
        write_timeouts_s: The same for a write.
        one_by_one: Whether every invalidation covers one key; others say something about all keys of a family.
    """

    clients: int = 4
    near: float = 0.75
    keys: dict[str, int] = field(default_factory=lambda: {"c": 3, "o": 3, "s": 1, "n": 1, "t": 1, "v": 1})
    read_pause_s: float = 0.03
    write_pause_s: float = 0.12
    weights: dict[str, int] = field(default_factory=lambda: {"c": 8, "o": 8, "s": 2, "n": 2, "t": 2, "v": 1})
    load_s: float = 0.05
    slow_load: float = 0.1
    slow_load_s: float = 1.5
    lease_s: tuple[float, ...] = (1.0, 3.0)
    load_fails: float = 0.03
    readers: int = 2
    read_timeouts_s: tuple[float, ...] = (0.4, 1.0, 3.0)
    write_timeouts_s: tuple[float, ...] = (0.4, 1.0, 3.0)
    one_by_one: bool = False


class Client:
    """One process with one client of the cluster, which reads and writes until told to stop.

    Args:
        world: Where it runs.
        history: Gets what it does.
        origin: The database.
        mix: How it works.
        name: Of its machine.
        life: Of the process.
        rng: Its dice.
    """

    def __init__(
        self, world: World, history: History, origin: Origin, mix: Mix, *, name: str, life: int, rng: Random
    ) -> None:
        self.name = f"{name}.{life}" if life else name
        self.machine = name
        self.host: Host = world.host(name)
        self._world = world
        self.history = history
        self._origin = origin
        self.mix = mix
        self.rng = rng
        self._near = rng.random() < mix.near
        self._stopping = False
        self._expires = Random(str(rng.getstate()[1][:4]))  # dice of their own: the others fall as they did without
        self._written = 0
        self.keys = [f"{family}:{at}" for family, count in mix.keys.items() for at in range(count)]
        self._weights = [mix.weights[key[0]] for key in self.keys]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [self._world.loop.spawn(self.host, self._work())]

    def stop(self) -> None:
        """Begin no new operation."""
        self._stopping = True

    @property
    def finished(self) -> bool:
        """True if all its work has ended."""
        return self.host.dead or all(task.done() for task in self._tasks)

    def failures(self) -> list[BaseException]:
        """Return what its tasks raised."""
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        return [error for task in ended if (error := task.exception()) is not None]

    async def _work(self) -> None:
        near = self.rng.choice((1 << 20, 1 << 20, 1 << 16)) if self._near else None
        client = CacheClient(self._world.address, near_cache=near, client_name=self.name)
        self.cache: Any = client
        async with client:
            readers = [self._read() for _ in range(self.mix.readers)]
            await asyncio.gather(*readers, self._write(), self._write())

    async def _read(self) -> None:
        while not self._stopping:
            for _ in range(self.rng.choice((1, 3, 8))):
                await self._read_one(self._key())
            await self._world.pause(self.rng.expovariate(1 / self.mix.read_pause_s))

    async def _write(self) -> None:
        while not self._stopping:
            await self._world.pause(self.rng.expovariate(1 / self.mix.write_pause_s))
            key = self._key()
            await getattr(self, f"_write_{key[0]}")(key)

    def _key(self) -> str:
        return self.rng.choices(self.keys, self._weights)[0]

    @property
    def now(self) -> float:
        """The true time."""
        return self._world.loop.now

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await self._world.pause(seconds)

    # Recording.

    def op(self, kind: Kind, how: str, key: str, timeout_s: float, **more: Any) -> Op:
        """Note that an operation begins."""
        op = Op(self.name, kind, how, key, self._world.loop.now, timeout_s, host=self.host, **more)
        self.history.ops.append(op)
        return op

    async def do(self, ops: list[Op], call: Awaitable[Any]) -> Any:
        """Wait for a call and note how it ended; None if it failed."""
        try:
            result = await call
        except ManyFailed as error:
            for op in ops:
                self._end(op, error.errors.get(op.key))
            return error.results
        except (CacheError, OriginDown) as error:
            for op in ops:
                self._end(op, error)
            return None
        for op in ops:
            self._end(op, None)
        return result

    def _end(self, op: Op, error: Exception | None) -> None:
        op.ended = self._world.loop.now
        op.outcome = Outcome.OK if error is None else Outcome.FAILED
        if error is not None:
            op.error = f"{type(error).__name__}:{getattr(error, 'reason', '')}"

    def _timeout(self) -> float:
        return self.rng.choice(self.mix.write_timeouts_s)

    # Reads.

    async def _read_one(self, key: str) -> None:
        if key[0] in "os":
            await self._load_one(key)
            return
        if key[0] == "b":
            await behind.read(self, key)
            return
        if key[0] == "y":
            await sliding.read(self, key)
            return
        if key[0] in "rw":
            await (self._read_through(key) if key[0] == "r" else written.read(self, key))
            return
        if key[0] == "d":
            await read_dependent(self, key)
            return
        timeout_s, dice = self.rng.choice(self.mix.read_timeouts_s), self.rng.random()
        if dice < 0.15 and key[0] == "c":
            keys = self.rng.sample([key for key in self.keys if key[0] in "cn"], 2)
            ops = [self.op(Kind.READ, "get_many", each, timeout_s) for each in keys]
            found = await self.do(ops, self.cache.get_many(keys, timeout_s=timeout_s))
            for op in ops:
                op.value = (found or {}).get(op.key)
        elif dice < 0.25:
            op = self.op(Kind.READ, "lookup", key, timeout_s)
            entry = await self.do([op], self.cache.lookup(key, timeout_s=timeout_s))
            if entry is not None and entry.found:
                op.value = entry.value
        else:
            op = self.op(Kind.READ, "get", key, timeout_s)
            op.value = await self.do([op], self.cache.get(key, timeout_s=timeout_s))

    async def _read_through(self, key: str) -> None:
        """Read a key that the nodes load if they have to."""
        timeout_s, dice = self.rng.choice(self.mix.read_timeouts_s), self.rng.random()
        if dice < 0.2:
            keys = list(dict.fromkeys([key, *self.rng.sample([each for each in self.keys if each[0] == "r"], 2)]))
            ops = [self.op(Kind.READ, "get_many", each, timeout_s) for each in keys]
            found = await self.do(ops, self.cache.get_many(keys, timeout_s=timeout_s, namespace=THROUGH))
            for op in ops:
                op.value = (found or {}).get(op.key)
        elif dice < 0.5:
            op = self.op(Kind.READ, "lookup", key, timeout_s)
            entry = await self.do([op], self.cache.lookup(key, timeout_s=timeout_s, namespace=THROUGH))
            if entry is not None and entry.found:
                op.value, op.stale = entry.value, entry.stale
        else:
            op = self.op(Kind.READ, "get", key, timeout_s)
            op.value = await self.do([op], self.cache.get(key, timeout_s=timeout_s, namespace=THROUGH))

    async def _load_one(self, key: str) -> None:
        rng = self.rng
        timeout_s, lease_s = rng.choice((2.0, 5.0)), rng.choice(self.mix.lease_s)
        more: dict[str, Any] = {"namespace": SIDE} if key[0] == "s" else {"ttl_s": rng.choice((None, 3.0))}
        op, begun = self.op(Kind.READ, "get_or_load", key, timeout_s), len(self.history.loads)
        call = self.cache.get_or_load(
            key, self._loader(key, op.began), tags=tags_of(key), timeout_s=timeout_s, lease_s=lease_s, **more
        )
        op.value = await self.do([op], call)
        for run in self.history.loads[begun:]:
            if run.key == key and run.client == self.name and run.asked == op.began:
                run.landed = op.ended

    def _loader(self, key: str, asked: float) -> Callable[[], Awaitable[int]]:
        async def load() -> int:
            world, rng, mix = self._world, self.rng, self.mix
            slow = mix.slow_load_s if rng.random() < mix.slow_load else mix.load_s
            run = Load(key, self.name, asked, world.loop.now)
            self.history.loads.append(run)
            try:
                await world.pause(rng.random() * slow / 4)
                run.value = value = self._origin.read(key)
                await world.pause(rng.random() * slow)
                if rng.random() < mix.load_fails:
                    raise OriginDown
            finally:
                run.ended = world.loop.now
            return value

        return load

    # Writes.

    async def _write_d(self, key: str) -> None:
        await write_dependent(self, key)

    async def _write_p(self, key: str) -> None:
        await write_parent(self, key)

    def value(self, key: str) -> str:
        """Return a value that nobody else writes."""
        self._written += 1
        padding = "." * 6_000 if self.rng.random() < 0.05 else ""  # a few of these fill a small near cache
        return f"{key}#{self.name}#{self._written}{padding}"

    async def _write_c(self, key: str) -> None:
        dice = self.rng.random()
        if dice < 0.55:
            await self._set(key, lax=self.rng.random() < 0.1)
        elif dice < 0.6:
            await self._set_two()
        elif dice < 0.66:
            await self._set_if(key)
        elif dice < 0.76:
            await self._remove("delete", [key], self.cache.delete, {"key": key})
        elif dice < 0.8:
            await self._touch(key)
        else:
            await self._invalidate(key)

    async def _set(self, key: str, *, lax: bool = False, ttl_s: float | None = None) -> None:
        timeout_s, value = self._timeout(), self.value(key)
        op = self.op(Kind.WRITE, "set", key, timeout_s, value=value, tagged=True, lax=lax)
        if ttl_s is not None:
            op.ttl_s = ttl_s
        ack = "owner" if lax else "all"
        call = self.cache.set(key, value, tags=tags_of(key), ttl_s=ttl_s, ack=ack, timeout_s=timeout_s)
        op.version = await self.do([op], call) or 0

    async def _set_two(self) -> None:
        timeout_s = self._timeout()
        keys = self.rng.sample([key for key in self.keys if key[0] == "c"], 2)
        values = {key: self.value(key) for key in keys}
        ops = [self.op(Kind.WRITE, "set_many", key, timeout_s, value=values[key]) for key in keys]
        versions = await self.do(ops, self.cache.set_many(values, timeout_s=timeout_s))
        for op in ops:
            op.version = (versions or {}).get(op.key, 0)

    async def _set_if(self, key: str) -> None:
        timeout_s, value = self._timeout(), self.value(key)
        how = self.rng.choice(("add", "replace"))
        op = self.op(Kind.WRITE, how, key, timeout_s, value=value)
        op.version = await self.do([op], getattr(self.cache, how)(key, value, timeout_s=timeout_s)) or 0
        if op.done and not op.version:  # the condition did not hold
            op.kind, op.error = Kind.TOUCH, "condition"

    async def _touch(self, key: str) -> None:
        timeout_s, ttl_s = self._timeout(), self.rng.choice(_TTLS_S) if key[0] == "t" else 60.0
        op = self.op(Kind.TOUCH, "touch", key, timeout_s, ttl_s=ttl_s)
        await self.do([op], self.cache.touch(key, ttl_s=ttl_s, timeout_s=timeout_s))

    async def _remove(
        self, how: str, keys: list[str], call: Callable[..., Awaitable[Any]], arguments: dict[str, Any]
    ) -> None:
        """Make a call that removes some keys."""
        timeout_s, ack = self._timeout(), self.rng.choice(("all",) * 9 + ("owner",))
        tagged = "tags" in arguments
        ops = []
        for key in keys:
            committed = self._origin.read(key) if key[0] in "osr" else None
            op = self.op(Kind.REMOVE, how, key, timeout_s, tagged=tagged, lax=ack == "owner", value=committed)
            op.expire = arguments.get("mode") == "expire"
            ops.append(op)
        await self.do(ops, call(**arguments, timeout_s=timeout_s, ack=ack))

    async def _invalidate(self, key: str) -> None:
        """Declare a key untrue, in one of the ways in which it is covered."""
        family, _, number = key.partition(":")
        same = [each for each in self.keys if each[0] == family]
        ways: list[tuple[str, list[str], dict[str, Any]]] = [
            ("invalidate", [key], {"keys": key}),
            ("invalidate", [key], {"keys": [key]}),
            ("invalidate prefix", same, {"prefix": f"{family}:"}),
            ("invalidate pattern", [key], {"pattern": f"{family}?{number}"}),
            (
                "invalidate tag",
                [each for each in same if tags_of(each)[0] == tags_of(key)[0]],
                {"tags": tags_of(key)[:1]},
            ),
        ]
        if family in _SPACES:
            ways.append(("invalidate namespace", same, {}))
        if self.mix.one_by_one:
            ways = [way for way in ways if way[0] in {"invalidate", "invalidate pattern"}]
        how, keys, arguments = self.rng.choice(ways)
        if family in _SPACES:
            arguments["namespace"] = _SPACES[family]
        if family == "r" and self._expires.random() < 0.3:
            how, arguments["mode"] = how.replace("invalidate", "expire"), "expire"
        await self._remove(how, keys, self.cache.invalidate, arguments)

    async def _write_o(self, key: str) -> None:
        """Write to the origin, and then tell the cache."""
        self._origin.commit(key, self._world.loop.now)
        if key[0] == "o" and self.rng.random() < 0.2:
            await self._remove("delete", [key], self.cache.delete, {"key": key})
        else:
            await self._invalidate(key)

    _write_s = _write_o

    async def _write_r(self, key: str) -> None:
        """Write to the origin, and then tell the cache; or give it the value; or forget to do so."""
        number, dice = self._origin.commit(key, self._world.loop.now), self.rng.random()
        if dice < 0.1:
            return
        if dice < 0.3 and not is_absent(number):
            timeout_s = self._timeout()
            op = self.op(Kind.WRITE, "set", key, timeout_s, value=number)
            call = self.cache.set(key, number, tags=tags_of(key), namespace=THROUGH, timeout_s=timeout_s)
            op.version = await self.do([op], call) or 0
        elif dice < 0.45:
            await self._remove("delete", [key], self.cache.delete, {"key": key, "namespace": THROUGH})
        else:
            await self._invalidate(key)

    _write_w = written.write
    _write_b = behind.write
    _write_y = sliding.write

    async def _write_n(self, key: str) -> None:
        timeout_s = self._timeout()
        op = self.op(Kind.COUNT, "incr", key, timeout_s)
        op.value = await self.do([op], self.cache.incr(key, timeout_s=timeout_s))

    async def _write_t(self, key: str) -> None:
        if self.rng.random() < 0.2:
            await self._touch(key)
        else:
            await self._set(key, ttl_s=self.rng.choice(_TTLS_S))

    async def _write_v(self, key: str) -> None:
        timeout_s = self._timeout()
        read = self.op(Kind.READ, "lookup", key, timeout_s)
        entry = await self.do([read], self.cache.lookup(key, timeout_s=timeout_s))
        if entry is None:
            return
        value = self.value(key)
        op = self.op(Kind.SWAP, "set_if", key, timeout_s, value=value)
        if entry.found:
            read.value, op.base = entry.value, entry.version
            call = self.cache.set(key, value, if_version=entry.version, timeout_s=timeout_s)
        else:
            call = self.cache.add(key, value, timeout_s=timeout_s)
        op.version = await self.do([op], call) or 0
