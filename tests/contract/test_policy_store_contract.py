"""What every `PolicyStore` does, whichever keeps the changes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from cachenode.adapters.policies_memory import MemoryPolicies
from cachenode.adapters.policies_redis import RedisPolicies
from cachenode.adapters.redis_client import connect
from cachenode.core.live_policy import LivePolicy
from cachenode.ports import PolicyStore
from tests.support.redis_server import LEGS


@pytest.fixture(params=["memory", *LEGS, "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PolicyStore]:
    """Each implementation in turn."""
    if request.param == "memory":
        yield MemoryPolicies()
        return
    url = request.getfixturevalue("server_urls")(request.param)
    client = connect(url, timeout_s=5.0, connect_timeout_s=5.0)
    kept = RedisPolicies(client, f"t{secrets.token_hex(6)}", timeout_s=5.0)
    yield kept
    await kept.close()


async def test_changes_are_kept(store: PolicyStore) -> None:
    """By namespace, with all that they say, also that nothing is left of them."""
    assert await store.read() == {}
    users, carts = LivePolicy(1, {"ttl_s": "10m", "share": 'é"2'}), LivePolicy(4)
    assert await store.put("users", users) == users
    assert await store.put("carts", carts) == carts
    assert await store.read() == {"users": users, "carts": carts}


async def test_older_change_is_not_kept(store: PolicyStore) -> None:
    """The newer one stays, and is told."""
    old, new = LivePolicy(9, {"ttl_s": "5"}), LivePolicy(10, {"ttl_s": "1"})
    await store.put("users", new)
    assert await store.put("users", old) == new
    assert await store.put("users", new) == new


async def test_of_two_changes_at_a_moment_the_greater_stays(store: PolicyStore) -> None:
    """The one that the nodes take too, in whatever order they come."""
    rivals = [LivePolicy(1, {"ttl_s": text}) for text in ("5", "é", "10m", "a")]
    greatest = next(each for each in rivals if all(each.newer(other) for other in rivals if other != each))
    await asyncio.gather(*(store.put("users", each) for each in rivals))
    assert (await store.read())["users"] == greatest
