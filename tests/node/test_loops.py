from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, Operation
from cachenode.node import loops as loops_module
from cachenode.node.loops import Loops
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import SEED, fetch, member, new_node, put, run, view_of
from tests.support.eventually import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_module, "TICK_S", 0.001)


async def test_expired_entries_are_dropped_unread() -> None:
    """Entries whose time is over leave memory though nobody asks for them; the others stay."""
    clock = ManualClock()
    node = new_node("a", clock)
    for number in range(500):
        await put(node, b"short%d" % number, b"v", ttl_ms=1_000)
    await put(node, b"long", b"v")
    loops = Loops(node, lambda _: 0)
    loops.start()
    clock.advance(2)
    store = node.namespaces.get("default").store
    await eventually(lambda: len(store) == 1)
    await loops.stop()
    assert await fetch(node, b"long") == b"v"


async def test_moved_entries_are_dropped() -> None:
    """After a new view, keys of other members leave memory."""
    node = new_node("a", ManualClock())
    keys = [b"k%d" % number for number in range(400)]
    await run(node, Batch(Operation.SET, "default", keys, [b"v"] * 400, [0] * 400, [0] * 400))
    node.placement.apply(view_of(2, "a", "b"))
    kept = sum(node.placement.owns(key) for key in keys)
    loops = Loops(node, lambda _: 0)
    loops.start()
    await eventually(lambda: not node.mover.moving)
    await loops.stop()
    assert 0 < kept < 400
    assert len(node.namespaces.get("default").store) == kept


async def test_sessions_are_reaped_with_the_time() -> None:
    """The duty that ends silent sessions is called with the clock's time."""
    clock, times = ManualClock(77.0), []

    def reap(now: float) -> int:
        times.append(now)
        return 0

    loops = Loops(new_node("a", clock), reap)
    loops.start()
    await eventually(lambda: times)
    await loops.stop()
    assert set(times) == {77.0}


async def test_each_round_is_noted_for_the_probe() -> None:
    """`ticked_at` follows the clock while the duties come round, and stands still after the stop."""
    clock = ManualClock()
    loops = Loops(new_node("a", clock), lambda _: 0)
    assert loops.ticked_at == clock.now()
    loops.start()
    clock.advance(5)
    await eventually(lambda: loops.ticked_at == clock.now())
    await loops.stop()
    clock.advance(5)
    await asyncio.sleep(0)
    assert loops.ticked_at == clock.now() - 5


async def test_failing_duty_is_logged_and_tried_again() -> None:
    """A duty that fails is logged and comes again; the others go on."""
    calls = 0

    def failing(_now: float) -> int:
        nonlocal calls
        calls += 1
        raise RuntimeError

    loops = Loops(new_node("a", ManualClock()), failing)
    with capture_logs() as logs:
        loops.start()
        await eventually(lambda: calls >= 3)
        await loops.stop()
    assert {line["event"] for line in logs} == {"duty_failed"}
    assert {line["error_type"] for line in logs} == {"RuntimeError"}


async def test_l2_comes_back() -> None:
    """A store that had been given up is tried again until it answers, and the log says that it is back."""
    clock = ManualClock()
    node = new_node("a", clock, l2=MemoryL2(clock))
    assert node.tier is not None
    for _ in range(3):
        node.tier._breaker.failed(clock.now())
    assert not node.tier.available
    loops = Loops(node, lambda _: 0)
    with capture_logs() as logs:
        loops.start()
        clock.advance(60)
        available: Callable[[], bool] = lambda: node.tier.available  # noqa: E731
        await eventually(available)
        await eventually(lambda: any(line["event"] == "l2_back" for line in logs))
        await loops.stop()


async def test_stop_before_start() -> None:
    """Duties that never began can be stopped."""
    await Loops(new_node("a", ManualClock()), lambda _: 0).stop()


async def test_node_without_a_view_idles() -> None:
    """The duties run while the node waits for its first view."""
    node = new_node("a", ManualClock(), view=View(1, SEED, (member("b"),)))
    times: list[float] = []

    def reap(now: float) -> int:
        times.append(now)
        return 0

    loops = Loops(node, reap)
    loops.start()
    await eventually(lambda: len(times) > 2)
    await loops.stop()


async def test_step_of_the_time_of_day_is_seen() -> None:
    """Somebody sets the time while the node runs: counted once, and said in the log."""
    node = new_node("a", ManualClock())
    wall = 1_000.0
    node.wall = lambda: wall
    loops = Loops(node, lambda _: 0)
    with capture_logs() as lines:
        await loops._tick()
        wall = 990.0
        await loops._tick()
        await loops._tick()
    assert [(line["event"], line["seconds"]) for line in lines] == [("clock_stepped", -10.0)]
    assert loops.clock_steps.steps == 1
