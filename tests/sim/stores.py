"""The Redis servers of a simulated cluster, and the links of the nodes to them.

A link has connections. Each is bound to one life of its server and asks at its beginning which life that is, as
`cachenode.adapters.l2_redis` does. A request may be lost, or its answer after it was done, or it is done late: a frozen
server wakes up and reads its sockets. A server may go away, begin anew, empty, or be replaced by a replica that lacks
the last writes.

What executes is `MemoryL2` and `MemoryRegistry`. What calls is cachenode's own `TurnBatcher` and `RedisRegistry`; or
`LeaseRegistry`, where the arbiter is an API server.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from cachenode.adapters.batching import TurnBatcher
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.adapters.leases import Lease, LeaseChanged
from cachenode.adapters.leases_memory import MemoryLeases
from cachenode.adapters.queue_memory import MemoryQueue
from cachenode.adapters.registry_memory import MemoryRegistry
from cachenode.core.entries import L2Entry, L2Write
from cachenode.errors import RegistryError
from cachenode_api.selectors import Selector
from cachenode_api.view import Member, View
from tests.sim.loop import HOST, Host
from tests.sim.network import Network

__all__ = ["L2Link", "LeasesLink", "RedisClient", "RedisServer"]

T = TypeVar("T")
_REMEMBERED = 5_000
_BULK_WAITS = 10
_RING_SEED = b"simulated-seed-1"


class HostClock:
    """A `Clock` of one host, apart from the loop's: who mixes the two is found out."""

    def __init__(self, host: Host, ahead: float = 5_000.0) -> None:
        self._host = host
        self.ahead = ahead
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """Return what the host's clock shows."""
        return self._host.local(self._loop.now) + self.ahead  # type: ignore[attr-defined]


class _Undoable(dict[Any, Any]):
    """A dict that remembers how it was."""

    def __init__(self, undo: deque[tuple[dict[Any, Any], Any, Any]]) -> None:
        super().__init__()
        self._undo = undo

    def __setitem__(self, key: Any, value: Any) -> None:
        self._undo.append((self, key, self.get(key)))
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._undo.append((self, key, self.get(key)))
        super().__delitem__(key)


class RedisServer:
    """One Redis: what it holds, and whether it answers.

    Attributes:
        life: Rises when it begins anew or is replaced.
        down: No connection comes about, and those that were are lost.
        frozen: What arrives waits.
        executed: How many requests were done.
        lacking: It may have older values again than it once had.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.life = 1
        self.down = False
        self.frozen = False
        self.executed = 0
        self._undo: deque[tuple[dict[Any, Any], Any, Any]] = deque(maxlen=_REMEMBERED)
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self.clock = HostClock(host, 0.0)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget everything, as a server without persistence that was started again."""
        self.life += 1
        self.lacking = False
        self.store = MemoryL2(self.clock)
        self.store._slots = _Undoable(self._undo)
        self.store._barriers = _Undoable(self._undo)
        self._undo.clear()
        self.queue = MemoryQueue(self.clock)
        self.registry = MemoryRegistry(self.clock, seed=lambda: _RING_SEED)
        self.leases = MemoryLeases()
        self.epochs = 0

    def step_clock(self, seconds: float) -> None:
        """Let its clock jump, as when somebody sets it."""
        self.clock.ahead += seconds

    def keep(self) -> None:
        """Lose nothing any more of what has been written until now, and nothing that was lost comes back.

        Called when no node is left that knows what has been written: that L2 forgets it then, or has done so just now,
        is no failure that the cluster promises to survive (see the README).
        """
        self._undo.clear()
        if self.lacking:
            self.begin_anew()

    def fail_over(self, writes: int) -> None:
        """Let a replica take its place that lacks the last so many writes."""
        self.life += 1
        self.lacking = True
        self._waiting.clear()
        for _ in range(min(writes, len(self._undo))):
            table, key, old = self._undo.pop()
            if old is None:
                dict.pop(table, key, None)
            else:
                dict.__setitem__(table, key, old)
        self._undo.clear()

    def evict(self, rng: Random, count: int) -> None:
        """Let some values go, as if memory had been short."""
        slots = self.store._slots
        values = [key for key, slot in slots.items() if slot.value is not None]
        for key in rng.sample(values, min(count, len(values))):
            dict.pop(slots, key)

    def arrive(self, life: int, work: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Do what has arrived over a connection to one of its lives, now or when it wakes up."""
        if self.down or life != self.life:
            refuse()
        elif self.frozen:
            self._waiting.append((life, work))
        else:
            self.executed += 1
            work()

    def thaw(self) -> None:
        """Wake up, and do what has arrived meanwhile."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for life, work in waiting:
            if life == self.life:
                self.executed += 1
                work()


class _Wire:
    """The way from one process to a Redis: connections, each bound to one life of it.

    Attributes:
        lose_request: Probability that a request does not arrive, and nobody says so.
        lose_reply: The same for its answer.
    """

    def __init__(self, network: Network, server: RedisServer, faults: Faults) -> None:
        host = HOST.get()
        assert host is not None, "only hosts have links"
        self._host = host
        self._network = network
        self._server = server
        self._faults = faults
        self._free: list[int] = []
        self.met: Callable[[int], None] = lambda _life: None

    async def trip(self, work: Callable[[], T]) -> T:
        """Have the server do something and return its result.

        Raises:
            RedisConnectionError: The connection was lost or did not come about.
        """
        if self._free:
            life = self._free.pop()
        else:
            life = await self._send(lambda: self._server.life, None)
            self.met(life)
        result = await self._send(work, life)
        self._free.append(life)
        return result

    async def _send(self, work: Callable[[], T], life: int | None) -> T:
        network, server, rng = self._network, self._server, self._network.rng
        there, back = (self._host.name, server.host.name), (server.host.name, self._host.name)
        answer: asyncio.Future[T] = network.loop.create_future()

        def settle(result: T | None, error: bool) -> None:
            if answer.done() or self._host.dead:
                return
            if error:
                answer.set_exception(RedisConnectionError("Connection reset by peer"))
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def reply(result: T | None, error: bool) -> None:
            if error or rng.random() >= self._faults.lose_reply:
                network.loop.after(network.delay(back), network.when_open, back, settle, result, error)

        def arrived() -> None:
            server.arrive(
                server.life if life is None else life, lambda: reply(work(), False), lambda: reply(None, True)
            )

        if rng.random() >= self._faults.lose_request:
            late = rng.random() * self._faults.late_s if rng.random() < self._faults.late else 0.0
            network.loop.after(network.delay(there) + late, network.when_open, there, arrived)
        return await answer


class Faults:
    """How badly the ways to one Redis behave.

    Attributes:
        lose_request: Probability that a request does not arrive.
        lose_reply: Probability that the answer to one that was done does not arrive.
        late: Probability that a request takes up to `late_s` longer.
        late_s: See there.
    """

    def __init__(self) -> None:
        self.lose_request = 0.0
        self.lose_reply = 0.0
        self.late = 0.0
        self.late_s = 1.0

    def clear(self) -> None:
        """Behave well."""
        self.lose_request = self.lose_reply = self.late = 0.0


class L2Link:
    """Takes the place of `RedisL2`: the same batching and time limits, over a simulated way.

    Args:
        client: Says which server, and over which network.
        cluster: As `RedisL2`, as all below.
        timeout_s: Of a read.
        write_timeout_s: Of a write.
        tombstone_s: Life of a tombstone.
    """

    def __init__(
        self, client: RedisClient, cluster: str, *, timeout_s: float, write_timeout_s: float, tombstone_s: float
    ) -> None:
        self.history = 0
        self._life: int | None = None
        self._server = client.server
        self._wire = _Wire(client.network, client.server, client.faults)
        self._wire.met = self._met
        self._reads: TurnBatcher[tuple[str, bytes], L2Entry | None] = TurnBatcher(
            self._read, in_flight=8, limit_s=timeout_s
        )
        self._scripts: TurnBatcher[Callable[[], Any], Any] = TurnBatcher(
            self._run, in_flight=8, limit_s=write_timeout_s, wait_limits=_BULK_WAITS, max_items=128
        )
        self._looks: TurnBatcher[Callable[[], Any], Any] = TurnBatcher(self._run, in_flight=1, limit_s=timeout_s)

    def _met(self, life: int) -> None:
        if self._life is not None and life != self._life:
            self.history += 1
        self._life = life

    async def _read(self, items: list[tuple[str, bytes]]) -> list[L2Entry | None]:
        def work() -> list[L2Entry | None]:
            return [_now(self._server.store.read(namespace, [key]))[0] for namespace, key in items]

        return await self._wire.trip(work)

    async def _run(self, items: list[Callable[[], Any]]) -> list[Any]:
        return await self._wire.trip(lambda: [item() for item in items])

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        return await self._reads.submit([(namespace, key) for key in keys])

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        return await self._scripts.submit([partial(self._write, namespace, write) for write in writes])

    def _write(self, namespace: str, write: L2Write) -> bool:
        return _now(self._server.store.write(namespace, [write]))[0]

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        return await self._scripts.submit([partial(self._prolong, namespace, life) for life in lives])

    def _prolong(self, namespace: str, life: tuple[bytes, int, float]) -> bool:
        return _now(self._server.store.prolong(namespace, [life]))[0]

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        return await self._scripts.submit([partial(self._drop, namespace, drop) for drop in drops])

    def _drop(self, namespace: str, drop: tuple[bytes, int]) -> bool:
        return _now(self._server.store.drop(namespace, [drop]))[0]

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        def note(barrier: tuple[int, Selector]) -> None:
            _now(self._server.store.note_barriers(namespace, [barrier]))

        await self._scripts.submit([partial(note, barrier) for barrier in barriers])

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        (found,) = await self._looks.submit([lambda: _now(self._server.store.barriers())])
        return found  # type: ignore[no-any-return]

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        (taken,) = await self._scripts.submit([lambda: _now(self._server.store.lock(namespace, key, token, ttl_s))])
        return bool(taken)

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        (given,) = await self._scripts.submit([lambda: _now(self._server.store.unlock(namespace, key, token))])
        return bool(given)

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        (found,) = await self._looks.submit([lambda: _now(self._server.store.keys(namespace, cursor))])
        return found  # type: ignore[no-any-return]

    async def ping(self) -> None:
        await self._looks.submit([lambda: None])

    async def close(self) -> None:
        for batcher in (self._reads, self._scripts, self._looks):
            await batcher.close()


class RedisClient:
    """What `connect` returns for the registry's adapter: scripts whose meaning is known here."""

    def __init__(self, network: Network, server: RedisServer, faults: Faults) -> None:
        self.network = network
        self.server = server
        self.faults = faults
        self._wire = _Wire(network, server, faults)

    def register_script(self, text: str) -> Callable[..., Awaitable[Any]]:
        """Return what runs a script."""
        work = _renew if "known epoch" in text else _leave if "HINCRBY" in text else _after

        async def run(*, keys: Sequence[str], args: Sequence[Any]) -> Any:
            return await self._wire.trip(lambda: work(self.server, args))

        return run

    async def aclose(self) -> None:
        """Nothing to give back."""


class LeasesLink:
    """Takes the place of `KubernetesLeases`: an API server that keeps leases, over a simulated way."""

    def __init__(self, network: Network, server: RedisServer, faults: Faults) -> None:
        self._server = server
        self._wire = _Wire(network, server, faults)

    async def list(self) -> list[Lease]:
        return await self._do(self._server.leases.list)

    async def create(self, lease: Lease) -> Lease:
        return await self._do(lambda: self._server.leases.create(lease))

    async def replace(self, lease: Lease) -> Lease:
        return await self._do(lambda: self._server.leases.replace(lease))

    async def delete(self, lease: Lease) -> None:
        await self._do(lambda: self._server.leases.delete(lease))

    async def watch(self, _name: str) -> AsyncGenerator[Lease | None, None]:
        """Tell nothing: here renewals alone find what has changed, as when no watch gets through."""
        await asyncio.get_running_loop().create_future()
        yield None

    async def close(self) -> None:
        """Nothing to give back."""

    async def _do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def attempt() -> tuple[bool, Any]:
            try:
                return True, _now(work())
            except LeaseChanged:
                return False, None

        try:
            done, answer = await self._wire.trip(attempt)
        except RedisConnectionError:
            raise RegistryError("the Kubernetes API cannot be reached") from None
        if not done:
            raise LeaseChanged
        return answer  # type: ignore[no-any-return]


def _renew(server: RedisServer, args: Sequence[Any]) -> list[Any]:
    me, known = _member(args[0]), None
    if args[4]:
        known = View(args[4], bytes(args[5]), tuple(map(_member, args[6:])))
    try:
        renewal = _now(server.registry.renew(me, known))
    except RegistryError:
        return [b"elsewhere", 0, b"", [], 0]
    view = renewal.view
    return [None, view.epoch, view.ring_seed, [_packed(member) for member in view.members], int(renewal.replaced)]


def _leave(server: RedisServer, args: Sequence[Any]) -> list[Any] | int:
    view = _now(server.registry.leave(_member(args[0])))
    return [view.epoch, view.ring_seed, [_packed(member) for member in view.members]] if view is not None else 0


def _after(server: RedisServer, args: Sequence[Any]) -> int:
    server.epochs = max(server.epochs, int(args[0])) + 1
    return server.epochs


def _member(packed: bytes) -> Member:
    return Member(*json.loads(packed))


def _packed(member: Member) -> bytes:
    return json.dumps([member.id, member.incarnation, member.address, member.http_address, member.weight]).encode()


def _now(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a store in memory waits for nothing")
