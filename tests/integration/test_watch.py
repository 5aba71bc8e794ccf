"""Watching real nodes that are stopped, killed and started again: nothing is missed unless a reset says so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, CacheError, Reset
from tests.integration.load import until

TOP = Path(__file__).parents[2]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("CACHENODE_")} | {
    "PYTHONPATH": os.pathsep.join((str(TOP), str(TOP / "client")))
}


@dataclass
class Seen:
    """What a watcher was told.

    Attributes:
        keys: When each key was told for the first time.
        resets: When events may have been missed, and whose.
    """

    keys: dict[str, float] = field(default_factory=dict)
    resets: list[tuple[float, str]] = field(default_factory=list)

    def missed(self, written: dict[str, float]) -> list[str]:
        """Return the keys whose write is neither told nor older than a reset."""
        last = max((at for at, _ in self.resets), default=0.0)
        return [key for key, acknowledged in written.items() if key not in self.keys and acknowledged > last]


async def follow(events: AsyncIterator[object], seen: Seen) -> None:
    """Note what a client's watch tells."""
    async for event in events:
        if isinstance(event, Reset):
            seen.resets.append((time.monotonic(), event.node_id))
        else:
            for key in event.keys:  # type: ignore[attr-defined]
                seen.keys.setdefault(key.decode(), time.monotonic())


async def follow_lines(process: Process, seen: Seen) -> None:
    """Note what the command's lines tell."""
    assert process.stdout is not None
    async for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "reset":
            seen.resets.append((time.monotonic(), event["node"]))
        else:
            for key in event["keys"]:
                seen.keys.setdefault(key, time.monotonic())


@asynccontextmanager
async def by_client(cluster: LocalCluster) -> AsyncIterator[Seen]:
    """Watch with the SDK."""
    seen = Seen()
    async with CacheClient(cluster.address, timeout_s=10) as client, client.watch() as events:
        following = asyncio.create_task(follow(events, seen))
        try:
            yield seen
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


@asynccontextmanager
async def by_command(cluster: LocalCluster) -> AsyncIterator[Seen]:
    """Watch with the command line."""
    command = [sys.executable, "-m", "cachenode", "watch", "-o", "json", "--timeout", "20", "-a", cluster.address]
    process = await asyncio.create_subprocess_exec(*command, env=ENVIRON, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    seen = Seen()
    following = asyncio.create_task(follow_lines(process, seen))
    try:
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.readline(), 30)
        assert said.startswith(b"Watching all namespaces on 2 nodes"), said + await process.stderr.read()
        yield seen
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await following  # to the end of what it has said


async def test_restarts_miss_nothing_without_a_reset(tmp_path: Path) -> None:
    """Through a restart in good order and a kill -9 each acknowledged write is told, or a reset comes after it.

    This holds for the SDK and for the command line alike. Without a restart all is told, and nothing is reset.
    """
    asyncio.get_running_loop().set_debug(False)
    numbers, written = itertools.count(), dict[str, float]()
    async with (
        LocalCluster(nodes=2, directory=tmp_path) as cluster,
        by_client(cluster) as sdk,
        by_command(cluster) as command,
        CacheClient(cluster.address, timeout_s=5) as client,
    ):

        async def write() -> None:
            key = f"w{next(numbers)}"
            with contextlib.suppress(CacheError):  # then the outcome is not known
                await client.set(key, 1)
                written[key] = time.monotonic()

        async def write_many() -> None:
            await asyncio.gather(*(write() for _ in range(300)))

        async def kill_and_restart(name: str) -> None:
            await cluster.kill(name)
            await cluster.restart(name)

        def all_told() -> bool:
            return not sdk.missed(written) and not command.missed(written)

        def both_reset(name: str) -> bool:
            return all(name in {node for _, node in seen.resets} for seen in (sdk, command))

        await write_many()
        assert len(written) == 300
        await until(all_told, 10, "all is told")
        assert sdk.resets == command.resets == []
        for disturb, name in ((cluster.restart, "node-1"), (kill_and_restart, "node-0")):
            disturbing = asyncio.create_task(disturb(name))
            while not disturbing.done():
                await write()
                await asyncio.sleep(0.005)
            await disturbing
            await until(partial(both_reset, name), 15, "it is another process, so it has another history")
        await until(all_told, 15, "what was written meanwhile is told, or reset")
        written.clear()
        await write_many()
        assert len(written) == 300
        await until(all_told, 15, "all is told again")
