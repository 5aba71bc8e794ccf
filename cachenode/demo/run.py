"""Runs the demonstration: origin, cluster, client processes, the kill, the report."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console

from cachenode.demo.acts import play, write_config
from cachenode.demo.data import DataMissing, airports, create_origin
from cachenode.demo.display import Display, Moment, print_report
from cachenode.demo.probe import NodeKeys, Probe
from cachenode.demo.report import Report, Tally, kill_report, node_reports
from cachenode.demo.worker import Task

__all__ = ["Cluster", "ClusterNode", "Plan", "StartCluster", "demonstrate", "run_demo"]

_TICK_S = 0.2
_LINE_BYTES = 1 << 24

_P = TypeVar("_P")


class ClusterNode(Protocol):
    """A node of the cluster that the demonstration uses."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def address(self) -> str:
        """Where it serves."""


class Cluster(Protocol):
    """A running cluster on this machine."""

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        """Its nodes."""

    @property
    def address(self) -> str:
        """What clients connect to."""

    async def kill(self, node_id: str, /) -> None:
        """Kill a node's process, without notice."""


class StartCluster(Protocol):
    """Starts a cluster that lives as long as its context."""

    def __call__(
        self, *, nodes: int, directory: Path, memory: str, arguments: Sequence[str]
    ) -> AbstractAsyncContextManager[Cluster]:
        """Return the context."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of a demonstration.

    Attributes:
        requests: Reads, all processes together.
        processes: Client processes.
        kill: Whether a node is killed when half of the requests are done.
        acts: Whether policies are shown afterwards.
        seconds: Over which the requests are spread; a slow machine takes longer.
        callers: Concurrent callers of one process.
        nodes: Nodes of the cluster.
        memory: Of each node; by default so little that L2 has something to do.
        ttl_s: Life of what is stored.
        timeout_s: Longest wait of a caller for the cache.
        origin_delay_s: Added to each query of the origin.
        exponent: Of Zipf's law.
        seed: Decides which airports are popular.
    """

    requests: int
    processes: int
    kill: bool
    acts: bool = True
    seconds: float = 26.0
    callers: int = 32
    nodes: int = 3
    memory: str = "1MiB"
    ttl_s: float = 300.0
    timeout_s: float = 0.25
    origin_delay_s: float = 0.005
    exponent: float = 1.1
    seed: int = 7

    def task(self, number: int, *, address: str, origin: Path) -> Task:
        """Return the share of one client process."""
        share, rest = divmod(self.requests, self.processes)
        requests = share + (number < rest)
        return Task(
            address=address,
            origin=str(origin),
            requests=requests,
            rate=max(1, requests) / self.seconds,
            callers=self.callers,
            ttl_s=self.ttl_s,
            timeout_s=self.timeout_s,
            origin_delay_s=self.origin_delay_s,
            exponent=self.exponent,
            rank_seed=self.seed,
            draw_seed=self.seed + 1 + number,
        )


def run_demo(start_cluster: StartCluster, *, json_output: bool, requests: int, processes: int, kill: bool) -> int:
    """Run the demonstration and print its report.

    Args:
        start_cluster: Starts the cluster.
        json_output: Print one JSON document on standard output, and nothing else there.
        requests: Reads to make.
        processes: Client processes that make them.
        kill: Kill a node half-way.

    Returns:
        The exit code: 0 if no request failed, every value was right, and the hit ratio came back after the kill.
    """
    plan = Plan(requests=requests, processes=processes, kill=kill)
    console = Console(stderr=json_output)
    with Display(console, quiet=json_output and not console.is_terminal) as display:
        try:
            report = asyncio.run(demonstrate(plan, start_cluster, display))
        except (DataMissing, WorkerFailed) as error:
            Console(stderr=True).print(f"cachenode: {error}", highlight=False, markup=False, soft_wrap=True)
            return 1
    if json_output:
        print(json.dumps(report.to_dict(), indent=2))  # noqa: T201 - the document that was asked for
    else:
        print_report(report, console)
    return 1 if report.problems else 0


class WorkerFailed(Exception):
    """A client process ended before its work was done."""


async def demonstrate(plan: Plan, start_cluster: StartCluster, display: Display) -> Report:
    """Run one demonstration.

    Raises:
        DataMissing: The data set is not installed.
        WorkerFailed: A client process ended early.
    """
    records = airports()
    with tempfile.TemporaryDirectory(prefix="cachenode-demo-") as name:
        directory = Path(name)
        origin = directory / "airports.sqlite"
        count = create_origin(origin, records)
        display.say(f"Origin: {count:,} airports in SQLite. Starting {plan.nodes} nodes, {plan.processes} clients.")
        arguments = ["--config", str(write_config(directory, origin))]
        async with start_cluster(
            nodes=plan.nodes, directory=directory, memory=plan.memory, arguments=arguments
        ) as cluster:
            addresses = {node.id: node.address for node in cluster.nodes}
            async with Probe(addresses) as probe:
                report = await _Run(plan, cluster, probe, display, count).run(origin)
            if not plan.acts:
                return report
            display.say("Now policies at work.")
            return replace(report, acts=await play(cluster.address, directory))


class _Run:
    """The run itself: the client processes work while this process watches, and kills."""

    def __init__(self, plan: Plan, cluster: Cluster, probe: Probe, display: Display, records: int) -> None:
        self._plan = plan
        self._cluster = cluster
        self._probe = probe
        self._display = display
        self._records = records
        self._tally = Tally()
        self._ids = [node.id for node in cluster.nodes]
        self._members = tuple(self._ids)
        self._victim = self._ids[-1]
        self._watched = self._ids[0]
        self._start = 0.0
        self._killed_at_s: float | None = None
        self._noticed_after_s: float | None = None
        self._before: dict[str, NodeKeys] = {}

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._start

    async def run(self, origin: Path) -> Report:
        workers: list[asyncio.subprocess.Process] = []
        ends: list[asyncio.Future[Any]] = []
        try:
            for number in range(self._plan.processes):
                workers += [await self._start_worker(number, origin)]  # one by one: a failure leaves none behind
            for worker in workers:
                await _line_of(worker)  # ready
            self._start = time.monotonic()
            for worker in workers:
                _pipe(worker.stdin).write(b"go\n")
            working = asyncio.gather(*(self._listen(worker) for worker in workers))
            ends = [asyncio.create_task(self._watch()), working]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()  # raises what ended it
            seconds = self._now_s
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await _end(workers)
        return self._report(seconds, await self._probe.keys())

    async def _start_worker(self, number: int, origin: Path) -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from cachenode.demo.worker import main; main()",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C ends this process, which ends its workers
        )
        task = self._plan.task(number, address=self._cluster.address, origin=origin)
        _pipe(worker.stdin).write(f"{task.to_json()}\n".encode())
        return worker

    async def _listen(self, worker: asyncio.subprocess.Process) -> None:
        """Add up what one process reports until it has done its share."""
        while line := await _pipe(worker.stdout).readline():
            self._tally.add(json.loads(line), self._now_s)
        if await worker.wait():
            raise WorkerFailed("A client process failed; its error is above.")

    async def _watch(self) -> None:
        """Show the progress, kill the node half-way, and see when the others notice. Ends only by being cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._plan.kill and self._killed_at_s is None and self._tally.requests * 2 >= self._plan.requests:
                self._before = await self._probe.keys()
                self._killed_at_s = self._now_s
                await self._cluster.kill(self._victim)
            members = await self._probe.members(self._watched)
            if members is not None:
                self._members = tuple(name for name in self._ids if name in members)
            if self._killed_at_s is not None and self._noticed_after_s is None and self._victim not in self._members:
                self._noticed_after_s = self._now_s - self._killed_at_s
            self._display.show(self._moment())

    def _moment(self) -> Moment:
        now_s, tally = self._now_s, self._tally
        note = ""
        if self._killed_at_s is not None:
            note = f"{self._victim} was killed at {self._killed_at_s:.1f} s"
            if self._noticed_after_s is not None:
                note += f"; the others noticed after {self._noticed_after_s:.1f} s"
        return Moment(
            seconds=now_s,
            requests=tally.requests,
            asked=self._plan.requests,
            rate=tally.timeline.rate(now_s),
            hit_ratio=tally.timeline.ratio(now_s - 1.5, now_s),
            members=self._members,
            gone=self._victim if self._killed_at_s is not None else "",
            timeline=tally.timeline,
            killed_at_s=self._killed_at_s,
            note=note,
        )

    def _report(self, seconds: float, after: dict[str, NodeKeys]) -> Report:
        plan, kill = self._plan, None
        if self._killed_at_s is not None:
            kill = kill_report(
                self._tally.timeline,
                node_id=self._victim,
                at_s=self._killed_at_s,
                noticed_after_s=self._noticed_after_s,
            )
        return Report(
            records=self._records,
            processes=plan.processes,
            callers=plan.callers,
            seconds=seconds,
            tally=self._tally,
            asked=plan.requests,
            nodes=node_reports(self._before, after, ids=self._ids, killed=self._victim if kill else ""),
            kill=kill,
            origin_delay_ms=plan.origin_delay_s * 1000,
            memory=plan.memory,
        )


async def _line_of(worker: asyncio.subprocess.Process) -> None:
    if not await _pipe(worker.stdout).readline():
        raise WorkerFailed("A client process could not reach the cluster; its error is above.")


def _pipe(pipe: _P | None) -> _P:
    assert pipe is not None  # all of them are pipes
    return pipe


async def _end(workers: Sequence[asyncio.subprocess.Process]) -> None:
    """End the processes that still run, as they do after a failure."""
    for worker in workers:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
