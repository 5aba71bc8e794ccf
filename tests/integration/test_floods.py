"""Floods against a real node: it stays up, its memory stays bounded, and an honest client is answered all the while.

Scenarios 54 to 61, each smaller than on the list; `python -m tests.integration.floods.run` takes other sizes. The limit
of the honest client's time is generous: attackers and node share two cores with whatever else runs.
"""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

from cachenode_client import CacheClient
from tests.integration.floods.attacks import ATTACKS
from tests.integration.floods.run import Felt, Site
from tests.integration.load import until

MOST_MB = {"oversized": 200.0, "slow-readers": 80.0, "resets": 60.0}
"""How much the node's memory may grow; 40 MB for other attacks."""
SLOWEST_MS = 1_000.0


def descriptors(pid: int) -> int:
    """Return how many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_floods(tmp_path: Path) -> None:
    """One attack after the other on one node, and in the end it is as well as before."""
    felt: list[Felt] = []
    async with Site(tmp_path) as site:
        for name, (_, size, _) in ATTACKS.items():
            felt.append(await site.attack(name, size))
            assert site.running, name
    for each in felt:
        print(each)
    assert {each.name: each.failed for each in felt if each.failed} == {}
    assert {each.name: each.wrong for each in felt if each.wrong} == {}
    assert {each.name: each.grown_mb for each in felt if each.grown_mb > MOST_MB.get(each.name, 40.0)} == {}
    slow = [str(each) for each in felt if each.p99_ms > max(SLOWEST_MS, 5 * each.before_ms)]
    assert slow == []


async def test_descriptors_run_out(tmp_path: Path) -> None:
    """A node that has no file descriptor left goes on with those it has, and lets others in when there are again.

    Scenario 60.
    """
    async with Site(tmp_path) as site:
        host, _, port = site.node.address.rpartition(":")
        used = descriptors(site.node.pid)
        resource.prlimit(site.node.pid, resource.RLIMIT_NOFILE, (used + 10, used + 10))
        taken = []
        for _ in range(50):
            each = socket.socket()
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                each.connect((host, int(port)))
            taken.append(each)
        assert await site.client.get("k1") is not None
        for each in taken:
            each.close()

        async def let_in() -> bool:
            async with CacheClient(site.node.address, timeout_s=2.0, on_error="miss") as other:
                return await other.get("k1") is not None

        await until(let_in, 20, "new clients are let in again")
        assert site.running
