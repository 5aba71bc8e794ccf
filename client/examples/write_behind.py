"""Writes that are acknowledged before the database has them, and reach it later: fewer, in batches, in order per key.

    DATABASE_URL=postgresql+asyncpg://user:password@host/name python client/examples/write_behind.py [HOST:PORT]

Makes a table `orders` there, and empties it. Without DATABASE_URL it takes a file of SQLite: the statements are the
same. A cluster of your own needs the origin of write_behind.toml.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cachenode_client import CacheClient, CacheUnavailable
from local import cluster

ORDERS, CHANGES = 20, 50
PATIENCE_S = 20.0
TABLE = """CREATE TABLE IF NOT EXISTS orders
           (id BIGINT PRIMARY KEY, item TEXT, count INTEGER, version BIGINT, writes INTEGER)"""


async def make_table(url: str) -> None:
    """Make the table, empty."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
        await connection.execute(text("DELETE FROM orders"))
    await engine.dispose()


async def rows(database: AsyncEngine) -> tuple[int, int, int]:
    """Return how many rows there are, how many of them have the last count, and how often all were written."""
    query = "SELECT count(*), count(CASE WHEN count = :last THEN 1 END), coalesce(sum(writes), 0) FROM orders"
    async with database.connect() as connection:
        found = (await connection.execute(text(query), {"last": CHANGES})).one()
    return found[0], found[1], found[2]


async def change(cache: CacheClient, order: int) -> None:
    """Change an order many times; each write is in the queue when it returns."""
    for count in range(1, CHANGES + 1):
        while True:
            try:
                await cache.set(f"order:{order}", {"id": order, "item": "tea", "count": count})
                break
            except CacheUnavailable:  # the queue cannot be reached just now, so it has taken nothing: write again
                await asyncio.sleep(0.1)


async def main(address: str, url: str) -> None:
    """Write, read at once, and look at the table."""
    database = create_async_engine(url)
    async with CacheClient(address, namespace="orders", timeout_s=5) as cache:
        began = time.perf_counter()
        await asyncio.gather(*(change(cache, order) for order in range(ORDERS)))
        took_s = time.perf_counter() - began
        print(f"{ORDERS * CHANGES} writes acknowledged in {took_s:.1f} s; order:7 reads {await cache.get('order:7')}")
        while (state := await rows(database))[1] < ORDERS and time.perf_counter() - began < PATIENCE_S:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the queue hands over what has waited for 0.2 s
        there, last, written = state
        print(f"the table has {there} rows, {last} of them with the last count, and was written {written} times")
        await cache.invalidate(namespace="orders")
        print(f"after an invalidation order:7 is loaded from it: {await cache.get('order:7')}")
    await database.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        url = os.environ.get("DATABASE_URL", f"sqlite+aiosqlite:///{folder}/orders.db")
        asyncio.run(make_table(url))
        with cluster("write_behind.toml", {"database-url": url}) as found:
            asyncio.run(main(found, url))
