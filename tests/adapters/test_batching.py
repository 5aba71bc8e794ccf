from __future__ import annotations

import asyncio
import socket
import time

import pytest

from cachenode.adapters import batching
from cachenode.adapters.batching import TurnBatcher
from cachenode.errors import L2Unavailable


class Runs:
    """What a batcher ran; doubles numbers, and can be held or broken."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


def batcher(runs: Runs, *, slots: int = 4, limit_s: float = 5.0, **options: object) -> TurnBatcher[int, int]:
    return TurnBatcher(runs, in_flight=slots, limit_s=limit_s, **options)  # type: ignore[arg-type]


async def test_calls_of_one_turn_share_a_batch() -> None:
    """Callers of one turn are served by one run, each with its own results in order."""
    runs = Runs()
    batch = batcher(runs)
    results = await asyncio.gather(batch.submit([1, 2]), batch.submit([]), batch.submit([3]))
    assert list(results) == [[2, 4], [], [6]]
    assert runs.batches == [[1, 2, 3]]
    assert await batch.submit([4]) == [8]
    assert runs.batches[1:] == [[4]]


async def test_many_items_are_split() -> None:
    """A batch has no more items than allowed, whether they come from one caller or from several."""
    runs = Runs()
    batch = batcher(runs, max_items=3)
    results = await asyncio.gather(batch.submit([1, 2]), batch.submit([3, 4]), batch.submit(list(range(7))))
    assert list(results) == [[2, 4], [6, 8], [0, 2, 4, 6, 8, 10, 12]]
    assert max(map(len, runs.batches)) == 3


async def test_heavy_items_are_split() -> None:
    """A batch has no more bytes than allowed, but a single item may be heavier."""
    runs = Runs()
    batch = batcher(runs, max_bytes=10, size=lambda item: item)
    results = await asyncio.gather(batch.submit([6, 6, 25, 1]), batch.submit([4]), batch.submit([5]))
    assert list(results) == [[12, 12, 50, 2], [8], [10]]
    assert runs.batches == [[6], [6], [25], [1, 4, 5]]


async def test_a_cancelled_caller_leaves_the_others_right() -> None:
    """Cancelled before the batch leaves, while it is under way, or not at all: each caller's results are its own.

    Scenario 43.
    """
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs)
    early, late, stays = (asyncio.create_task(batch.submit([number])) for number in (1, 2, 3))
    await asyncio.sleep(0)
    early.cancel()
    await runs.begun.wait()
    late.cancel()
    await asyncio.sleep(0)
    runs.gate.set()
    assert await stays == [6]
    assert early.cancelled()
    assert late.cancelled()
    assert runs.batches == [[2, 3]]


async def test_all_callers_learn_of_a_failure() -> None:
    """A failed batch is `L2Unavailable` for each of its callers, and for nobody else."""
    runs = Runs()
    runs.error = OSError("gone")
    batch = batcher(runs)
    results = await asyncio.gather(batch.submit([1]), batch.submit([2]), return_exceptions=True)
    assert [type(result) for result in results] == [L2Unavailable, L2Unavailable]
    assert "gone" in str(results[0])
    assert results[0] is not results[1]
    runs.error = None
    assert await batch.submit([3]) == [6]


async def test_a_part_that_fails_fails_the_whole_call() -> None:
    """A call that needed several batches has no result if one of them failed."""
    runs = Runs()
    runs.error = OSError("gone")
    with pytest.raises(L2Unavailable):
        await batcher(runs, max_items=2).submit([1, 2, 3])


async def test_a_defect_settles_the_callers_and_is_not_hidden() -> None:
    """An unexpected error reaches the loop's handler; the callers still get `L2Unavailable`."""
    seen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    runs = Runs()
    runs.error = KeyError("defect")
    with pytest.raises(L2Unavailable):
        await batcher(runs).submit([1])
    runs.error = None
    await asyncio.sleep(0)
    import gc

    gc.collect()
    assert [type(context["exception"]) for context in seen] == [KeyError]


async def test_what_comes_during_a_batch_leaves_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a quick store calls gather until the batch under way has come back."""
    monkeypatch.setattr(batching, "_PATIENCE_S", 60.0)
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs)
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(batch.submit([number])))
        for _ in range(5):
            await asyncio.sleep(0)
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [[0], [2], [4], [6]]
    assert runs.batches == [[0], [1, 2, 3]]


async def test_a_slow_store_gets_the_next_batch_before_the_last_has_come_back() -> None:
    """Nobody waits behind a slow batch for longer than a moment."""
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs)
    first = asyncio.create_task(batch.submit([1]))
    await runs.begun.wait()
    runs.begun.clear()
    second = asyncio.create_task(batch.submit([2]))
    async with asyncio.timeout(5):
        await runs.begun.wait()
    assert runs.batches == [[1], [2]]
    runs.gate.set()
    assert (await first, await second) == ([2], [4])


async def test_slots_bound_the_batches_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more batches run at once than there are slots; what comes meanwhile leaves as one. Scenario 39."""
    monkeypatch.setattr(batching, "_PATIENCE_S", 0.0)
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs, slots=2)
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(batch.submit([number])))
        for _ in range(5):
            await asyncio.sleep(0)
    assert runs.batches == [[0], [1]]
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [[0], [2], [4], [6]]
    assert runs.batches == [[0], [1], [2, 3]]


async def test_a_caller_that_is_cancelled_while_it_waits_is_left_out() -> None:
    """Its items are not asked for any more, and the others are served."""
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs, slots=1)
    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(batch.submit([number])))
        for _ in range(5):
            await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    runs.gate.set()
    assert await tasks[2] == [4]
    assert runs.batches == [[0], [2]]


async def test_waiting_is_no_failure_while_batches_succeed() -> None:
    """A long queue at a healthy store is served to its end, however long that takes."""
    runs = Runs()
    batch = batcher(runs, slots=1, limit_s=5.0, max_items=1)
    batch._wait_s = 0.0
    assert await batch.submit(list(range(50))) == [2 * number for number in range(50)]


async def test_a_failure_takes_along_those_that_waited_too_long() -> None:
    """Behind a store that hangs nobody waits for a slot longer than the limits allow; newer calls are tried."""
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs, slots=1, wait_limits=0)
    first = asyncio.create_task(batch.submit([1]))
    await runs.begun.wait()
    late = asyncio.create_task(batch.submit([2]))
    await asyncio.sleep(0)
    runs.error = ConnectionError()
    runs.gate.set()
    for task in (first, late):
        with pytest.raises(L2Unavailable, match="unavailable"):
            await task
    assert runs.batches == [[1]]
    runs.error = None
    assert await batch.submit([3]) == [6]


async def test_the_limit_covers_the_wait_for_a_slot() -> None:
    """A batch that waits for a slot ends within the limit too."""
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs, slots=1, limit_s=0.05)
    began = time.monotonic()
    first = asyncio.create_task(batch.submit([1]))
    await runs.begun.wait()
    results = await asyncio.gather(first, batch.submit([2]), return_exceptions=True)
    assert [type(result) for result in results] == [L2Unavailable] * 2
    assert "within 50 ms" in str(results[0])
    assert time.monotonic() - began < 2.0
    runs.gate.set()
    assert await batch.submit([3]) == [6]


@pytest.mark.both_loops
@pytest.mark.parametrize("where", ["task", "callback", "reading"])
async def test_a_stuck_loop_is_not_an_outage(where: str) -> None:
    """A reply that arrived while the loop was stuck for longer than the limit is used, whatever it was stuck in."""
    here, there = socket.socketpair()
    wake, waker = socket.socketpair()
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=here)

    async def ask(items: list[int]) -> list[int]:
        writer.write(b"?")
        await reader.readexactly(1)
        return items

    def get_stuck() -> None:
        loop.remove_reader(wake)
        there.send(b"!")
        stuck_until = time.monotonic() + 0.1
        while time.monotonic() < stuck_until:  # the loop must be stuck
            pass

    batch: TurnBatcher[int, int] = TurnBatcher(ask, in_flight=1, limit_s=0.05)
    call = asyncio.create_task(batch.submit([7]))
    await loop.sock_recv(there, 1)
    if where == "task":
        get_stuck()
    elif where == "callback":
        loop.call_soon(get_stuck)
    else:
        loop.add_reader(wake, get_stuck)
        waker.send(b".")
    try:
        assert await call == [7]
    finally:
        writer.close()
        await writer.wait_closed()
        for each in (there, wake, waker):
            each.close()


async def test_close_ends_what_is_under_way() -> None:
    """Calls under way and calls of the same turn end with `L2Unavailable`, as do later ones."""
    runs = Runs()
    runs.gate.clear()
    batch = batcher(runs)
    running = asyncio.create_task(batch.submit([1]))
    await runs.begun.wait()
    waiting = asyncio.create_task(batch.submit([2]))
    await asyncio.sleep(0)
    await batch.close()
    await batch.close()
    for task in (running, waiting):
        with pytest.raises(L2Unavailable, match="closed"):
            await task
    with pytest.raises(L2Unavailable, match="closed"):
        await batch.submit([3])
