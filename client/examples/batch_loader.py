"""Many keys, few queries: batches that a program makes, and batches that nodes make of what many programs ask for.

    python client/examples/batch_loader.py [HOST:PORT]

A cluster of your own needs the origin for the second half: `cachenode cluster --config
client/examples/batch_loader.toml`, with PYTHONPATH=client/examples.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from cachenode_client import CacheClient
from local import cluster

queries: list[list[str]] = []


async def load_users(keys: list[str]) -> dict[str, object]:
    """Stand for `SELECT … WHERE id IN (…)`. What is left out of the mapping does not exist."""
    queries.append(keys)
    await asyncio.sleep(0.05)
    return {key: {"id": int(key.removeprefix("user:"))} for key in keys if key != "user:404"}


def users(numbers: Iterable[int]) -> list[str]:
    """Return the keys of users."""
    return [f"user:{number}" for number in numbers]


async def by_the_program(cache: CacheClient) -> None:
    """Load only what nobody has and nobody else is loading: a query for what each node answers."""
    await cache.set("user:1", {"id": 1})
    pages = await asyncio.gather(  # two pages that overlap, at the same moment
        cache.get_or_load_many(users(range(1, 31)), load_users, ttl_s=60),
        cache.get_or_load_many(users([*range(21, 51), 404]), load_users, ttl_s=60),
    )
    print(f"by the program: {[len(page) for page in pages]} users, {[len(keys) for keys in queries]} keys in queries")


async def by_the_nodes(cache: CacheClient) -> None:
    """Ask for one key at a time, as requests of a service do; the keys' owners put them together."""
    found = await asyncio.gather(*(cache.get(f"price:{number}", namespace="prices") for number in range(1, 201)))
    if None in found:
        raise SystemExit("These nodes have no origin for the namespace prices: see the top of this file.")
    calls = sum(1 / price["loaded_with"] for price in found)
    print(f"by the nodes: {len(found)} reads, {calls:.0f} calls of the loader")


async def main(address: str) -> None:
    """Show both."""
    async with CacheClient(address, timeout_s=5) as cache:
        await cache.invalidate(prefix="user:")
        await by_the_program(cache)
        await by_the_nodes(cache)


if __name__ == "__main__":
    with cluster("batch_loader.toml") as found:
        asyncio.run(main(found))
