"""Nodes that write behind to a database, with a Valkey that keeps what it is told, and writers that remember."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from cachenode.adapters.redis_client import connect
from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, CacheError
from tests.integration.load import until
from tests.support.postgres import Postgres
from tests.support.redis_server import RedisServer, server
from tests.support.redis_topologies import ClusterSet, Process
from tests.support.sinks import make_table

__all__ = ["NAMESPACE", "SAFE", "Site", "Writer", "site"]

NAMESPACE = "orders"
AOF = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
SAFE = [
    *(f"{name} {value}" for name, value in AOF.items()),
    "min-replicas-to-write 1",
    "min-replicas-max-lag 2",
]
"""Settings of a Cluster's servers, as the page on Redis has them where queues lie."""
_CONFIG = """
[cluster]
lease_s = {lease_s}
[l2]
timeout_s = 1.0
[writebehind]
durability = "{durability}"
attempts = {attempts}
retry_max_s = 2
max_backlog = {max_backlog}
{origin}
batch_writes = 100
timeout_s = 10
[namespaces.orders]
origin = "db"
write = "behind"
ttl_s = "{ttl}"
"""

_TABLE = """[origins.db]
sink = "tests.support.sinks:Table"
options = {{ path = "{folder}/db", folder = "{folder}" }}"""
_POSTGRES = """[origins.db]
sink = "sql"
options.url = "{url}"
options.upsert = '''INSERT INTO rows (key, value, version) VALUES (:key, :value, :version) ON CONFLICT (key) DO UPDATE
  SET value = excluded.value, version = excluded.version WHERE excluded.version > rows.version'''"""
_POSTGRES_TABLES = """
CREATE TABLE rows (key TEXT PRIMARY KEY, value BIGINT, version BIGINT NOT NULL);
CREATE TABLE done (number BIGSERIAL, key TEXT, value BIGINT, version BIGINT);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO done (key, value, version) VALUES (NEW.key, NEW.value, NEW.version); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON rows FOR EACH ROW EXECUTE FUNCTION note();
"""


@dataclass
class Site:
    """What a test has to do with.

    Attributes:
        folder: Where the sinks look for word from the test.
        servers: What keeps L2 and the queue.
        cluster: The nodes.
        database: The PostgreSQL behind them, None for a SQLite file.
    """

    folder: Path
    servers: RedisServer | ClusterSet
    cluster: LocalCluster
    database: Postgres | None = None

    @property
    def valkey(self) -> RedisServer:
        """The one server, where it is no Cluster."""
        assert isinstance(self.servers, RedisServer)
        return self.servers

    def say(self, word: str, *, said: bool = True) -> None:
        """Leave word for the sinks, or take it back."""
        path = self.folder / word
        path.touch() if said else path.unlink(missing_ok=True)

    def rows(self) -> dict[str, int | None]:
        """Return the value of each row."""
        with closing(sqlite3.connect(self.folder / "db", timeout=10.0)) as database:
            return dict(database.execute("SELECT key, value FROM rows"))

    def done(self) -> list[tuple[str, int | None, int, int]]:
        """Return key, value, version of each write that the sink committed, and whether it changed its row."""
        with closing(sqlite3.connect(self.folder / "db", timeout=10.0)) as database:
            return list(database.execute("SELECT key, value, version, changed FROM done ORDER BY rowid"))

    async def contents(self) -> tuple[dict[str, int | None], list[tuple[str, int | None, int, int]]]:
        """Return what `rows` and `done` say, of whichever database it is; PostgreSQL tells of changes only."""
        if self.database is None:
            return self.rows(), self.done()
        connection = await asyncpg.connect(self.database.dsn)
        rows = {row["key"]: row["value"] for row in await connection.fetch("SELECT key, value FROM rows")}
        done = await connection.fetch("SELECT key, value, version FROM done ORDER BY number")
        await connection.close()
        return rows, [(row["key"], row["value"], row["version"], 1) for row in done]

    def redis(self) -> Redis:
        """Return a client of the Valkey."""
        return connect(self.valkey.url, timeout_s=5.0, connect_timeout_s=5.0)

    def name(self, what: str) -> str:
        """Return the name of a part of the queue."""
        if isinstance(self.servers, ClusterSet):
            return f"cn:{{{self.cluster.name}:{NAMESPACE}}}:.wb.{what}:{NAMESPACE}"
        return f"cn:{self.cluster.name}:.wb.{what}:{NAMESPACE}"

    async def waiting(self) -> int:
        """Return how many keys wait for the origin."""
        if isinstance(self.servers, ClusterSet):
            name = self.name("records")
            return int(await asyncio.to_thread(lambda: self.queue_master().call("HLEN", name)))
        client = self.redis()
        try:
            return int(await client.hlen(self.name("records")))
        finally:
            await client.aclose()

    def queue_master(self) -> Process:
        """Return the Cluster's master that keeps the queue; blocks."""
        assert isinstance(self.servers, ClusterSet)
        return self.servers.owner(self.name("records").encode())

    async def fail_queue(self) -> None:
        """Kill the server that keeps the queue, and let it run again; in a Cluster when another has its place."""
        if not isinstance(self.servers, ClusterSet):
            self.servers.kill()
            self.servers.restart()
            return
        master = await asyncio.to_thread(self.queue_master)
        replica = await asyncio.to_thread(self.servers.replica_of, master)
        master.kill()
        await until(lambda: asyncio.to_thread(lambda: replica.info()["role"] == "master"), 20.0, "a new master")
        await asyncio.to_thread(master.start)

    async def drained(self, within_s: float = 30.0) -> float:
        """Wait until nothing waits any more. Return how long that took."""
        began = time.monotonic()
        while await self.waiting():
            assert time.monotonic() < began + within_s, f"{await self.waiting()} keys still wait"
            await asyncio.sleep(0.05)
        return time.monotonic() - began


@asynccontextmanager
async def site(
    folder: Path,
    *,
    nodes: int = 3,
    durability: str = "fsync",
    attempts: int = 5,
    max_backlog: int = 100_000,
    ttl: str = "never",
    settings: dict[str, str] | None = None,
    database: Postgres | None = None,
    redis_cluster: ClusterSet | None = None,
) -> AsyncIterator[Site]:
    """Run everything for the duration of a block, but a Cluster, which is the caller's."""
    if database is None:
        make_table(folder / "db")
        origin = _TABLE.format(folder=folder)
    else:
        connection = await asyncpg.connect(database.dsn)
        await connection.execute(_POSTGRES_TABLES)
        await connection.close()
        origin = _POSTGRES.format(url=database.url)
    text = _CONFIG.format(
        origin=origin,
        durability=durability,
        attempts=attempts,
        max_backlog=max_backlog,
        ttl=ttl,
        lease_s=4 if redis_cluster is None else 8,
    )
    (folder / "node.toml").write_text(text)
    with ExitStack() as stack:
        servers: RedisServer | ClusterSet
        if redis_cluster is not None:
            servers = redis_cluster
        else:
            (folder / "l2").mkdir()
            servers = stack.enter_context(server(folder / "l2", "valkey", settings=AOF | (settings or {})))
        arguments = ["--config", str(folder / "node.toml")]
        running = LocalCluster(nodes=nodes, directory=folder / "c", l2_url=servers.url, arguments=arguments)
        async with running as cluster:
            yield Site(folder, servers, cluster, database)


@dataclass
class Writer:
    """Writes rising numbers to its keys, one write of a key at a time, and remembers what was acknowledged.

    Attributes:
        client: What it writes with.
        keys: Its keys: nobody else writes them.
        acknowledged: The highest number of each key whose write succeeded.
        attempted: The highest that was tried.
        errors: Why others did not succeed, with the time that took.
    """

    client: CacheClient
    keys: list[str]
    acknowledged: dict[str, int] = field(default_factory=dict)
    attempted: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[str, float]] = field(default_factory=list)
    count: int = 0

    async def write(self, key: str) -> bool:
        """Write the next number of a key. Return True if it was acknowledged."""
        number = self.attempted.get(key, -1) + 1
        self.attempted[key] = number
        began = time.monotonic()
        try:
            await self.client.set(key, number)
        except CacheError as error:
            self.errors.append((error.reason, time.monotonic() - began))
            return False
        self.acknowledged[key] = number
        self.count += 1
        return True

    async def write_many(self, writes: int) -> None:
        """Have so many writes acknowledged, key after key."""
        end = self.count + writes
        while self.count < end:
            for key in self.keys:
                if not await self.write(key):
                    await asyncio.sleep(0.05)

    def lost(self, rows: dict[str, int | None]) -> list[str]:
        """Return the keys whose row is older than what was acknowledged, or newer than anything that was tried."""
        return [
            key
            for key, number in self.acknowledged.items()
            if not number <= (rows.get(key) if rows.get(key) is not None else -1) <= self.attempted[key]  # type: ignore[operator]
        ]


def out_of_order(done: list[tuple[str, int | None, int, int]]) -> int:
    """Return how many changes of rows brought a lower number than the change before."""
    last: dict[str, int] = {}
    wrong = 0
    for key, value, _, changed in done:
        if changed and value is not None:
            wrong += value < last.get(key, -1)
            last[key] = value
    return wrong
