"""What all `Leases` do: compare-and-swap, and watching one lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from cachenode.adapters.leases import Lease, LeaseChanged, Leases
from cachenode.adapters.leases_kubernetes import KubernetesLeases
from cachenode.adapters.leases_memory import MemoryLeases
from tests.support.lease_api import lease_api

ONE = Lease("one", "n0/1", 4.0, {"member": '["n0"]'})
LIMIT_S = 10.0


@pytest.fixture(params=["memory", "kubernetes"])
async def leases(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Leases]:
    """Each implementation in turn."""
    if request.param == "memory":
        yield MemoryLeases()
        return
    async with lease_api(tmp_path) as api:
        kubernetes = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=LIMIT_S)
        yield kubernetes
        await kubernetes.close()


async def told(watch: AsyncGenerator[Lease | None, None]) -> Lease | None:
    async with asyncio.timeout(LIMIT_S):
        return await anext(watch)


async def test_each_write_is_of_the_version_that_was_seen(leases: Leases) -> None:
    """Who has seen an older one changes nothing."""
    first = await leases.create(ONE)
    second = await leases.replace(first)
    assert first.version != second.version
    for call in (leases.create(ONE), leases.replace(first), leases.delete(first)):
        with pytest.raises(LeaseChanged):
            await call
    assert await leases.list() == [second]
    await leases.delete(second)
    assert await leases.list() == []


async def test_watch_begins_with_what_there_is(leases: Leases) -> None:
    """A lease, or that there is none."""
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) is None
    written = await leases.create(ONE)
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) == written


async def test_watch_tells_what_changes(leases: Leases) -> None:
    """Made, written, deleted and made again; what happens to others is not told."""
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) is None
        first = await leases.create(ONE)
        assert await told(watch) == first
        await leases.create(replace(ONE, name="another"))
        second = await leases.replace(replace(first, content={"member": "other"}))
        assert await told(watch) == second
        await leases.delete(second)
        assert await told(watch) is None
        assert await told_after(watch, leases) == "again"


async def told_after(watch: AsyncGenerator[Lease | None, None], leases: Leases) -> str:
    """Let somebody wait first, and write then."""
    waiting = asyncio.create_task(told(watch))
    await asyncio.sleep(0)
    await leases.create(replace(ONE, holder="again"))
    lease = await waiting
    assert lease is not None
    return lease.holder


async def test_watches_are_each_told(leases: Leases) -> None:
    """One that ends takes nothing from another."""
    async with aclosing(leases.watch("one")) as one, aclosing(leases.watch("one")) as two:
        assert [await told(one), await told(two)] == [None, None]
        first = await leases.create(ONE)
        assert [await told(one), await told(two)] == [first, first]
        await one.aclose()
        second = await leases.replace(first)
        assert await told(two) == second
