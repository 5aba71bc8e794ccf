"""How an origin is asked: together, in order, so many at a time, again, and not at all while it is down."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.core.entries import Loaded, SinkWrite
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.errors import OriginError
from tests.support.clock import ManualClock
from tests.support.origin import ScriptedLoader, ScriptedSink, origin_of


async def turns(count: int = 10) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_keys_of_a_turn_leave_together() -> None:
    """One call for all, as long as it takes so many; each is answered with its own."""
    loader = ScriptedLoader(most_keys=2)
    loader.put(b"a", b"1")
    loader.values[b"b"] = OriginError("bad", again=False)
    origin = origin_of(loader, ManualClock())
    found = await asyncio.gather(*(origin.load(key) for key in (b"a", b"b", b"c")), return_exceptions=True)
    assert loader.calls == [[b"a", b"b"], [b"c"]]
    assert found[0] == Loaded(b"1", 0)
    assert str(found[1]) == "bad"
    assert found[2] is None
    counted = origin.counters()
    assert (counted.calls, counted.keys, counted.failures, counted.busy, counted.waiting) == (2, 3, 0, 0, 0)


async def test_batches_grow_while_the_origin_is_busy() -> None:
    """What comes while all calls are under way leaves together when one has ended."""
    loader = ScriptedLoader()
    origin = origin_of(loader, ManualClock(), concurrency=1)
    loader.gate.clear()
    asks = [asyncio.ensure_future(origin.load(b"0"))]
    await loader.held.wait()
    for number in range(1, 5):
        asks.append(asyncio.ensure_future(origin.load(b"%d" % number)))
        await turns()
    assert (origin.counters().busy, origin.counters().waiting) == (1, 4)
    loader.gate.set()
    await asyncio.gather(*asks)
    assert [len(call) for call in loader.calls] == [1, 4]


async def test_window_lets_others_join() -> None:
    """With a window a key waits for those of later turns."""
    loader = ScriptedLoader()
    origin = origin_of(loader, ManualClock(), window_s=0.02)
    first = asyncio.ensure_future(origin.load(b"a"))
    await turns()
    await asyncio.gather(first, origin.load(b"b"))
    assert loader.calls == [[b"a", b"b"]]


async def test_readers_go_before_refreshes() -> None:
    """Somebody waits for the one, nobody for the other."""
    loader = ScriptedLoader(most_keys=1)
    origin = origin_of(loader, ManualClock(), concurrency=1)
    await asyncio.gather(
        origin.load(b"r1", Priority.REFRESH), origin.load(b"r2", Priority.REFRESH), origin.load(b"d", Priority.DEMAND)
    )
    assert loader.calls == [[b"d"], [b"r1"], [b"r2"]]


async def test_key_nobody_wants_any_more() -> None:
    """Who leaves while a key waits for its turn takes it along."""
    loader = ScriptedLoader(most_keys=1)
    origin = origin_of(loader, ManualClock(), concurrency=1)
    loader.gate.clear()
    first, gone = asyncio.ensure_future(origin.load(b"a")), asyncio.ensure_future(origin.load(b"b"))
    await loader.held.wait()
    gone.cancel()
    await turns()
    loader.gate.set()
    await first
    await turns()
    assert loader.calls == [[b"a"]]


async def test_failed_call_is_made_again() -> None:
    """For the keys that it concerns, so many times as there are attempts."""
    loader = ScriptedLoader()
    loader.put(b"a", b"1")
    loader.values[b"b"] = OriginError("flaky")
    origin = origin_of(loader, ManualClock(), attempts=3)
    found = await asyncio.gather(origin.load(b"a"), origin.load(b"b"), return_exceptions=True)
    assert loader.calls == [[b"a", b"b"], [b"b"], [b"b"]]
    assert found[0] == Loaded(b"1", 0)
    assert str(found[1]) == "flaky"
    assert origin.counters().retries == 2


async def test_late_call_fails() -> None:
    """It is given up, and says after which time."""
    loader = ScriptedLoader()
    loader.gate.clear()
    origin = origin_of(loader, ManualClock(), timeout_s=0.01, attempts=1)
    with pytest.raises(OriginError, match=r"no answer within 0\.01 s"):
        await origin.load(b"a")


async def test_breaker_ends_the_attempts() -> None:
    """When it opens in between, a key fails without another call; when its time is over one call tries."""
    loader, clock = ScriptedLoader(), ManualClock()
    loader.failures = [OriginError("down")] * 3
    origin = origin_of(loader, clock, attempts=10, breaker_failures=3, breaker_retry_s=1.0)
    with pytest.raises(OriginError, match="left alone"):
        await origin.load(b"a")
    assert len(loader.calls) == 3
    with pytest.raises(OriginError, match="left alone"):
        await origin.load(b"b")
    assert origin.counters().state == "open"
    clock.advance(1.0)
    assert await origin.load(b"c") is None
    assert origin.counters().state == "closed"


async def test_answer_that_cannot_be_stored_is_no_outage() -> None:
    """The origin is there: it is neither asked again nor left alone."""
    loader = ScriptedLoader()
    loader.values[b"a"] = OriginError("not storable", again=False)
    origin = origin_of(loader, ManualClock(), breaker_failures=1)
    for _ in range(2):
        with pytest.raises(OriginError, match="not storable"):
            await origin.load(b"a")
    assert len(loader.calls) == 2


async def test_stop_answers_everybody() -> None:
    """Those under way and those that wait for their turn."""
    loader = ScriptedLoader(most_keys=1)
    loader.gate.clear()
    origin = origin_of(loader, ManualClock(), concurrency=1)
    asks = [asyncio.ensure_future(origin.load(key)) for key in (b"a", b"b")]
    await loader.held.wait()
    await origin.close()
    found = await asyncio.gather(*asks, return_exceptions=True)
    assert [str(error) for error in found] == ["the node is stopping"] * 2
    assert loader.closed
    assert repr(origin) == "<Origin o: 0 load calls, 0 wait>"


@pytest.mark.parametrize(("attempt", "draw", "pause"), [(1, 0.0, 0.05), (2, 0.0, 0.1), (3, 0.5, 0.15), (99, 0.0, 1.0)])
def test_pauses_grow_up_to_a_limit(attempt: int, draw: float, pause: float) -> None:
    """Doubling, and shorter by up to half at random."""
    assert OriginLimits().pause_s(attempt, draw) == pytest.approx(pause)


def a_write(key: bytes, value: bytes | None, version: int) -> SinkWrite:
    """Return a write of a value without flags."""
    return SinkWrite(key, value, 0, version)


async def test_writes_leave_together() -> None:
    """As loads do; each has its own outcome, and what is refused is no outage."""
    sink = ScriptedSink()
    sink.refused[b"b"] = OriginError("too long", again=False)
    origin = origin_of(None, ManualClock(), sink=sink, breaker_failures=1)
    writes = [a_write(b"a", b"1", 1), a_write(b"b", b"2", 2), a_write(b"c", None, 3)]
    done = await asyncio.gather(*map(origin.write, writes), return_exceptions=True)
    assert sink.calls == [writes]
    assert (done[0], str(done[1]), done[2]) == (None, "too long", None)
    assert sink.values == {b"a": (b"1", 0, 1)}
    counted = origin.counters()
    assert (counted.written, counted.write_failures, counted.uncertain_writes) == (2, 1, 0)
    assert (counted.write_state, counted.write_calls) == ("closed", 1)
    assert (origin.readable, origin.writable) == (False, True)
    await origin.close()
    assert sink.closed


async def test_what_may_have_been_written_is_not_denied_later() -> None:
    """The first attempt loses its connection after the commit; the second is refused."""
    sink = ScriptedSink()
    sink.failures = [OriginError("connection lost", maybe_done=True), OriginError("no room", again=False)]
    origin = origin_of(None, ManualClock(), sink=sink)
    with pytest.raises(OriginError, match="no room") as caught:
        await origin.write(a_write(b"a", b"1", 1))
    assert caught.value.maybe_done
    assert origin.counters().uncertain_writes == 1


async def test_late_write_is_not_made_again() -> None:
    """It may still be under way, and two of one key must not be."""
    sink = ScriptedSink()
    sink.late.clear()
    origin = origin_of(None, ManualClock(), sink=sink, timeout_s=0.01)
    with pytest.raises(OriginError, match=r"no answer within 0\.01 s") as caught:
        await origin.write(a_write(b"a", b"1", 1))
    assert caught.value.maybe_done
    assert len(sink.calls) == 1


async def test_write_without_the_right_to_it() -> None:
    """Who may not write any more makes no further attempt."""
    sink = ScriptedSink()
    sink.failures = [OriginError("down")] * 3
    origin = origin_of(None, ManualClock(), sink=sink)
    with pytest.raises(OriginError, match="lost the right") as caught:
        await origin.write(a_write(b"a", b"1", 1), allowed=lambda: not sink.calls)
    assert (len(sink.calls), caught.value.maybe_done) == (1, False)


async def test_stop_during_a_write() -> None:
    """What is under way may be done; what waits is not."""
    sink = ScriptedSink(most_writes=1)
    sink.gate.clear()
    origin = origin_of(None, ManualClock(), sink=sink, concurrency=1)
    writes = [asyncio.ensure_future(origin.write(a_write(key, b"1", 1))) for key in (b"a", b"b")]
    await sink.held.wait()
    await origin.close()
    found = await asyncio.gather(*writes, return_exceptions=True)
    assert [(str(each), each.maybe_done) for each in found if isinstance(each, OriginError)] == [
        ("the node is stopping", True),
        ("the node is stopping", False),
    ]
