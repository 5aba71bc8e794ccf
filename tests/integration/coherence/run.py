"""Runs a cluster, clients and faults, and checks what the clients saw.

``python -m tests.integration.coherence.run --faults 300 --seed 7`` runs for longer than CI does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cachenode.cli.local_cluster import LocalCluster
from tests.integration.coherence.client import KEYS, Task
from tests.integration.coherence.history import READ, RECORD, Verdict, check, recorded
from tests.integration.coherence.nemesis import Nemesis

__all__ = ["Outcome", "run"]

_WRITERS = 2
_CALM_S = 1.0
_READS_S = 300.0


@dataclass
class Outcome:
    """What a run brought."""

    verdict: Verdict
    faults: Counter[str]
    log: list[str]
    failed: list[str]


async def run(directory: Path, *, seed: int, faults: int, nodes: int = 3, reads: int = 0) -> Outcome:
    """Run until so many faults were done, and at least so many reads may be expected.

    Args:
        directory: For everything that is written.
        seed: Of all choices.
        faults: How many.
        nodes: Of the cluster.
        reads: Go on without faults until the clients have recorded so many, or much time has passed.
    """
    rng = random.Random(seed)
    origin = directory / "origin"
    origin.write_bytes(bytes(8 * KEYS))
    async with LocalCluster(nodes=nodes, directory=directory / "cluster", memory="64MiB") as cluster:
        tasks = _tasks(cluster.address, rng, origin, directory)
        async with _clients(tasks, directory) as processes:
            await asyncio.sleep(_CALM_S)
            nemesis = Nemesis(cluster, [process.pid for process in processes], rng)
            for _ in range(faults):
                await nemesis.strike()
                await asyncio.sleep(rng.uniform(0.0, 0.5))
            await asyncio.sleep(_CALM_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_READS_S):
                    while _reads(tasks) < reads:  # noqa: ASYNC110  (files that grow have no event)
                        await asyncio.sleep(0.5)
        failed = [
            f"client {at}: {(directory / f'client-{at}.log').read_text()[-500:]}"
            for at, process in enumerate(processes)
            if process.returncode != 0
        ]
    verdict = check({f"client {at}": recorded(Path(task.record)) for at, task in enumerate(tasks)})
    for stale in verdict.stale:  # how it was written, for whoever looks into it
        line = f"{stale.newer.key} {stale.newer.value} "
        for at in range(_WRITERS):
            how = [text for text in (directory / f"client-{at}.log").read_text().splitlines() if text.startswith(line)]
            nemesis.log += [f"{stale.read.began}  {text}" for text in how]
    return Outcome(verdict, nemesis.done, nemesis.log, failed)


def _reads(tasks: list[Task]) -> int:
    return sum(Path(task.record).read_bytes()[:: RECORD.size].count(READ) for task in tasks)


def _tasks(address: str, rng: random.Random, origin: Path, directory: Path) -> list[Task]:
    tasks = []
    for at, (threads, near) in enumerate([(0, True), (0, True), (0, True), (0, False), (3, True)]):
        mine = [key for key in range(KEYS) if key % _WRITERS == at] if at < _WRITERS and not threads else []
        record = str(directory / f"client-{at}.history")
        tasks.append(Task(address, rng.randrange(1 << 30), mine, str(origin), record, threads, near))
    keys = list(range(KEYS))
    rng.shuffle(keys)
    for at in range(_WRITERS):  # both kinds of keys for each
        tasks[at].mine = keys[at::_WRITERS]
    return tasks


@contextlib.asynccontextmanager
async def _clients(tasks: list[Task], directory: Path) -> AsyncIterator[list[Process]]:
    """Client processes at work; ended in good order, killed if that takes long."""
    processes: list[Process] = []
    try:
        for at, task in enumerate(tasks):
            with (directory / f"client-{at}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.integration.coherence.client", stdin=PIPE, stdout=DEVNULL, stderr=log
                )
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
        yield processes
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        async with asyncio.timeout(20):
            await asyncio.gather(*(process.wait() for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Run a cluster under faults, and check what its clients see.")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--nodes", type=int, default=3)
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(run(Path(directory), seed=chosen.seed, faults=chosen.faults, nodes=chosen.nodes))
    print(outcome.verdict)
    print(dict(outcome.faults))
    for line in [*outcome.failed, *map(str, outcome.verdict.stale[:20])]:
        print(line)
    if outcome.verdict.stale:
        print(*outcome.log, sep="\n")
    return 1 if outcome.verdict.stale or outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
