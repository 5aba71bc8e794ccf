"""The cluster is scaled and restarted as a StatefulSet does it, under load: no call fails, nothing stale is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from cachenode_client import CacheClient
from cachenode_client.blocking import CacheClient as BlockingClient
from tests.integration.load import until
from tests.integration.statefulset import StatefulSet
from tests.integration.test_rolling_restart import KEYS, Reader

_SETTINGS = {"CACHENODE_L2__TIMEOUT_S": "1.0"}  # two busy cores; this is not about a slow L2


@pytest.mark.timeout(300)
async def test_scaling_and_restarting_cost_no_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 → 5 → 3 nodes, then each of them anew: no error with default retries, no stale read, no cold second.

    Clients with and without a near cache, and one that was made before the nodes it ends up with. Scenario 30.
    """
    figures = []
    async with StatefulSet(tmp_path, replicas=3, most=5, min_ready_s=1.0, environ=_SETTINGS) as pods:
        async with (
            CacheClient(pods.addresses, near_cache=None, timeout_s=5) as far,
            CacheClient(pods.addresses, near_cache=8 << 20, timeout_s=5) as near,
        ):
            load, other = Reader(far), Reader(near)
            other.written = load.written  # what one client has written the other must not read older
            await load.fill()
            jobs = [asyncio.create_task(each.read_forever()) for each in (load, load, other, other)]
            jobs += [asyncio.create_task(load.write_forever(part, 2)) for part in range(2)]
            await until(lambda: len(load.reads) > 500 and len(other.reads) > 500, 30, "the load has begun")
            before = sum(hit for _, hit in load.reads) / len(load.reads)
            steps: dict[str, Awaitable[None]] = {
                "3 to 5": pods.scale(5),
                "5 to 3": pods.scale(3),
                "restart": pods.rolling_restart(),
            }
            for name, step in steps.items():
                began, calls = time.monotonic(), len(load.reads) + len(other.reads)
                await step
                await asyncio.sleep(1.0)
                worst = min(each.worst_hit_ratio(began) for each in (load, other))
                calls = len(load.reads) + len(other.reads) - calls
                took = time.monotonic() - began
                figures.append(f"{name}: {took:.1f} s, {calls / took:,.0f} reads/s, lowest hit ratio {worst:.3f}")
                assert worst >= 0.8 * before, name
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        assert [node.id for _, node in sorted(pods.running.items())] == [f"cachenode-{n}" for n in range(3)]
        found = await asyncio.to_thread(_read_all, pods.addresses)
    with capsys.disabled():
        print("", *figures, sep="\n  ")
    assert load.errors == other.errors == []
    assert load.stale == other.stale == 0
    # What L2 has missed is in memory alone; who is asked for it just as it is handed over declines it.
    assert len(found) >= 0.9 * KEYS, "hardly anything is lost on the way"
    assert [key for key, value in load.written.items() if found.get(f"k{key}", value) < value] == []
    assert pods.killed == []


def _read_all(addresses: str) -> dict[str, int]:
    with BlockingClient(addresses, timeout_s=5) as client:
        return client.get_many([f"k{key}" for key in range(KEYS)])
