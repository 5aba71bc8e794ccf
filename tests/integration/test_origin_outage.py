"""An origin that is out of order for a while, behind real nodes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, LoadFailed

CONFIG = """
[origins.fragile]
loader = "tests.support.loaders:Fragile"
options = {{ down = "{folder}/down", calls = "{folder}/calls" }}
concurrency = 4
attempts = 2
[namespaces.kept]
origin = "fragile"
ttl_s = 1
stale_s = 60
negative_ttl_s = 60
[namespaces.strict]
origin = "fragile"
ttl_s = 0.5
negative_ttl_s = 60
"""
KEYS = [f"k{number}" for number in range(40)]
STRANGERS = [f"?{number}" for number in range(10)]
NODES = 3
OUTAGE_S = 4.0
CALLS_BEFORE_IT_IS_LEFT_ALONE = 2 * 4 * 5
"""Of a node: what is under way when the fifth call in a row fails, with a wide margin."""


def calls(folder: Path) -> int:
    """Return how often the origin was asked."""
    return len((folder / "calls").read_text().split())


async def test_outage_of_the_origin(tmp_path: Path) -> None:
    """What is stale is served, errors delete nothing and are taken for no absence, and the origin is left alone.

    Scenario 49. Within five seconds of its return everything is as before.
    """
    (tmp_path / "node.toml").write_text(CONFIG.format(folder=tmp_path))
    arguments = ["--config", str(tmp_path / "node.toml")]
    async with (
        LocalCluster(nodes=NODES, directory=tmp_path / "c", arguments=arguments) as cluster,
        CacheClient(cluster.address, namespace="kept", timeout_s=10) as kept,
        CacheClient(cluster.address, namespace="strict", timeout_s=10) as strict,
    ):
        assert await kept.get_many(KEYS) == {key: key for key in KEYS}
        assert await strict.get_many(KEYS) == {key: key for key in KEYS}
        (tmp_path / "down").touch()
        before, began, reads, failed = calls(tmp_path), time.monotonic(), 0, 0
        await asyncio.sleep(1.0)  # until nothing is fresh any more
        while time.monotonic() - began < OUTAGE_S:
            assert await kept.get_many(KEYS) == {key: key for key in KEYS}, "an error has removed something"
            reads += len(KEYS)
            for client in (kept, strict):
                with pytest.raises(LoadFailed):
                    await client.get(STRANGERS[failed % len(STRANGERS)])
                failed += 1
            with pytest.raises(LoadFailed):
                await strict.get(KEYS[failed % len(KEYS)])
        made = calls(tmp_path) - before
        assert reads + failed > 4 * made, "the cache has not spared the origin"
        assert made <= NODES * (CALLS_BEFORE_IT_IS_LEFT_ALONE + 2 * OUTAGE_S)

        (tmp_path / "down").unlink()
        back = time.monotonic()
        while True:
            try:
                assert await asyncio.gather(*map(strict.get, KEYS)) == KEYS
                assert await asyncio.gather(*map(strict.get, STRANGERS)) == [None] * len(STRANGERS)
                break
            except LoadFailed:
                assert time.monotonic() - back < 5, "it took too long until everything was well again"
                await asyncio.sleep(0.05)
        while any([(await kept.lookup(key)).stale for key in KEYS]):
            assert time.monotonic() - back < 5, "stale values were served for too long"
            await asyncio.sleep(0.05)
