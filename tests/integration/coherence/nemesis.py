"""Faults for a running cluster, one after the other, from a seed: what is printed is enough to see what happened."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from cachenode.cli.local_cluster import LocalCluster

__all__ = ["Nemesis"]


class Nemesis:
    """Breaks one thing at a time, and mends it.

    Args:
        cluster: The cluster, with an embedded L2.
        clients: The processes of the clients.
        rng: Its dice.
    """

    def __init__(self, cluster: LocalCluster, clients: list[int], rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.log: list[str] = []
        self._cluster = cluster
        self._clients = clients
        self._rng = rng
        self._began = time.monotonic()

    async def strike(self) -> None:
        """Do one fault and mend it."""
        fault = self._rng.choice(self._faults())
        self.done[fault.__name__] += 1
        self.log.append(f"{time.monotonic() - self._began:7.2f} s  {time.monotonic_ns()}  {fault.__name__}")
        await fault()

    def _faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.kill_a_node,
            self.kill_a_node,
            self.kill_a_node_and_restart_at_once,
            self.freeze_a_node_briefly,
            self.freeze_a_node_for_long,
            self.restart_a_node,
            self.restart_a_node,
            self.freeze_a_client,
            self.freeze_l2,
            self.restart_l2_empty,
            self.let_a_node_leave_for_a_while,
        ]

    def _node(self) -> str:
        return self._rng.choice([node.id for node in self._cluster.nodes])

    async def kill_a_node(self) -> None:
        """kill -9, until it has left the view, and back."""
        name = self._node()
        await self._cluster.kill(name)
        await asyncio.sleep(self._rng.uniform(1.0, 6.0))
        await self._cluster.restart(name)

    async def kill_a_node_and_restart_at_once(self) -> None:
        """kill -9 and back before anybody has noticed."""
        name = self._node()
        await self._cluster.kill(name)
        await self._cluster.restart(name)

    async def freeze_a_node_briefly(self) -> None:
        """SIGSTOP for less than its lease."""
        name = self._node()
        self._cluster.pause(name)
        await asyncio.sleep(self._rng.uniform(0.3, 2.5))
        self._cluster.resume(name)
        await asyncio.sleep(0.5)

    async def freeze_a_node_for_long(self) -> None:
        """SIGSTOP until another owns its keys; then it wakes and knows nothing of it."""
        name = self._node()
        self._cluster.pause(name)
        await asyncio.sleep(self._rng.uniform(5.0, 7.0))
        self._cluster.resume(name)
        await asyncio.sleep(1.5)

    async def restart_a_node(self) -> None:
        """SIGTERM and back, as in a rolling restart."""
        await self._cluster.restart(self._node())

    async def let_a_node_leave_for_a_while(self) -> None:
        """SIGTERM, some seconds without it, and back."""
        name = self._node()
        await self._cluster.terminate(name)
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        await self._cluster.restart(name)

    async def freeze_a_client(self) -> None:
        """SIGSTOP for a client with copies: writers must not trust in its silence, nor wait for ever."""
        client = self._rng.choice(self._clients)
        os.kill(client, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.5, 4.0))
        os.kill(client, signal.SIGCONT)

    async def freeze_l2(self) -> None:
        """SIGSTOP for L2, and with it the registry."""
        assert self._cluster.l2_pid is not None
        os.kill(self._cluster.l2_pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.2, 3.0))
        os.kill(self._cluster.l2_pid, signal.SIGCONT)
        await asyncio.sleep(0.5)

    async def restart_l2_empty(self) -> None:
        """kill -9 for L2, and back without what it held."""
        await asyncio.to_thread(self._cluster.stop_l2)
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await asyncio.to_thread(self._cluster.start_l2)
        await asyncio.sleep(1.5)
