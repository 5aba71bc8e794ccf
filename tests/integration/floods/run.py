"""Attacks a node, and measures what it and an honest client feel of it.

``python -m tests.integration.floods.run --idle 10000`` tells what CI, with smaller attacks, does not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.floods.attacks import ATTACKS
from tests.integration.load import Load

__all__ = ["Felt", "Site", "rss_mb"]

_CALM_S = 1.0
_KEYS = 500
_LONGEST_S = 120.0


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1_024


@dataclass
class Felt:
    """What an attack has done.

    `p99_ms` is of the honest client's calls meanwhile, `before_ms` in the calm before; `failed` are its failures,
    `wrong` what it read that was not so. `grown_mb` is the node's memory at most, less that before.
    """

    name: str
    seconds: float
    before_ms: float
    p99_ms: float
    calls: int
    failed: int
    wrong: int
    grown_mb: float

    @property
    def ratio(self) -> float:
        """How much slower the honest client was."""
        return self.p99_ms / self.before_ms

    def __str__(self) -> str:
        return (
            f"{self.name:<14}{self.seconds:>6.1f} s {self.calls:>8,} calls {self.failed:>3} failed"
            f"  p99 {self.before_ms:>6.1f} → {self.p99_ms:>6.1f} ms ({self.ratio:.1f}×)  memory {self.grown_mb:+.1f} MB"
        )


class Site:
    """A node and an honest client, as a context.

    Args:
        directory: For the node's files.
        arguments: More flags of the node.
    """

    def __init__(self, directory: Path, arguments: tuple[str, ...] = ()) -> None:
        self._cluster = LocalCluster(nodes=1, directory=directory, memory="64MiB", arguments=arguments)

    async def __aenter__(self) -> Self:
        await self._cluster.__aenter__()
        self.node = self._cluster.nodes[0]
        self.client = CacheClient(self.node.address, near_cache=None, timeout_s=10.0)
        await self.client.__aenter__()
        await Load(self.client, keys=_KEYS).fill()
        await self.client.set_many({f"k{n}": bytes(4_000) for n in range(500, 700)})
        return self

    async def __aexit__(self, *what: object) -> None:
        await self.client.aclose()
        await self._cluster.__aexit__(*what)

    @property
    def running(self) -> bool:
        """Whether the node is."""
        return self._cluster.any_running

    async def attack(self, name: str, size: int) -> Felt:
        """Run an attack to its end; what it holds is held for a calm moment."""
        load = Load(self.client, keys=_KEYS, callers=2)
        aim = self.node.http if name.startswith("http") else self.node.address
        async with load, _Visitor(self.node.http) as visitor:
            await asyncio.sleep(_CALM_S)
            before_ms = _p99_ms(load.latencies)
            load.latencies.clear()
            load.errors.clear()
            calls, memory, began = load.calls, rss_mb(self.node.pid), time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.integration.floods.attacks", name, aim, str(size)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
            )
            most = memory
            assert process.stdout is not None
            ended = asyncio.create_task(process.stdout.readline())
            try:
                async with asyncio.timeout(_LONGEST_S):
                    while not ended.done():
                        most = max(most, rss_mb(self.node.pid))
                        await asyncio.wait([ended], timeout=0.1)
                    await asyncio.sleep(_CALM_S)
                most = max(most, rss_mb(self.node.pid))
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
                await asyncio.wait([ended])
            seconds = time.monotonic() - began
            assert ended.result() == b"under way\n", f"the attack {name} failed itself"
            p99_ms, done = _p99_ms(load.latencies), load.calls - calls
        failed = len(load.errors) + len(visitor.failed)
        return Felt(name, seconds, before_ms, p99_ms, done, failed, load.wrong, most - memory)


class _Visitor:
    """Asks the HTTP port for what Prometheus, a kubelet and the console's page do, all the while, as a context.

    Attributes:
        failed: What was not answered.
    """

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"
        self.failed: list[str] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._visit())
        return self

    async def __aexit__(self, *what: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _visit(self) -> None:
        connector = TCPConnector(force_close=True)
        async with ClientSession(timeout=ClientTimeout(total=10), connector=connector) as session:
            while True:
                for method, path in (("GET", "/metrics"), ("GET", "/readyz"), ("POST", "/ui/api/session")):
                    for _ in range(3):  # as a kubelet does, and who looks at a page
                        problem = await self._ask(session, method, path)
                        if not problem:
                            break
                    else:
                        self.failed.append(f"{path}: {problem}")
                await asyncio.sleep(0.1)

    async def _ask(self, session: ClientSession, method: str, path: str) -> str:
        headers = {"X-Cachenode-Console": "1"}
        body: dict[str, str] | None = {} if method == "POST" else None
        try:
            async with session.request(method, self._url + path, json=body, headers=headers) as answer:
                await answer.read()
                return "" if answer.status == 200 else str(answer.status)
        except (OSError, TimeoutError, ClientError) as error:
            return type(error).__name__


def _p99_ms(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1_000


async def _main(sizes: dict[str, int], directory: Path) -> int:
    bad = 0
    async with Site(directory) as site:
        for name, size in sizes.items():
            felt = await site.attack(name, size)
            print(f"{felt}  ({size:,})", flush=True)
            bad += felt.failed + felt.wrong
        print("the node runs" if site.running else "THE NODE HAS ENDED")
        return int(bad > 0 or not site.running)


def main() -> int:
    """Run from the command line: a size for each attack, 0 to leave it out."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.floods.run", description="Attack a node.")
    for name, (_, size, number) in ATTACKS.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"scenario {number}; in CI {size:,}")
    options = vars(parser.parse_args())
    sizes = {name: size for name in ATTACKS if (size := options[name.replace("-", "_")])}
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_main(sizes, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
