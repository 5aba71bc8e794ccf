"""Version-based keys: one bump makes everything untrue that was derived from one thing, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient, InvalidArgument, InvalidNamespace, ManyFailed, Versioned
from cachenode_client.blocking import CacheClient as BlockingClient
from tests.support.server import running_server


async def test_bump_makes_all_untrue(cache: CacheClient) -> None:
    """What was derived is gone with the bump, near copies too; other things' values stay, and new ones are found."""
    user, other = cache.versioned("user", 7), cache.versioned("user", 70)
    await user.set("profile", 1, tags=["red"])
    await user.set_many({"": 2, "orders": 3})
    await other.set("profile", 4)
    assert await user.get_many(["profile", "", "orders", "absent"]) == {"profile": 1, "": 2, "orders": 3}
    assert await user.get("profile") == 1
    assert (await user.lookup("profile")).layer == "near"
    await user.bump()
    assert await user.get_many(["profile", "", "orders"]) == {}
    assert await user.get("profile", "none") == "none"
    assert await other.get("profile") == 4
    await user.set("profile", 5)
    assert await user.get("profile") == 5
    assert await user.delete("profile")


async def test_another_clients_copies_go(server: Server, cache: CacheClient) -> None:
    """The bump returns when no near cache serves the old value."""
    async with CacheClient(server.address, timeout_s=10) as reader:
        await cache.versioned("user", 7).set("profile", "old")
        mine = reader.versioned("user", 7)
        assert [await mine.get("profile") for _ in range(2)] == ["old", "old"]
        await cache.versioned("user", 7).bump()
        assert await mine.get("profile") is None


async def test_load_under_way_is_not_stored(cache: CacheClient) -> None:
    """Who asked before the bump gets what was loaded for him; who asks afterwards loads anew."""
    user, begun, may_end = cache.versioned("user", 7), asyncio.Event(), asyncio.Event()

    async def load_old() -> str:
        begun.set()
        await may_end.wait()
        return "old"

    first = asyncio.create_task(user.get_or_load("profile", load_old))
    await begun.wait()
    await user.bump()
    assert await user.get_or_load("profile", lambda: "new") == "new"
    may_end.set()
    assert await first == "old"
    assert await user.get("profile") == "new"


async def test_parts_do_not_meet(cache: CacheClient) -> None:
    """What separates the parts is escaped within them; what begins with all parts is covered."""
    keys = [cache.versioned(*parts).key("x") for parts in (("a:b",), ("a", "b"), ("a%3Ab",), ("a", 1))]
    assert keys == ["a%3Ab:x", "a:b:x", "a%253Ab:x", "a:1:x"]
    await cache.versioned("a", "b").set("x", 1)
    await cache.versioned("a:b").set("x", 2)
    await cache.versioned("a").bump()
    assert await cache.versioned("a", "b").get("x") is None
    assert await cache.versioned("a:b").get("x") == 2


@pytest.mark.parametrize("parts", [(), ("",), (True,), (1.5,), (None,)])
async def test_bad_parts_are_refused(cache: CacheClient, parts: tuple[Any, ...]) -> None:
    """A thing has a name."""
    with pytest.raises(InvalidArgument, match="versioned"):
        cache.versioned(*parts)


async def test_other_arguments_are_checked(cache: CacheClient) -> None:
    """The namespace at once, a name when it is used, a key's length by the call."""
    with pytest.raises(InvalidNamespace):
        cache.versioned("user", namespace="no/name")
    with pytest.raises(InvalidArgument, match="name"):
        cache.versioned("user").key(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await cache.versioned("user").get("x" * 1_024)
    assert "user" not in repr(cache.versioned("user"))


async def test_bump_may_expire() -> None:
    """Where the namespace serves stale values, old ones may be served, marked."""
    async with (
        running_server(namespaces__n__stale_s=60.0) as server,
        CacheClient(server.address, timeout_s=10) as cache,
    ):
        user = cache.versioned("user", 7, namespace="n")
        assert isinstance(user, Versioned)
        await user.set("profile", 1)
        await user.bump(mode="expire")
        entry = await user.lookup("profile")
        assert (entry.value, entry.stale) == (1, True)


async def test_blocking_client(server: Server) -> None:
    """The same for threads."""

    def use() -> None:
        with BlockingClient(server.address, timeout_s=10) as cache:
            user = cache.versioned("user", 7)
            assert user.get_or_load("profile", lambda: 1) == 1
            user.set_many({"a": 2, "b": 3})
            user.set("c", 4)
            assert user.get_many(["profile", "a", "b", "c"]) == {"profile": 1, "a": 2, "b": 3, "c": 4}
            user.bump()
            assert user.get_many(["profile", "a", "b", "c"]) == {}
            assert not user.lookup("a").found
            assert not user.delete("a")
            assert user.get("a", 0) == 0
            assert "user" not in repr(user)

    await asyncio.to_thread(use)


async def test_errors_are_those_of_the_client(cache: CacheClient) -> None:
    """A value that is too large fails under its whole key."""
    with pytest.raises(ManyFailed) as failed:
        await cache.versioned("user", 7).set_many({"big": b"x" * (2 << 20), "small": 1})
    assert set(failed.value.errors) == {"user:7:big"}
