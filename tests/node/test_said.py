"""What a node says in its log: slow calls, failed loads and breakers, and never a key."""

from __future__ import annotations

import contextlib

from structlog.testing import capture_logs

from cachenode.core.entries import Batch, Operation
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.errors import OriginError
from cachenode.node.origin_calls import Calls
from tests.support.clock import ManualClock
from tests.support.cluster import new_node, put, run


async def test_slow_calls_are_said() -> None:
    """A call that takes longer than the limit gets a line, without its keys; one that does not gets none."""
    clock = ManualClock()
    node = new_node("a", clock)
    node.slow_s = 0.5
    with capture_logs() as lines:
        await put(node, b"secret", b"v")
        begin = node._execute

        def late(*arguments: object) -> object:
            clock.advance(0.75)
            return begin(*arguments)  # type: ignore[arg-type]

        node._execute = late  # type: ignore[method-assign, assignment]
        await run(node, Batch(Operation.SET, "default", [b"secret"], [b"v"], [0], [0]))
    [line] = [line for line in lines if line["event"] == "slow_call"]
    assert (line["operation"], line["namespace"], line["keys"], line["ms"]) == ("set", "default", 1, 750)
    assert "secret" not in str(lines)


async def test_breakers_changes_are_said_once() -> None:
    """An origin is left alone, is tried in vain, and comes back: two lines, not one for each failure."""
    clock, works = ManualClock(), False

    async def call(keys: object) -> list[object]:
        if not works:
            raise OriginError("away")
        return [None]

    limits = OriginLimits(attempts=1, breaker_failures=2, breaker_retry_s=1.0)
    calls: Calls[bytes, object] = Calls(call, 1, limits, clock, name="db")
    with capture_logs() as lines:
        for _ in range(3):
            for _ in range(3):
                with contextlib.suppress(OriginError):
                    await calls.ask(b"secret", Priority.DEMAND)
            clock.advance(2)
        works = True
        await calls.ask(b"secret", Priority.DEMAND)
    assert [(line["event"], line["origin"], line["what"]) for line in lines] == [
        ("origin_left_alone", "db", "reads"),
        ("origin_back", "db", "reads"),
    ]
