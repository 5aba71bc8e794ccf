"""What an acknowledged invalidation costs: real clients in real processes hold copies of what is invalidated."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachenode.cli.local_cluster import ClusterError, LocalCluster
from tests.bench import servers
from tests.bench.processes import BenchError, Child, spawn, spawn_worker

__all__ = ["Effort", "Measured", "cluster", "to_one", "to_twenty", "together", "with_idle_sessions"]

_CONNECT_S = 60.0
_ROUND_S = 120.0
_PROCESSES = 4
_TWENTY = 20
_CALLERS = 64
_IDLE = 500
_WARM = 20


@dataclass(frozen=True, slots=True)
class Effort:
    """How often.

    Attributes:
        rounds: As for every row.
        calls: Invalidations of a round, one after the other.
        at_once: Invalidations of a round, many at the same time.
        echo_s: Length of a round of the bare echo.
        logs: Where messages of the processes go.
        uvloop: As for every row.
    """

    rounds: int
    calls: int
    at_once: int
    echo_s: float
    logs: Path
    uvloop: bool


@dataclass(slots=True)
class Measured:
    """The rounds of both, and all calls of ours in microseconds."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    calls_us: list[float] = field(default_factory=list)

    @property
    def p99_us(self) -> float:
        """Return the time that one call in a hundred exceeded."""
        return statistics.quantiles(self.calls_us, n=100)[98]


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[str]:
    """Start three nodes with an L2 and return their addresses.

    Raises:
        BenchError: They did not start.
    """
    with tempfile.TemporaryDirectory(prefix="cachenode-bench-") as folder:
        running = LocalCluster(nodes=3, directory=Path(folder))
        try:
            await running.start()
            yield running.address
        except ClusterError as error:
            raise BenchError(str(error)) from None
        finally:
            await running.stop()


async def to_one(address: str, effort: Effort) -> Measured:
    """Invalidate what one client holds; the peer is a bare echo on a stream."""
    async with contextlib.AsyncExitStack() as stack:
        echo = await stack.enter_async_context(servers.echo("echo", logs=effort.logs, tuned=False))
        settings = {"address": echo.address, "timed": True}
        peer = await stack.enter_async_context(
            spawn_worker("echo-client", "GrpcEchoStream", settings, logs=effort.logs, uvloop=effort.uvloop)
        )
        await peer.read(_CONNECT_S)
        invalidator = await _invalidator(stack, address, await _holders(stack, address, effort, clients=1), effort)
        measured = Measured()
        order = {"do": "run", "seconds": effort.echo_s}
        await peer.ask(order, _ROUND_S)
        for _ in range(effort.rounds):
            await _round(invalidator, 1, effort, measured)
            measured.peer.append((await peer.ask(order, _ROUND_S))["p50_us"])
    return measured


async def to_twenty(address: str, effort: Effort) -> Measured:
    """Invalidate what twenty clients hold; the peer is a bare server with as many streams."""
    async with contextlib.AsyncExitStack() as stack:
        peer = await _fan_out(stack, effort)
        ports = await _holders(stack, address, effort, clients=_TWENTY, processes=_PROCESSES)
        invalidator = await _invalidator(stack, address, ports, effort)
        measured = Measured()
        order = {"do": "run", "count": effort.calls}
        await peer.ask(order, _ROUND_S)
        for _ in range(effort.rounds):
            await _round(invalidator, _TWENTY, effort, measured)
            measured.peer.append(statistics.median((await peer.ask(order, _ROUND_S))["took_us"]))
    return measured


async def together(address: str, effort: Effort) -> Measured:
    """Invalidate many keys at the same time, all held by one client; the rounds are numbers per second."""
    measured = Measured()
    async with contextlib.AsyncExitStack() as stack:
        invalidator = await _invalidator(stack, address, await _holders(stack, address, effort, clients=1), effort)
        order = {"do": "at_once", "count": effort.at_once, "callers": _CALLERS}
        for at in range(effort.rounds + 1):
            answer = await invalidator.ask(order, _ROUND_S)
            _check(answer, effort.at_once)
            if at:
                measured.ours.append(effort.at_once / answer["seconds"])
    return measured


async def with_idle_sessions(effort: Effort) -> Measured:
    """Invalidate what one client holds, with and without many idle sessions on the same node.

    One node, so that all sessions are with the owner of the key. Half of the rounds without them come before, half
    after, so that drift cancels.
    """
    measured, before = Measured(), (effort.rounds + 1) // 2
    async with contextlib.AsyncExitStack() as stack:
        below = await stack.enter_async_context(servers.redis_like("redis-l2", logs=effort.logs))
        starting = servers.node("node-idle", logs=effort.logs, memory="64MiB", l2_address=below.address)
        address = (await stack.enter_async_context(starting)).address
        invalidator = await _invalidator(stack, address, await _holders(stack, address, effort, clients=1), effort)
        alone = Measured()
        for _ in range(before):
            await _round(invalidator, 1, effort, alone)
        async with contextlib.AsyncExitStack() as crowd:
            await _holders(crowd, address, effort, clients=_IDLE, processes=_PROCESSES)
            await _order(invalidator, _WARM)
            for _ in range(effort.rounds):
                await _round(invalidator, 1, effort, measured)
        await _order(invalidator, _WARM)
        for _ in range(effort.rounds - before):
            await _round(invalidator, 1, effort, alone)
    measured.peer = alone.ours
    return measured


async def _round(invalidator: Child, holders: int, effort: Effort, measured: Measured) -> None:
    answer = await _order(invalidator, effort.calls)
    _check(answer, effort.calls * holders)
    measured.ours.append(statistics.median(answer["took_us"]))
    measured.calls_us += answer["took_us"]


async def _order(invalidator: Child, count: int) -> dict[str, Any]:
    return await invalidator.ask({"do": "one_by_one", "count": count}, _ROUND_S)


def _check(answer: dict[str, Any], copies: int) -> None:
    """An invalidation that found no copy has nobody to wait for: it does not count."""
    if answer["invalidated"] < 0.99 * copies:
        raise BenchError(f"only {answer['invalidated']} of {copies} copies were there to be invalidated")


async def _holders(
    stack: contextlib.AsyncExitStack, address: str, effort: Effort, *, clients: int, processes: int = 1
) -> list[int]:
    """Start clients with near caches in so many processes; return where these are spoken to."""
    children = []
    for at in range(processes):
        spec = {"address": address, "clients": clients // processes, "uvloop": effort.uvloop}
        children.append(await _start(stack, f"holders-{clients}-{at}", "holders", spec, effort))
    return [(await child.read(_CONNECT_S))["port"] for child in children]


async def _invalidator(stack: contextlib.AsyncExitStack, address: str, ports: list[int], effort: Effort) -> Child:
    """Start who invalidates, warmed up."""
    spec = {"address": address, "ports": ports, "uvloop": effort.uvloop}
    child = await _start(stack, "invalidator", "invalidator", spec, effort)
    await child.read(_CONNECT_S)
    await _order(child, _WARM)
    return child


async def _fan_out(stack: contextlib.AsyncExitStack, effort: Effort) -> Child:
    """Start the bare server and those who answer it."""
    server = await _start(stack, "fan-out", "fan_out", {"streams": _TWENTY, "uvloop": effort.uvloop}, effort)
    spec = {"address": (await server.read(_CONNECT_S))["address"], "uvloop": effort.uvloop}
    for at in range(_PROCESSES):
        await _start(stack, f"fan-out-{at}", "fan_out", {**spec, "streams": _TWENTY // _PROCESSES}, effort)
    return server


async def _start(
    stack: contextlib.AsyncExitStack, name: str, module: str, spec: dict[str, Any], effort: Effort
) -> Child:
    command = [sys.executable, "-m", f"tests.bench.{module}", json.dumps(spec)]
    return await stack.enter_async_context(spawn(name, command, logs=effort.logs))
