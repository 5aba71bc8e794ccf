"""Nodes as a StatefulSet runs them, with local processes: names, order, readiness and stopping are Kubernetes'.

- Pods are called cachenode-0, -1, …, and come back under their name and address.
- `podManagementPolicy: Parallel`: scaling starts or stops all that are to go at once, the highest ordinals.
- A rolling restart takes one pod at a time from the highest ordinal down, and goes on when it has been ready for
  `minReadySeconds`.
- A pod is stopped as the manifests say: the preStop hook, then SIGTERM; SIGKILL after the grace period.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml

from cachenode.adapters.embedded import EmbeddedValkey
from cachenode.cli.child import Child, LocalNode
from cachenode.cli.ports import free_ports

__all__ = ["StatefulSet"]

_BASE = Path(__file__).parents[2] / "deploy/base/statefulset.yaml"
_START_S = 60.0


class StatefulSet:
    """Pods of one set and the Valkey behind them, as an asynchronous context.

    Args:
        folder: For logs and the Valkey's socket.
        replicas: How many to begin with.
        most: The most that it is scaled to: each has an address from the start.
        min_ready_s: In place of the manifests' seconds, which are long for a test.
        environ: Settings of all nodes.
    """

    def __init__(self, folder: Path, *, replicas: int, most: int, min_ready_s: float, environ: dict[str, str]) -> None:
        spec = yaml.safe_load(_BASE.read_text(encoding="utf-8"))["spec"]
        pod = spec["template"]["spec"]
        [box] = pod["containers"]
        self.grace_s: float = pod["terminationGracePeriodSeconds"]
        self.min_ready_s = min_ready_s
        self.pre_stop: list[str] = box["lifecycle"]["preStop"]["exec"]["command"]
        self.killed: list[str] = []
        """Pods that did not end within their grace period."""
        self.running: dict[int, LocalNode] = {}
        self._replicas = replicas
        self._ports = free_ports(2 * most)
        self._valkey = EmbeddedValkey(folder / "valkey", maxmemory_bytes=64 << 20)
        self._environ = {**os.environ, **environ}
        self._pods = {n: Child(f"cachenode-{n}", folder / f"cachenode-{n}.log", self._environ) for n in range(most)}

    async def __aenter__(self) -> Self:
        self._valkey.start()
        self._environ["CACHENODE_L2_URL"] = self._valkey.url  # the pods have this very mapping
        await self.scale(self._replicas)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pod.stop(1.0) for pod in self._pods.values()))
        self._valkey.stop()

    @property
    def addresses(self) -> str:
        """The pods' addresses, as the Service's name resolves."""
        return ",".join(node.address for _, node in sorted(self.running.items()))

    async def scale(self, replicas: int) -> None:
        """Start or stop the highest ordinals, all at once, and return when all are ready or gone."""
        there = set(self.running)
        await asyncio.gather(
            *(self._start(n) for n in set(range(replicas)) - there),
            *(self._stop(n) for n in there - set(range(replicas))),
        )

    async def rolling_restart(self) -> None:
        """Restart each pod, the highest ordinal first, the next one when it has been ready for a while."""
        for ordinal in sorted(self.running, reverse=True):
            await self._stop(ordinal)
            await self._start(ordinal)
            await asyncio.sleep(self.min_ready_s)

    async def _start(self, ordinal: int) -> None:
        listen, http = self._ports[2 * ordinal : 2 * ordinal + 2]
        words = ["--node-id", f"cachenode-{ordinal}", "--discovery", "redis", "--cluster-name", "set"]
        words += ["--listen", f"127.0.0.1:{listen}", "--http-listen", f"127.0.0.1:{http}", "--memory", "64MiB"]
        node = await self._pods[ordinal].start(words, timeout_s=_START_S)
        async with aiohttp.ClientSession() as probe:
            while True:  # the readiness probe
                async with probe.get(f"http://{node.http}/readyz") as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.1)
        self.running[ordinal] = node

    async def _stop(self, ordinal: int) -> None:
        node, pod = self.running.pop(ordinal), self._pods[ordinal]
        command, *words = self.pre_stop
        assert command == "cachenode"
        environ = {**self._environ, "CACHENODE_ADDRESS": node.address}
        try:
            async with asyncio.timeout(self.grace_s):
                hook = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", command, *words, env=environ, stdout=asyncio.subprocess.DEVNULL
                )
                assert await hook.wait() == 0, f"the preStop hook of {pod.id} failed"
                pod.send(signal.SIGTERM)
                await pod.wait()
        except TimeoutError:
            self.killed.append(pod.id)
        await pod.stop(0.0)
