"""One service tells what has happened, another has cached what that makes untrue; neither knows the other's keys.

    python client/examples/event_invalidation.py [HOST:PORT]

A cluster of your own needs the rules: `cachenode cluster --config client/examples/event_invalidation.toml`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cachenode_client import CacheClient
from local import cluster

names = {7: "Ada", 8: "Edsger"}
posts: dict[int, list[str]] = {7: ["On engines"], 8: []}
queries: list[str] = []


class Readers:
    """A service that shows profiles and feeds. It knows which keys it makes, and of no event."""

    def __init__(self, cache: CacheClient) -> None:
        @cache.cached("user:{user_id}:profile", ttl_s=3_600)
        async def profile(user_id: int) -> dict[str, Any]:
            queries.append("profile")
            return {"name": names[user_id]}

        @cache.cached("user:{user_id}:posts", ttl_s=3_600)
        async def posts_of(user_id: int) -> list[str]:
            queries.append("posts")
            return posts[user_id]

        @cache.cached("feed:{page}", ttl_s=3_600)
        async def feed(page: int) -> list[str]:
            queries.append("feed")
            return [title for titles in posts.values() for title in titles][10 * page :][:10]

        self._profile, self._posts_of, self._feed = profile, posts_of, feed

    async def page(self, user_id: int) -> tuple[Any, Any, Any]:
        """Return what a page shows."""
        return await self._profile(user_id), await self._posts_of(user_id), await self._feed(0)


class Authors:
    """A service that writes. It knows what has happened, and of no cached value."""

    def __init__(self, cache: CacheClient) -> None:
        self._cache = cache

    async def post(self, user_id: int, title: str) -> None:
        """Store a post, and tell of it: after the commit, and done when nobody reads the old feed any more."""
        posts[user_id] = [*posts[user_id], title]
        await self._cache.publish("post.created", {"userId": user_id})

    async def rename(self, user_id: int, name: str) -> None:
        """Change a name, and tell of it."""
        names[user_id] = name
        await self._cache.publish("user.updated", {"userId": user_id})


async def main(address: str) -> None:
    """Show what each event makes untrue, and that all else stays."""
    async with CacheClient(address) as one, CacheClient(address) as other:
        await one.invalidate(pattern="*")
        readers, authors = Readers(one), Authors(other)
        await show("before", readers)
        await authors.post(7, "On poetry")
        await show("after post.created", readers)
        await authors.rename(7, "Ada Lovelace")
        await show("after user.updated", readers)


async def show(when: str, readers: Readers) -> None:
    """Print what both users' pages show, and what was queried for them."""
    queries.clear()
    pages = [await readers.page(user_id) for user_id in names]
    print(f"{when}: {pages[0]}; queried: {', '.join(sorted(set(queries)))} ({len(queries)})")


if __name__ == "__main__":
    with cluster("event_invalidation.toml") as found:
        asyncio.run(main(found))
