"""Invalidations at the end of a transaction."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient, CacheError, InvalidArgument
from cachenode_client.blocking import CacheClient as BlockingClient


class Database:
    """A row that others see as it was until the transaction is committed."""

    def __init__(self) -> None:
        self.committed = 1

    def load(self) -> int:
        return self.committed


async def test_invalidated_before_the_commit_an_old_value_comes_back(cache: CacheClient) -> None:
    """Scenario 13: what nobody can detect, and how the helper keeps from it."""
    database = Database()
    await cache.get_or_load("row", database.load)
    await cache.invalidate("row")
    assert await cache.get_or_load("row", database.load) == 1, "a reader between the invalidation and the commit"
    database.committed = 2
    assert await cache.get_or_load("row", database.load) == 1, "stale for good"

    async with cache.after_commit() as later:
        later.invalidate("row")
        assert len(later) == 1
        assert await cache.get_or_load("row", database.load) == 1
        database.committed = 3
    assert await cache.get_or_load("row", database.load) == 3
    assert repr(later) == "<Pending 0 invalidations>"


async def test_error_in_the_block_invalidates_too(cache: CacheClient) -> None:
    """A commit whose outcome is unknown may have been done."""
    await cache.set_many({"a:1": 1, "a:2": 2, "b": 3, "c": 4})
    await cache.set("t", 5, tags=["tag"])

    async def change() -> None:
        async with cache.after_commit() as later:
            later.invalidate(prefix="a:")
            later.invalidate(["b"], tags=(tag for tag in ["tag"]))
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await change()
    assert await cache.get_many(["a:1", "a:2", "b", "c", "t"]) == {"c": 4}


async def test_wrong_arguments_fail_in_the_block(cache: CacheClient) -> None:
    """They are found while the transaction can still be rolled back."""
    await cache.set("k", 1)
    async with cache.after_commit() as later:
        with pytest.raises(InvalidArgument):
            later.invalidate()
        with pytest.raises(InvalidArgument):
            later.invalidate([])
        assert len(later) == 0
    assert await cache.get("k") == 1


async def test_failed_invalidation_is_raised_or_noted(cache: CacheClient) -> None:
    """Alone it is the block's error; beside another one it is said there."""

    async def change(error: type[Exception] | None) -> None:
        async with cache.after_commit() as later:
            later.invalidate("k")
            await cache.aclose()
            if error is not None:
                raise error

    with pytest.raises(CacheError):
        await change(None)
    with pytest.raises(KeyError) as caught:
        await change(KeyError)
    assert "1 invalidations failed" in caught.value.__notes__[0]


async def test_cancelled_caller_invalidates(cache: CacheClient) -> None:
    """Who is cancelled when the commit is done does not leave the old value behind."""
    await cache.set("k", 1)
    committed = asyncio.Event()

    async def change() -> None:
        async with cache.after_commit() as later:
            later.invalidate("k")
            committed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(change())
    await committed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.get("k") is None


async def test_for_threads(server: Server) -> None:
    """The same without await."""

    def use() -> None:
        with BlockingClient(server.address, timeout_s=10) as cache:
            cache.set("k", 1)
            with cache.after_commit() as later:
                later.invalidate("k")
                assert cache.get("k") == 1
            assert cache.get("k") is None
            later.invalidate("k")
        with pytest.raises(CacheError), cache.after_commit() as later:
            later.invalidate("k")

    await asyncio.to_thread(use)
