"""The simulator's own instruments: a loop, a network or a checker that is wrong would prove nothing."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import Any

import pytest

from cachenode.origins import Write
from cachenode_api.version import make_version
from tests.sim.checker import check
from tests.sim.history import History, Kind, Load, Op, Outcome
from tests.sim.loop import Deadlock, Host, SimLoop
from tests.sim.network import Network, _Pipe
from tests.sim.origin import Origin
from tests.sim.stores import RedisServer
from tests.sim.through import check_through
from tests.sim.written import AT_REST, Table, check_written

_HOST = Host("test")


def op(kind: Kind, key: str, began: float, ended: float, value: Any = None, **more: Any) -> Op:
    """Return an operation that was done."""
    done = Outcome.OK if ended < math.inf else Outcome.FAILED
    more = {"client": "a", "how": kind.value, "timeout_s": 10.0, "host": _HOST, "outcome": done} | more
    return Op(kind=kind, key=key, began=began, ended=ended if done is Outcome.OK else began + 0.5, value=value, **more)


def clauses(*ops: Op, **more: Any) -> list[str]:
    """Return what the checker says is broken."""
    return [violation.clause for violation in check(History(ops=list(ops)), **more)]


def write(value: str, began: float, ended: float, version: int, **more: Any) -> Op:
    return op(Kind.WRITE, "c:0", began, ended, value, version=version, **more)


def read(value: str | None, began: float, **more: Any) -> Op:
    return op(Kind.READ, "c:0", began, began + 0.1, value, **more)


def test_older_value_after_an_acknowledged_write_is_found() -> None:
    """C3: a read that began after a write returns what was written before it."""
    first, second = write("x", 0, 1, 1), write("y", 2, 3, 2)
    assert clauses(first, second, read("x", 3.5)) == ["C3"]
    assert clauses(first, second, read("x", 2.5)) == []
    assert clauses(first, second, read("y", 3.5), read(None, 4)) == []


def test_order_of_overlapping_writes_is_their_versions() -> None:
    """C3: of two writes that overlap the higher version is the newer one."""
    first, second = write("x", 0, 1, 2), write("y", 0, 1, 1)
    assert clauses(first, second, read("y", 2)) == ["C3"]
    assert clauses(first, second, read("x", 2)) == []


def test_write_of_unknown_outcome_may_show_at_any_time() -> None:
    """C3: a write that failed may take effect later."""
    assert clauses(write("x", 0, math.inf, 0), write("y", 2, 3, 2), read("x", 4)) == []


def test_value_after_its_removal_is_found() -> None:
    """C3: a read that began after a delete returns the value; an uncertain delete proves nothing."""
    first = write("x", 0, 1, 1)
    assert clauses(first, op(Kind.REMOVE, "c:0", 2, 3), read("x", 4)) == ["C3"]
    assert clauses(first, op(Kind.REMOVE, "c:0", 2, math.inf), read("x", 4)) == []


def test_removal_by_tag_counts_for_what_bears_it() -> None:
    """C3: a tag does not cover a value that was stored without it."""
    removal = op(Kind.REMOVE, "c:0", 2, 3, tagged=True)
    assert clauses(write("x", 0, 1, 1, tagged=True), removal, read("x", 4)) == ["C3"]
    assert clauses(write("x", 0, 1, 1), removal, read("x", 4)) == []


def test_lax_write_may_be_late_elsewhere_only() -> None:
    """C3 and C4: after ack="owner" others may see the older value for a while, the writer may not."""
    first, second = write("x", 0, 1, 1), write("y", 2, 3, 2, lax=True)
    assert clauses(first, second, read("x", 4, client="b")) == []
    assert clauses(first, second, read("x", 9, client="b")) == ["C3"]
    assert clauses(first, second, read("x", 4, client="a")) == ["C4"]


def test_going_back_is_found() -> None:
    """C4: one client reads the newer and then the older value; two clients may."""
    first, second = write("x", 0, 1, 1), write("y", 2, 9, 2)
    assert clauses(first, second, read("y", 3), read("x", 4)) == ["C4"]
    assert clauses(first, second, read("y", 3, client="a"), read("x", 4, client="b")) == []


def test_write_that_was_done_twice_orders_nothing_before_its_version() -> None:
    """A write whose key moved is done again in a later epoch: what was seen of it before may be followed by others."""
    first, second = write("x", 0, 9, make_version(5, 1)), write("y", 2, 3, make_version(4, 7))
    found = [first, second, read("x", 1), read("y", 4)]
    assert [each.clause for each in check(History(ops=found, epochs={4: 0.0, 5: 8.0}))] == []
    assert [each.clause for each in check(History(ops=found, epochs={4: 0.0, 5: 0.5}))] == ["C4"]


def test_versions_that_do_not_rise_are_found() -> None:
    """C1: a later write has a lower version."""
    assert clauses(write("x", 0, 1, 5), write("y", 2, 3, 4)) == ["C1"]
    assert clauses(write("x", 0, 1, 5), write("y", 0.5, 3, 4)) == []


def test_loaded_value_from_before_an_invalidation_is_found() -> None:
    """C2: an origin key's value is older than what was invalidated."""
    removal = op(Kind.REMOVE, "o:0", 1, 2, 7)
    assert clauses(removal, op(Kind.READ, "o:0", 3, 4, 6)) == ["C3"]
    assert clauses(removal, op(Kind.READ, "o:0", 3, 4, 7), op(Kind.READ, "o:0", 1.5, 4, 6)) == []


def test_value_past_its_life_is_found() -> None:
    """C5: a value is read after its life, unless a touch prolonged it."""
    first = op(Kind.WRITE, "t:0", 0, 1, "x", version=1, ttl_s=1.0)
    late = op(Kind.READ, "t:0", 3, 4, "x")
    assert clauses(first, late) == ["C5"]
    assert clauses(first, op(Kind.TOUCH, "t:0", 1.5, 1.6, ttl_s=2.0), late) == []


def test_second_load_is_found() -> None:
    """C6: a key is loaded twice at a time for no reason."""
    history = History(loads=[Load("o:0", "a", 0, 0, 0.5), Load("o:0", "b", 0.1, 0.2, 0.3)])
    assert [violation.clause for violation in check(history, calm=True)] == ["C6"]
    history.ops.append(op(Kind.REMOVE, "o:0", 0.1, 0.2, 1))
    assert check(history, calm=True) == []


_POLICY = {"ttl_s": 1.0, "stale_s": 1.0}


def loaded(*ops: Op, commits: int = 3, loads: tuple[Load, ...] = (), calm: bool = False) -> list[str]:
    """Return what the checker of what nodes load says is broken; the origin got a number each second, from 0 on."""
    origin = Origin()
    origin.commits["r:0"] = [float(at) for at in range(commits)]
    history = History(ops=list(ops), loads=list(loads))
    return [violation.clause for violation in check_through(history, origin, _POLICY, calm=calm)]


def through(value: int | None, began: float, **more: Any) -> Op:
    return op(Kind.READ, "r:0", began, began + 0.1, value, **more)


def test_older_load_after_an_invalidation_is_found() -> None:
    """C3: what the origin had before is returned; unless somebody set it, who had not surely done so before."""
    told = op(Kind.REMOVE, "r:0", 1.1, 1.2, 2)
    assert loaded(told, through(1, 1.5)) == ["C3"]
    assert loaded(told, through(1, 1.15), through(2, 1.5)) == []
    assert loaded(told, op(Kind.WRITE, "r:0", 1.15, 1.3, 1), through(1, 1.5)) == []
    assert loaded(told, op(Kind.WRITE, "r:0", 0.5, 0.6, 1), through(1, 1.5)) == ["C3"]
    assert loaded(through(2, 0.5)) == ["C3"]  # not committed yet


def test_absence_that_was_none_is_found() -> None:
    """C3: nothing is found though the origin had a value ever since a write; every third number is an absence."""
    told = op(Kind.REMOVE, "r:0", 0.1, 0.2, 1)
    assert loaded(told, through(None, 1.5)) == ["C3"]
    assert loaded(told, through(None, 2.5)) == []
    assert loaded(through(None, 0.5)) == []


def test_loaded_value_past_its_life_is_found() -> None:
    """C5: a value is read when even its stale time is over; or it is past its TTL and not marked."""
    brought = (Load("r:0", "n0", 0, 0.1, 0.2, value=1),)
    assert loaded(through(1, 3.0), loads=brought) == ["C5"]
    late = [through(1, 1.9, how="lookup", stale=stale) for stale in (False, True)]
    assert [loaded(each, loads=brought, calm=True) for each in late] == [["C5"], []]


def test_second_load_by_a_node_is_found() -> None:
    """C6: two nodes load a key at a time; an invalidation, also by tag of another key, explains it."""
    runs = Load("r:0", "n0", 0.1, 0.1, 0.5), Load("r:0", "n1", 0.2, 0.2, 0.3)
    asked = through(None, 0.0)
    assert loaded(asked, loads=runs, calm=True) == ["C6"]
    assert loaded(asked, loads=runs) == []
    assert loaded(asked, op(Kind.REMOVE, "r:2", 0.12, 0.15, 1, tagged=True), loads=runs, calm=True) == []


def test_counters_are_checked() -> None:
    """A number that came twice, or more than was asked for, or less than was acknowledged."""
    one, two = op(Kind.COUNT, "n:0", 0, 1, 1), op(Kind.COUNT, "n:0", 2, 3, 1)
    assert clauses(one, two, keeps=True) == ["count"]
    assert clauses(one, op(Kind.READ, "n:0", 2, 3, 2)) == ["count"]
    assert clauses(one, op(Kind.READ, "n:0", 2, 3, 0), keeps=True) == ["C3"]


def test_two_replacements_of_one_version_are_found() -> None:
    """Of two that replace the same version one must fail."""
    swaps = [op(Kind.SWAP, "v:0", at, at + 1, f"x{at}", version=at + 5, base=3) for at in (0, 2)]
    assert clauses(*swaps) == ["one-winner"]


def test_call_that_takes_too_long_is_found() -> None:
    """A call outlasts its time; what its process stood still does not count."""
    host = Host("paused")
    host.stops.append([0.0, 9.0])
    assert clauses(op(Kind.READ, "c:0", 0, 9, timeout_s=1.0)) == ["time"]
    assert clauses(op(Kind.READ, "c:0", 0, 9, timeout_s=1.0, host=host)) == []


def _loop() -> SimLoop:
    return SimLoop()


def test_time_jumps_and_clocks_differ() -> None:
    """A host whose clock is fast waits for less of the true time."""
    loop, fast = _loop(), Host("fast", rate=1.25, offset=100.0)

    async def wait() -> float:
        began = loop.time()
        await asyncio.wait([loop.create_future()], timeout=1.0)
        return loop.time() - began

    assert loop.run_until_complete(loop.spawn(fast, wait())) == pytest.approx(1.0)
    assert loop.now == pytest.approx(0.8)
    loop.close()


def test_deadlock_is_an_error() -> None:
    """A loop in which nothing can happen any more does not hang."""
    loop = _loop()
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.spawn(None, asyncio.wait([loop.create_future()])))
    loop.bury([])
    loop.close()


def test_paused_host_goes_on_later_and_dead_one_never() -> None:
    """What comes up during a pause runs after it, in order; what belongs to a dead process does not run."""
    loop, host, done = _loop(), Host("host"), []

    async def tick() -> None:
        for at in range(4):
            await asyncio.wait([loop.create_future()], timeout=1.0)
            done.append((at, round(loop.now, 3)))

    loop.spawn(host, tick())
    loop.after(1.5, loop.pause, host)
    loop.after(3.7, loop.resume, host)
    loop.after(5.0, loop.kill, host)
    loop.after(9.0, loop.stop)
    loop.run_forever()
    assert done == [(0, 1.0), (1, 3.7), (2, 4.7)]
    loop.bury([host])
    loop.close()


def test_messages_keep_their_order_and_wait_for_a_cut_to_heal() -> None:
    """A pipe delivers in order whatever the delays, and nothing while its machines are cut off."""
    loop = _loop()
    network = Network(loop, Random(1))
    network.spikes = 0.5
    pipe = _Pipe(network, ("a", "b"))

    def push() -> None:
        for number in range(20):
            pipe.push(b"%d" % number)

    loop.after(0.0, push)
    loop.after(0.01, network.cut, [("a", "b")])
    loop.after(0.011, pipe.push, b"20")
    loop.after(5.0, loop.stop)
    loop.run_forever()
    before = len(pipe._inbox)
    assert before < 21
    loop.after(0.0, network.heal, [("a", "b")])
    loop.after(0.0, pipe.go_on)  # as for a stream that the network knows
    loop.after(1.0, loop.stop)
    loop.run_forever()
    assert list(pipe._inbox) == [b"%d" % number for number in range(21)]
    loop.close()


def test_failover_loses_the_last_writes() -> None:
    """A replica that takes over lacks as many writes as it is told to."""
    loop = _loop()

    async def main() -> None:
        server = RedisServer(Host("l2"))
        slots: dict[Any, Any] = server.store._slots
        for number in range(3):
            slots["ns", number] = number
        del slots["ns", 0]
        server.fail_over(2)
        assert slots == {("ns", 0): 0, ("ns", 1): 1}

    loop.run_until_complete(loop.spawn(None, main()))
    loop.close()


def test_what_is_not_at_the_table_is_found() -> None:
    """Write-through: what is read was written to the table before, is not older than it, and at rest the same."""
    first, second = (op(Kind.WRITE, "w:0", at, at + 1, value, version=at) for at, value in ((1, "x"), (3, "y")))

    def found(*reads: Op, rows: tuple[str, ...] = ("x", "y"), removed: tuple[Op, ...] = ()) -> list[str]:
        table = Table()
        for at, value in enumerate(rows):
            table.commit([Write("w:0", value, at + 1)], 1.5 + 2 * at)
        history = History(ops=[first, second, *removed, *reads])
        return [violation.clause for violation in check_written(history, table)]

    def get(value: str | None, began: float, **more: Any) -> Op:
        return op(Kind.READ, "w:0", began, began + 0.1, value, **more)

    assert found(get("x", 3.2), get("y", 4.5), get("y", 9, how=AT_REST)) == []
    assert found(get("x", 4.5)) == ["C3"]
    assert found(get(None, 4.5)) == ["C3"]
    assert found(get(None, 4.5), removed=(op(Kind.REMOVE, "w:0", 3.5, math.inf),)) == []
    assert found(get("y", 3.2)) == ["origin first"]
    assert found(rows=("x",)) == ["C3"], "the table lacks what was acknowledged"
    assert found(get("x", 3.2, how=AT_REST)) == ["at rest"]
