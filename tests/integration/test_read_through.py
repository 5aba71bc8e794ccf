"""Read-through with real nodes, a real L2 and a database: who asks needs no loader, and the database is asked once."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from cachenode.cli.local_cluster import ClusterError, LocalCluster
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from cachenode_client import CacheClient, LoadFailed
from cachenode_client.blocking import CacheClient as BlockingCacheClient

USERS = 500
CONFIG = """
[origins.users]
loader = "tests.support.loaders:Database"
options = {{ path = "{path}" }}
batch_keys = 100
[origins.broken]
loader = "tests.support.loaders:fail"
attempts = 1
[namespaces.users]
origin = "users"
negative_ttl_s = 60
[namespaces.broken]
origin = "broken"
"""


def make_database(path: Path) -> None:
    """Write the table of users."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("CREATE TABLE loads (key TEXT)")
        database.executemany("INSERT INTO users VALUES (?, ?)", [(n, f"user {n}") for n in range(USERS)])


def loads(path: Path) -> dict[str, int]:
    """Return how often each key was asked for."""
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT key, count(*) FROM loads GROUP BY key"))


def settings(folder: Path) -> list[str]:
    """Write a database and a configuration; return the nodes' arguments."""
    make_database(folder / "db")
    (folder / "node.toml").write_text(CONFIG.format(path=folder / "db"))
    return ["--config", str(folder / "node.toml")]


async def test_clients_read_what_they_never_wrote(tmp_path: Path) -> None:
    """Three nodes, clients of every kind, each key asked for many times: one load of each, also of the absent.

    Then a node is killed: its keys are served by the others from L2, without another load.
    """
    arguments = settings(tmp_path)
    keys = [f"user:{n}" for n in range(USERS)]
    async with LocalCluster(nodes=3, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = ",".join(node.address for node in cluster.nodes)
        options: dict[str, Any] = {"namespace": "users", "timeout_s": 10.0}
        async with CacheClient(addresses, **options) as one, CacheClient(addresses, **options) as two:
            found = await asyncio.gather(one.get_many(keys), two.get_many(keys), one.get("user:7"), two.get("user:7"))
            everybody = {f"user:{n}": {"id": n, "name": f"user {n}"} for n in range(USERS)}
            assert found == [everybody, everybody, everybody["user:7"], everybody["user:7"]]
            for _ in range(5):
                assert await asyncio.gather(*(client.get("user:-1") for client in (one, two))) == [None, None]
            with BlockingCacheClient(addresses, **options) as blocking:
                assert await asyncio.to_thread(blocking.get, "user:3") == everybody["user:3"]
            for node in cluster.nodes:  # whichever is asked
                async with aio.insecure_channel(node.address) as channel:
                    stub = cache_pb2_grpc.CacheServiceStub(channel)
                    answer = await stub.Get(cache_pb2.GetRequest(namespace="users", key=b"user:5"), timeout=10)
                    assert answer.entry.found
            assert loads(tmp_path / "db") == dict.fromkeys([*keys, "user:-1"], 1)

            await cluster.kill("node-0")
            assert await one.get_many(keys) == everybody
            again = {key: count for key, count in loads(tmp_path / "db").items() if count > 1}
            assert not again

            # Until its keys have a new owner, nobody may declare them untrue.
            while "node-0" in (await one.view()).by_id:  # noqa: ASYNC110 - the view changes in its own time
                await asyncio.sleep(0.05)
            await one.invalidate("user:7")
            assert await two.get("user:7") == everybody["user:7"]
            assert loads(tmp_path / "db")["user:7"] == 2


async def test_failing_loader(tmp_path: Path) -> None:
    """The error has a type and names the exception's; under ``on_error="miss"`` it is a miss."""
    arguments = settings(tmp_path)
    async with LocalCluster(nodes=1, directory=tmp_path / "c", arguments=arguments) as cluster:
        async with CacheClient(cluster.address, namespace="broken", timeout_s=10) as client:
            with pytest.raises(LoadFailed, match="OSError") as caught:
                await client.get("k")
            assert "secret" not in str(caught.value)
        async with CacheClient(cluster.address, namespace="broken", timeout_s=10, on_error="miss") as client:
            assert await client.get("k", default=3) == 3


async def test_loader_that_is_not_there(tmp_path: Path) -> None:
    """The node does not start, and says which setting is wrong."""
    (tmp_path / "node.toml").write_text('[origins.users]\nloader = "no_such_module:load"\n')
    arguments = ["--config", str(tmp_path / "node.toml")]
    with pytest.raises(ClusterError, match=r"origins\.users\.loader: cannot be imported: ModuleNotFoundError"):
        async with LocalCluster(nodes=1, directory=tmp_path / "c", arguments=arguments):
            pass
