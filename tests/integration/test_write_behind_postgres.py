"""Write-behind to a real PostgreSQL through the built-in SQL sink, while the database crashes and a node is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from cachenode.adapters.redis_client import connect
from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.load import until
from tests.integration.write_behind.site import AOF
from tests.support.postgres import postgres
from tests.support.redis_server import server

KEYS = 60
CONFIG = """
[l2]
timeout_s = 1.0
[writebehind]
durability = "fsync"
retry_max_s = 1
[origins.db]
sink = "sql"
batch_writes = 50
timeout_s = 5
[origins.db.options]
url = "{url}"
key = "order:{{id:int}}"
upsert = \"\"\"INSERT INTO orders (id, total, version) VALUES (:key, :total, :version) ON CONFLICT (id) DO UPDATE
  SET total = excluded.total, version = excluded.version WHERE orders.version < excluded.version\"\"\"
delete = "DELETE FROM orders WHERE id = :key AND version < :version"
[namespaces.orders]
origin = "db"
write = "behind"
ttl_s = "never"
"""


async def test_database_that_crashes(tmp_path: Path) -> None:
    """All acknowledged writes are in the database at the end, and what violates a constraint is a dead letter."""
    (tmp_path / "l2").mkdir()
    with postgres() as database, server(tmp_path / "l2", "valkey", settings=AOF) as valkey:
        connection = await asyncpg.connect(database.dsn)
        await connection.execute(
            "CREATE TABLE orders (id BIGINT PRIMARY KEY, total BIGINT CHECK (total >= 0), version BIGINT NOT NULL)"
        )
        await connection.close()
        (tmp_path / "node.toml").write_text(CONFIG.format(url=database.url))
        arguments = ["--config", str(tmp_path / "node.toml")]
        async with (
            LocalCluster(nodes=2, directory=tmp_path / "c", l2_url=valkey.url, arguments=arguments) as cluster,
            CacheClient(cluster.address, namespace="orders", timeout_s=15.0, on_error="raise") as client,
        ):

            async def write(total: int) -> None:
                await asyncio.gather(*(client.set(f"order:{number}", {"total": total}) for number in range(KEYS)))

            async def rows() -> list[int]:
                connection = await asyncpg.connect(database.dsn)
                found = [row["total"] for row in await connection.fetch("SELECT total FROM orders ORDER BY id")]
                await connection.close()
                return found

            await write(1)
            database.kill()
            await write(2)
            await client.set("order:1000", {"total": -1})
            await cluster.kill("node-0")
            await asyncio.to_thread(database.start)

            async def caught_up() -> bool:
                return await rows() == [2] * KEYS

            await until(caught_up, 40.0, "every acknowledged write in the database")
            await client.delete("order:0")

            async def removed() -> bool:
                return len(await rows()) == KEYS - 1

            await until(removed, 20.0, "the removal in the database")
            redis = connect(valkey.url, timeout_s=5.0, connect_timeout_s=5.0)
            name = f"cn:{cluster.name}:.wb.dead:orders"

            async def aside() -> bool:
                return bool(await redis.xlen(name))

            await until(aside, 20.0, "a dead letter")
            await redis.aclose()
