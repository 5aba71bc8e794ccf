"""A cluster of cachenode's own code in virtual time: processes, the network between them, and the Redis servers.

Everything that runs is real: `Server` with all that it builds, and `CacheClient`. Simulated are gRPC's streams
(`network`), the Redis servers (`stores`) and the clocks, which differ from host to host in rate and beginning.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import structlog
from grpc import aio

import cachenode.adapters.leases_kubernetes
import cachenode.adapters.peer_links
import cachenode.assembly
import cachenode.node.placement
import cachenode.server
import cachenode_client._client
import cachenode_client._core
import cachenode_client._router
import cachenode_client._session
from cachenode.adapters.redis_checks import RedisChecks
from cachenode.config import NodeConfig
from cachenode.server import Server
from cachenode_api.ring import Ring
from cachenode_api.view import View
from cachenode_client._near import NearCache
from tests.sim.behind import BEHIND, BEHIND_ORIGIN, BEHIND_POLICY, QueueLink
from tests.sim.loop import HOST, Host, SimLoop
from tests.sim.network import Network
from tests.sim.order import fix_order
from tests.sim.origin import Origin
from tests.sim.sliding import SLIDING, SLIDING_POLICY
from tests.sim.stores import Faults, HostClock, L2Link, LeasesLink, RedisClient, RedisServer
from tests.sim.trace import frame_text
from tests.sim.written import WRITTEN, WRITTEN_ORIGIN, WRITTEN_POLICY, Access, Table

__all__ = ["THROUGH", "Node", "World", "simulated"]

THROUGH = "through"
"""The namespace whose values the nodes load."""

_PORT = 7401
_NEAR_AHEAD_S = 1_000.0
_LIMIT_S = 600.0


class Node:
    """A node's process."""

    def __init__(self, host: Host, server: Server) -> None:
        self.host = host
        self.server = server
        self.stopping = False


class World:
    """All machines of one run.

    Args:
        seed: Of everything.
        nodes: How many machines there are for nodes.
        drift: How far the rates of clocks may be off.
        tracing: Note every message too.
        l2: Whether the nodes share a store.
        through: The settings of the namespace whose values the nodes load, and its origin's soft timeout.
        behind: Whether a namespace writes behind.
        leases: Whether nodes meet in leases of an API server.

    Attributes:
        origin: The database.
        table: Another, which the nodes write too.
        reader: Makes what a node's process loads with.
        nodes: Running nodes by machine.
        defects: What must never happen, whatever the faults: unexpected errors and logged ones.
        trace: What happened when, if it is wanted, and what faults were done.
    """

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        drift: float = 0.05,
        tracing: bool = False,
        l2: bool = True,
        through: Mapping[str, Any] | None = None,
        behind: bool = False,
        leases: bool = False,
    ) -> None:
        self.rows = Table()
        """What is written behind."""
        self._behind = behind
        self._discovery = "kubernetes" if leases else "redis"
        self.loop = SimLoop()
        self.loop.set_exception_handler(self._loop_error)
        self.rng = Random(f"{seed} world")
        self.network = Network(self.loop, Random(f"{seed} network"))
        self.machines = [f"n{at}" for at in range(nodes)]
        self.nodes: dict[str, Node] = {}
        self.hosts: list[Host] = []
        self.defects: list[tuple[float, str]] = []
        self.faults: Counter[str] = Counter()
        self.log: list[tuple[float, str]] = []
        self.tracing = tracing
        if tracing:
            self.network.trace = self._message
        self.views: list[tuple[float, int, str]] = []
        self.origin = Origin()
        self.reader: Callable[[Host], object] = _no_reader
        self.table = Table()
        self._seed = seed
        self._accesses = 0
        self._through = {"origin": "db", **(through or {})}
        self._soft_timeout_s = self._through.pop("soft_timeout_s", 0.0)
        self._drift = drift
        self._l2_url = "redis://l2:6379" if l2 else "none"
        self._closing = False
        self._clocks: dict[str, tuple[float, float]] = {}
        self.redis: dict[str, RedisServer] = {}
        self.ways = {"l2": Faults(), "registry": Faults(), "queue": Faults()}

    # Hosts.

    def host(self, machine: str) -> Host:
        """Return a new process on a machine."""
        if machine not in self._clocks:
            rng, most = self.rng, self._drift
            drift = rng.choice((-most, most, rng.uniform(-most, most)))  # two at the ends are the hardest case
            self._clocks[machine] = (1 + drift, rng.uniform(100.0, 10_000.0))
        host = Host(machine, *self._clocks[machine])
        self.hosts.append(host)
        return host

    @property
    def address(self) -> str:
        """Where clients begin."""
        return ",".join(f"{machine}:{_PORT}" for machine in self.machines)

    def note(self, text: str) -> None:
        """Remember what happened."""
        self.log.append((self.loop.now, text))

    def defect(self, text: str) -> None:
        """Remember what must not happen."""
        self.defects.append((self.loop.now, text))

    async def pause(self, seconds: float) -> None:
        """Let virtual time pass on the present host, or true time outside of all."""
        done = self.loop.create_future()
        self.loop.call_later(seconds, _resolve, done)
        await done

    def access(self, table: Table) -> Access:
        """Return what a node's process reads and writes a table with."""
        self._accesses += 1
        dice = Random(f"{self._seed} access {self._accesses}")
        return Access(self, table, dice, refuses=table is self.table)

    # Nodes.

    def begin(self) -> None:
        """Start the Redis servers. To be called within the loop."""
        for name in ("l2", "registry", "queue") if self._behind else ("l2", "registry"):
            self.redis[name] = RedisServer(self.host(name))

    async def start_node(self, machine: str) -> Node:
        """Start a node's process; returns when it serves, which is before it has joined."""
        host = self.host(machine)
        config = NodeConfig.model_validate(
            {
                "node": {"id": machine, "listen": f"{machine}:{_PORT}", "http_listen": "", "insecure": True},
                "cluster": {"discovery": self._discovery},
                "memory": {"max_bytes": 1 << 20},
                "namespaces": {
                    "default": {"refresh_ahead": 0.9},
                    THROUGH: self._through,
                    WRITTEN: WRITTEN_POLICY,
                    SLIDING: SLIDING_POLICY,
                    **({BEHIND: BEHIND_POLICY} if self._behind else {}),
                },
                "origins": {
                    "db": {
                        "loader": "db",
                        "batch_keys": 3,
                        "attempts": 2,
                        "timeout_s": 1.5,
                        "soft_timeout_s": self._soft_timeout_s,
                    },
                    "table": WRITTEN_ORIGIN,
                    **({"rows": BEHIND_ORIGIN} if self._behind else {}),
                },
                "writebehind": {"attempts": 1_000, "retry_max_s": 1.0},
                "l2": {
                    "url": self._l2_url,
                    "registry_url": "redis://registry:6379",
                    "queue_url": "redis://queue:6379" if self._behind else "",
                },
            }
        )
        server = Server(config)
        node = self.nodes[machine] = Node(host, server)
        await self.loop.spawn(host, server.start())
        server.node.wall = lambda: self.loop.now
        server._placement.listeners.append(lambda _former, view: self._viewed(machine, view))
        return node

    def _message(self, pipe: Any, item: bytes) -> None:
        self.note(f"{pipe.cut[0]}>{pipe.cut[1]} {frame_text(pipe.parse(item))}")

    def _viewed(self, machine: str, view: View) -> None:
        members = ",".join(f"{member.id}/{int(member.incarnation, 16)}" for member in view.members)
        self.views.append((self.loop.now, view.epoch, machine))
        self.note(f"{machine} acts under view {view.epoch} of {members}")

    async def stop_node(self, machine: str) -> None:
        """Stop a node in good order, as SIGTERM does."""
        node = self.nodes[machine]
        node.stopping = True
        await self.loop.spawn(node.host, node.server.stop())
        self._end(machine, node, silently=False)

    def crash_node(self, machine: str, *, silently: bool) -> None:
        """Let a node's process vanish."""
        self._end(machine, self.nodes[machine], silently=silently)

    def _end(self, machine: str, node: Node, *, silently: bool) -> None:
        if node.host.dead:
            return
        self.end_process(node.host, silently=silently)
        if self.nodes.get(machine) is node:
            del self.nodes[machine]
        if not any(map(_knows, self.nodes.values())):
            self.redis["l2"].keep()

    def end_process(self, host: Host, *, silently: bool) -> None:
        """Let a process vanish, and its streams with it."""
        self.loop.kill(host)
        self.network.host_gone(host, silently=silently)

    async def drained(self, within_s: float = 60.0) -> bool:
        """Return True once nothing waits to be written behind, False if that takes too long."""
        end = self.loop.now + within_s
        while self._behind and self.redis["queue"].queue.records.get(BEHIND):
            if self.loop.now > end:
                return False
            await self.pause(0.1)
        return True

    async def joined(self, machines: list[str], within_s: float = 30.0) -> bool:
        """Return True once these nodes are in one view, False if that takes too long."""
        end = self.loop.now + within_s
        while self.loop.now < end:
            running = [self.nodes[machine].server for machine in machines if machine in self.nodes]
            epochs = {server._placement.epoch for server in running}
            if len(running) == len(machines) and len(epochs) == 1 and all(server.ready for server in running):
                return True
            await self.pause(0.05 * 1.0)
        return False

    # Errors.

    def _loop_error(self, _loop: Any, context: dict[str, Any]) -> None:
        host = HOST.get()
        if self._closing or (host is not None and host.dead):
            return
        error = context.get("exception")
        self.defect(f"loop: {context.get('message')} {type(error).__name__}: {error} {context.get('future')!r}"[:600])

    def logged(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        """Take what the nodes log: an error is a defect."""
        host = HOST.get()
        name = host.name if host is not None else "?"
        if self.loop.is_closed() or self._closing or (host is not None and host.dead):
            raise structlog.DropEvent
        if method in {"error", "critical", "exception"}:
            error = event.get("exc_info")
            self.defect(f"{name} logged {event.get('event')}: {error!r}")
        elif self.tracing:
            self.note(f"{name} logs {event.get('event')}")
        raise structlog.DropEvent

    # Running.

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run until `main` ends."""

        async def begin() -> None:
            self.begin()
            await main()

        self.loop.run_until_complete(self.loop.spawn(None, begin()))

    def close(self) -> None:
        """Bury what is left."""
        self._closing = True
        for host in self.hosts:
            host.dead = True
        self.loop.bury(self.hosts)
        self.loop.close()


def _knows(node: Node) -> bool:
    """Return True if a node has been a member long enough to know of L2 what there is to know."""
    tier = node.server.node.tier
    return node.server.node.placement.ready and tier is not None and not tier.must_adopt


def _no_reader(host: Host) -> object:
    async def load_many(keys: list[str]) -> dict[str, object]:
        return {}

    return load_many


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


@lru_cache(maxsize=2_000)
def _ring(seed: bytes, ring_hash: str, vnodes: int, members: tuple[tuple[str, int], ...], view: _Same) -> Ring:
    return Ring(view.view)


class _Same:
    """Carries a view past the cache's comparison."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def _ring_of(view: View) -> Ring:
    """Return a view's ring; hashing its points anew at every node and client would cost more than all else."""
    members = tuple((member.id, member.weight) for member in view.members)
    return _ring(view.ring_seed, view.ring_hash, view.vnodes, members, _Same(view))


def _boot_clock() -> float:
    host = HOST.get()
    assert host is not None, "a near cache belongs to a host"
    return host.local(_now()) + _NEAR_AHEAD_S


_now: Callable[[], float] = lambda: 0.0  # noqa: E731 - replaced while a world runs


@contextmanager
def simulated(world: World, seed: int) -> Iterator[None]:
    """Let cachenode's modules use a world instead of the real one."""

    def connect(url: str, **_: Any) -> RedisClient:
        name = url.partition("//")[2].partition(":")[0]
        return RedisClient(world.network, world.redis[name], world.ways[name])

    def leases(_cluster: str, **_: Any) -> LeasesLink:
        return LeasesLink(world.network, world.redis["registry"], world.ways["registry"])

    def clock() -> HostClock:
        host = HOST.get()
        assert host is not None, "a clock belongs to a host"
        return HostClock(host)

    def plugin(name: str, _options: Mapping[str, Any], _group: str) -> object:
        if name in ("table", "rows"):
            return world.access(world.table if name == "table" else world.rows)
        host = HOST.get()
        assert host is not None, "a node belongs to a host"
        return world.reader(host)

    client_aio = SimpleNamespace(
        insecure_channel=world.network.insecure_channel, UsageError=aio.UsageError, AioRpcError=aio.AioRpcError
    )
    replaced: list[tuple[ModuleType | type, str, Any]] = [
        (cachenode.server, "aio", world.network),
        (cachenode.server, "BootClock", clock),
        (cachenode.server, "make_policies", lambda _config: None),
        (cachenode.server, "make_redis_checks", lambda _config: RedisChecks([])),  # they look at settings
        (cachenode.assembly, "connect", connect),
        (cachenode.adapters.leases_kubernetes, "KubernetesLeases", leases),
        (cachenode.assembly, "RedisL2", L2Link),
        (cachenode.assembly, "RedisQueue", QueueLink),
        (cachenode.assembly, "find_plugin", plugin),
        (cachenode.adapters.peer_links, "aio", world.network),
        (cachenode.node.placement, "Ring", _ring_of),
        (cachenode_client._router, "Ring", _ring_of),
        (cachenode_client._session, "aio", client_aio),
        (cachenode_client._channels, "aio", client_aio),
        (cachenode_client._session, "boot_clock", _boot_clock),
        (cachenode_client._core, "boot_clock", _boot_clock),
        (cachenode_client._client, "boot_clock", _boot_clock),
        (cachenode_client._core, "NearCache", partial(NearCache, clock=_boot_clock)),
    ]
    logging = structlog.get_config()
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(patch.dict(globals(), {"_now": lambda: world.loop.now}))
        fix_order(stack, seed)
        structlog.configure(processors=[world.logged])
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of dead processes are awaited by nobody
        gc.freeze()  # what was there before need not be looked at
        gc.disable()  # what the collector finds, and when, would differ from run to run
        try:
            yield
        finally:
            world.close()
            gc.collect()
            gc.enable()
            gc.unfreeze()
            structlog.configure(**logging)
