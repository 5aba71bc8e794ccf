"""Settings changed while real nodes serve: all follow, also one that is restarted and one that was away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cachenode.cli.errors import CliError
from cachenode.cli.local_cluster import LocalCluster
from cachenode.cli.namespace_admin import ask_namespace, change_namespace
from cachenode_client import CacheClient

FILE = "[namespaces.users]\nttl_s = 100\n"


async def versions(address: str) -> dict[str, int]:
    _, answers = await ask_namespace(address, "users", 5.0)
    return {node: answer.settings.live.version for node, answer in answers.items() if answer is not None}


async def test_all_nodes_follow(tmp_path: Path) -> None:
    """The TTL of what is written changes under load, at every node; a restarted one and all of them anew keep it."""
    (tmp_path / "node.toml").write_text(FILE)
    arguments = ["--config", str(tmp_path / "node.toml")]
    keys = [f"user:{number}" for number in range(50)]
    async with LocalCluster(nodes=3, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = ",".join(node.address for node in cluster.nodes)
        async with CacheClient(addresses, namespace="users", timeout_s=10.0) as client:

            async def lives() -> list[float]:
                await client.set_many(dict.fromkeys(keys, 1))
                entries = [await client.lookup(key) for key in keys]
                return [entry.ttl_s or 0.0 for entry in entries]

            assert all(90 < ttl_s <= 100 for ttl_s in await lives())
            stop = asyncio.Event()
            failures = 0

            async def serve() -> None:
                nonlocal failures
                while not stop.is_set():
                    found = await client.get_many(keys)
                    failures += len(found) != len(keys)

            serving = asyncio.create_task(serve())
            changed = await change_namespace(addresses, "users", {"ttl_s": "10m"}, [], 5.0)
            assert (set(changed.nodes.values()), changed.kept) == ({True}, True)
            stop.set()
            await serving
            assert failures == 0
            assert all(590 < ttl_s <= 600 for ttl_s in await lives())

            await cluster.kill("node-1")
            away = await change_namespace(addresses, "users", {"ttl_s": "20m"}, [], 2.0)
            assert away.kept
            await cluster.restart("node-1")
            for name in ("node-0", "node-2"):
                await cluster.restart(name)
            addresses = ",".join(node.address for node in cluster.nodes)
            assert await versions(addresses) == dict.fromkeys(("node-0", "node-1", "node-2"), 2)
            with pytest.raises(CliError, match="ttl_s: must be above 0"):
                await change_namespace(addresses, "users", {"ttl_s": "0"}, [], 5.0)
        async with CacheClient(addresses, namespace="users", timeout_s=10.0) as client:
            await client.set("user:1", 1)
            assert 1_190 < ((await client.lookup("user:1")).ttl_s or 0.0) <= 1_200
