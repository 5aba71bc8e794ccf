"""A coroutine that has begun already."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.begun import Begun


async def test_it_begins_at_once() -> None:
    """What comes before the first wait is done when it is made; the rest when it is awaited, with its result."""
    done: list[str] = []
    gate = asyncio.get_running_loop().create_future()

    async def work() -> str:
        done.append("begun")
        done.append(await gate)
        await asyncio.sleep(0)
        return "ended"

    begun = Begun(work())
    assert done == ["begun"]
    gate.set_result("went on")
    assert await begun == "ended"
    assert done == ["begun", "went on"]


async def test_what_never_waits_is_done() -> None:
    """Its result is there; a failure comes at once."""

    async def work(*, fails: bool) -> int:
        if fails:
            raise ValueError("no")
        return 7

    assert await Begun(work(fails=False)) == 7
    with pytest.raises(ValueError, match="no"):
        Begun(work(fails=True))


async def test_a_cancellation_is_the_coroutines() -> None:
    """It can clean up, and may go on."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("cleaned up")

    async def run(begun: Begun[None]) -> None:
        await begun

    task = asyncio.create_task(run(Begun(work())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned up"]


async def test_a_failure_of_what_it_waits_for() -> None:
    """It is raised in the coroutine, as ever."""
    gate = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await gate
        except OSError:
            return "mended"
        return "untouched"

    begun = Begun(work())
    gate.set_exception(OSError())
    assert await begun == "mended"
