"""Runs the rows: servers up, data in, then the contenders in alternating rounds, never two at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import invalidations, memory, scrape, servers, single_flight
from tests.bench.invalidations import Effort, Measured
from tests.bench.processes import BenchError, Child, spawn_worker
from tests.bench.rows import (
    IDLE_NAME,
    INVALIDATIONS,
    MEMORY_NAME,
    MEMORY_TARGET,
    P99_SUFFIX,
    SCRAPES,
    SINGLE_FLIGHT_NAME,
    Aim,
    Peer,
    Row,
)
from tests.bench.servers import Server
from tests.bench.stats import Better, Outcome, judge, round_order
from tests.bench.workload import KEYS

__all__ = ["Plan", "Result", "run_invalidations", "run_memory", "run_rows", "run_scrapes", "run_single_flight"]

_CONNECT_S = 30.0
_LOAD_S = 120.0
_GRACE_S = 30.0
_LAYER_SAMPLE = 500
_LOADERS = {
    "redis": "RedisBlockingGet",
    "memcached": "MemcachedGet",
    "node": "OursGet",
    "node_tls": "OursGetTls",
    "node_plain": "OursGet",
    "node_unmeasured": "OursGet",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    warm_s: float
    memory_entries: int
    memory_rounds: int
    invalidations: int
    invalidations_at_once: int
    logs: Path
    targets_only: bool = False
    uvloop: bool = False


@dataclass(slots=True)
class Result:
    """One comparison. With an `error` it has no numbers."""

    name: str
    peer_name: str
    unit: str
    better: Better
    target: float | None
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    error: str = ""
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """Return the comparison."""
        return judge(self.ours, self.peer, self.better, target=self.target)

    @property
    def ok(self) -> bool:
        """Return True if it ran and did not miss its target."""
        return not self.error and self.outcome.met is not False


def _blank(row: Row, peer: Peer, error: str = "") -> Result:
    return Result(row.name + peer.suffix, peer.name, row.unit, row.better, peer.target, error=error)


def _peers(row: Row, plan: Plan) -> list[Peer]:
    """Return those who take part: memcached only if it and its client are installed, since it is information."""
    memcached = shutil.which("memcached") is not None and importlib.util.find_spec("pymemcache") is not None
    return [
        peer
        for peer in row.peers
        if (memcached or peer.server != "memcached") and not (plan.targets_only and peer.target is None)
    ]


async def run_rows(rows: Sequence[Row], plan: Plan, *, done: Callable[[Result], None]) -> None:
    """Run rows, a group of servers at a time, and hand over each result as soon as it exists.

    A row that fails becomes a result with an error; the others still run.
    """
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        waiting = list(members)
        try:
            async with _servers(group, members, plan) as fleet:
                for row in members:
                    for result in await _run_row(row, fleet, plan):
                        done(result)
                    waiting.remove(row)
        except BenchError as error:
            for row in waiting:
                for peer in _peers(row, plan):
                    done(_blank(row, peer, str(error)))


@contextlib.asynccontextmanager
async def _servers(group: str, rows: Iterable[Row], plan: Plan) -> AsyncIterator[dict[str, Server]]:
    """Start what the rows need, loaded with all keys."""
    needed = {peer.server for row in rows for peer in _peers(row, plan)}
    fleet: dict[str, Server] = {}
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        if needed & {"redis"}:
            fleet["redis"] = await enter(servers.redis_like("redis", logs=plan.logs))
        if "redis_cached" in needed:
            binary = servers.tracking_redis_path()
            fleet["redis_cached"] = await enter(servers.redis_like("redis-cached", logs=plan.logs, binary=binary))
        if group == "l2":
            # So small that nearly every key must come from L2, which is the very server that the peer reads from.
            below = fleet["redis"].address
            fleet["node"] = await enter(servers.node("node-l2", logs=plan.logs, memory="1MiB", l2_address=below))
        elif group == "tls":
            below = (await enter(servers.redis_like("redis-l2", logs=plan.logs))).address
            fleet["node_tls"] = await enter(servers.node_tls(logs=plan.logs, memory="256MiB", l2_address=below))
        else:
            # As in production there is an L2; a server of its own, so that the peer's has nothing else to do.
            below = (await enter(servers.redis_like("redis-l2", logs=plan.logs))).address
            fleet["node"] = await enter(servers.node("node", logs=plan.logs, memory="256MiB", l2_address=below))
        for name in sorted(needed & {"node_plain", "node_unmeasured"}):
            settings = "[node]\ndurations = false\n" if name == "node_unmeasured" else ""
            starting = servers.node(name, logs=plan.logs, memory="256MiB", l2_address=below, settings=settings)
            fleet[name] = await enter(starting)
        for name in sorted(needed & {"echo", "echo_tuned"}):
            fleet[name] = await enter(servers.echo(name, logs=plan.logs, tuned=name == "echo_tuned"))
        if "memcached" in needed:
            fleet["memcached"] = await enter(servers.memcached(logs=plan.logs))
        if group == "near":  # who reads stores what it reads
            yield fleet
            return
        namespaces = sorted({row.namespace for row in rows})
        await asyncio.gather(
            *(
                _load(name, server, namespace, plan)
                for name, server in fleet.items()
                for namespace in (namespaces if name == "node" else namespaces[:1])
            )
        )
        yield {"node": fleet["node_tls"], **fleet} if group == "tls" else fleet


async def _load(name: str, server: Server, namespace: str, plan: Plan) -> None:
    if name not in _LOADERS:
        return
    settings = {"address": server.address, "namespace": namespace, "certs": str(plan.logs / servers.CERTS)}
    async with spawn_worker(
        f"load-{name}-{namespace}", _LOADERS[name], settings, logs=plan.logs, uvloop=False
    ) as worker:
        await worker.read(_CONNECT_S)
        present = (await worker.ask({"do": "load", "entries": KEYS}, _LOAD_S))["present"]
    if present != KEYS:
        raise BenchError(f"{server.name} holds {present} of {KEYS} keys after loading")


async def _run_row(row: Row, fleet: dict[str, Server], plan: Plan) -> list[Result]:
    peers = _peers(row, plan)
    results = [_blank(row, peer) for peer in peers]
    kinds = [(row.ours, "node"), *((peer.contender, peer.server) for peer in peers)]
    timed = row.unit == "us"
    more = {"timed": timed, "certs": str(plan.logs / servers.CERTS), **row.options}
    try:
        async with contextlib.AsyncExitStack() as stack:
            workers: list[Child] = []
            for kind, server in kinds:
                settings = {"address": fleet[server].address, "namespace": row.namespace, **more}
                name, tuned = f"{row.name}-{kind}-{server}", server.endswith("_tuned")
                starting = spawn_worker(name, kind, settings, logs=plan.logs, uvloop=plan.uvloop, tuned=tuned)
                workers.append(await stack.enter_async_context(starting))
            for worker in workers:  # they start side by side, and none is measured yet
                await worker.read(_CONNECT_S)
            rounds = await _rounds(workers, plan, timed=timed)
            note = await _layers(workers[0]) if row.group == "l2" else ""
    except BenchError as error:
        return [_blank(row, peer, str(error)) for peer in peers]
    for result, measured in zip(results, rounds[1:], strict=True):
        result.ours, result.peer, result.note = rounds[0], measured, note
    return results


async def _rounds(workers: Sequence[Child], plan: Plan, *, timed: bool) -> list[list[float]]:
    """Warm every contender up, then measure; returns the rounds of each."""
    for worker in workers:
        await _measure(worker, plan.warm_s, timed=timed)
    values: list[list[float]] = [[] for _ in workers]
    for order in round_order(len(workers), plan.rounds):
        for at in order:
            values[at].append(await _measure(workers[at], plan.seconds, timed=timed))
    return values


async def _measure(worker: Child, seconds: float, *, timed: bool) -> float:
    got: dict[str, Any] = await worker.ask({"do": "run", "seconds": seconds}, seconds + _GRACE_S)
    if got["misses"]:
        raise BenchError(f"{worker.name}: {got['misses']} of {got['calls']} calls had no value")
    return float(got["p50_us"]) if timed else got["keys"] / got["seconds"]


async def _layers(worker: Child) -> str:
    counts = (await worker.ask({"do": "layers", "sample": _LAYER_SAMPLE}, _GRACE_S))["layers"]
    if counts.get("l2", 0) < 0.8 * _LAYER_SAMPLE:
        raise BenchError(f"{worker.name}: reads did not come from L2 but {counts}")
    return f"{counts['l2'] / _LAYER_SAMPLE:.0%} of reads from L2"


async def run_single_flight(rounds: int, *, done: Callable[[Result], None]) -> None:
    """Count the loads of one key that a thousand callers want at once; one is what they need."""
    result = Result(SINGLE_FLIGHT_NAME, "one load", "loads", "lower", 1.0)
    try:
        counts = await single_flight.origin_loads(rounds)
        result.ours, result.peer = [max(counts)], [1.0]  # the worst round counts: a median would hide it
        result.note = f"{rounds} rounds of 1,000 callers in {single_flight.PROCESSES} processes"
    except BenchError as error:
        result.error = str(error)
    done(result)


async def run_invalidations(names: Sequence[str], plan: Plan, *, done: Callable[[Result], None]) -> None:
    """Run those of the comparisons of acknowledged invalidations that are named."""
    effort = Effort(
        rounds=plan.rounds,
        calls=plan.invalidations,
        at_once=plan.invalidations_at_once,
        echo_s=plan.seconds,
        logs=plan.logs,
        uvloop=plan.uvloop,
    )
    on_three = {
        "invalidate_ack_1": invalidations.to_one,
        "invalidate_ack_20": invalidations.to_twenty,
        "invalidations_per_s": invalidations.together,
    }
    waiting = [name for name in on_three if name in names]
    if waiting:
        try:
            async with invalidations.cluster() as address:
                for name in list(waiting):
                    _tell(name, await on_three[name](address, effort), done)
                    waiting.remove(name)
        except BenchError as error:
            for name in waiting:
                _tell(name, error, done)
    if IDLE_NAME in names:
        try:
            _tell(IDLE_NAME, await invalidations.with_idle_sessions(effort), done)
        except BenchError as error:
            _tell(IDLE_NAME, error, done)


def _tell(name: str, measured: Measured | BenchError, done: Callable[[Result], None]) -> None:
    """Hand over the results that go by a name."""
    for aim in INVALIDATIONS:
        if aim.name.removesuffix(P99_SUFFIX) == name:
            done(_aimed(aim, measured))


def _aimed(aim: Aim, measured: Measured | BenchError) -> Result:
    result = Result(aim.name, aim.peer_name, aim.unit, aim.better, aim.target)
    if isinstance(measured, BenchError):
        result.error = str(measured)
        return result
    result.ours = [measured.p99_us] if aim.name.endswith(P99_SUFFIX) else measured.ours
    result.peer = measured.peer if aim.limit is None else [aim.limit] * len(result.ours)
    return result


async def run_scrapes(plan: Plan, *, done: Callable[[Result], None]) -> None:
    """Scrape a node with many namespaces."""
    for aim, values in zip(SCRAPES, await scrape.scrapes(plan.rounds), strict=True):
        done(_limited(aim, values))


def _limited(aim: Aim, values: list[float]) -> Result:
    assert aim.limit is not None
    numbers = [aim.limit] * len(values)
    return Result(aim.name, aim.peer_name, aim.unit, aim.better, aim.target, ours=values, peer=numbers)


async def run_memory(plan: Plan, *, done: Callable[[Result], None]) -> None:
    """Measure the memory per entry of fresh servers, ours and each Redis-like one that is installed."""
    found = {"valkey": servers.valkey_path(), "redis-server": servers.redis_server_path()}
    peers = [(name, path) for name, path in found.items() if path is not None][: 1 if plan.targets_only else None]
    results = [
        Result(
            MEMORY_NAME if at == 0 else f"{MEMORY_NAME}_vs_{name.replace('-', '_')}",
            name,
            "bytes",
            "lower",
            MEMORY_TARGET if at == 0 else None,
        )
        for at, (name, _) in enumerate(peers)
    ]
    try:
        rounds: list[list[float]] = [[] for _ in range(len(peers) + 1)]
        for order in round_order(len(rounds), plan.memory_rounds):
            for at in order:
                who = "ours" if at == 0 else peers[at - 1][1]
                rounds[at].append(await memory.bytes_per_entry(who, plan.memory_entries, logs=plan.logs))
        for result, measured in zip(results, rounds[1:], strict=True):
            result.ours, result.peer = rounds[0], measured
    except BenchError as error:
        for result in results:
            result.error = str(error)
    for result in results:
        done(result)
