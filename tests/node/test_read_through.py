"""Read-through: a GET finds what the origin has; one load for all, nothing stale kept, absences remembered."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Loaded, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import OriginError
from cachenode.node.explain import explain
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from cachenode_api.ring import Ring
from cachenode_api.selectors import SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, fetch, new_node, owned_by, run, view_of
from tests.support.eventually import eventually
from tests.support.origin import ScriptedLoader, origin_of

K = b"k"
TTL_S = 10.0


class Rig:
    """Nodes that read one origin; without an L2 unless told."""

    def __init__(self, *names: str, l2: bool = False, attempts: int = 1, **policy: Any) -> None:
        self.clock = ManualClock()
        self.loader = ScriptedLoader()
        self.peers = DirectPeers()
        self.l2 = HeldL2(MemoryL2(self.clock))
        self.view = view_of(1, *(names or ("a",)))
        space = NamespacePolicy(name="n", ttl_s=TTL_S, max_value_bytes=100, l2=l2, share=1, origin="o", **policy)
        self.nodes: dict[str, Node] = {
            name: new_node(
                name,
                self.clock,
                peers=self.peers,
                policies=[space],
                l2=self.l2 if l2 else None,
                view=self.view,
                origins={"o": origin_of(self.loader, self.clock, attempts=attempts, breaker_failures=1_000)},
            )
            for name in names or ("a",)
        }
        self.node = next(iter(self.nodes.values()))

    async def get(self, *keys: bytes, node: str = "") -> list[bytes | Reason | None]:
        """Read keys in one batch."""
        result = await run(self.nodes[node] if node else self.node, Batch(Operation.GET, "n", list(keys or (K,))))
        values: list[bytes | Reason | None] = [record[HEADER_BYTES:] if record else None for record in result.records]
        for at, failure in result.failures.items():
            values[at] = failure.reason
        return values

    def reading(self, node: str = "") -> asyncio.Task[list[bytes | Reason | None]]:
        return asyncio.ensure_future(self.get(node=node))

    async def write(self, operation: Operation, *values: bytes, key: bytes = K) -> BatchResult:
        return await run(self.node, Batch(operation, "n", [key], list(values)))

    async def bar(self, kind: SelectorKind, text: bytes) -> None:
        await run(self.node, Batch(Operation.BARRIER, "n", [text], flags=[kind.value]))

    def count(self, name: str) -> int:
        return sum(getattr(node.namespaces.get("n"), name) for node in self.nodes.values())


@pytest.mark.parametrize("l2", [False, True])
async def test_value_is_loaded_once_and_kept(l2: bool) -> None:
    """The first read loads it, the others find it; its life is the namespace's."""
    rig = Rig(l2=l2)
    rig.loader.put(K, b"v")
    found = await asyncio.gather(*(rig.get() for _ in range(50)))
    assert found == [[b"v"]] * 50
    assert await rig.get() == [b"v"]
    assert rig.loader.calls == [[K]]
    assert (rig.count("loads"), rig.count("load_waits"), rig.count("misses")) == (1, 49, 50)
    rig.clock.advance(TTL_S)
    assert await rig.get() == [b"v"]
    assert len(rig.loader.calls) == 2


async def test_batch_loads_only_its_misses_together() -> None:
    """Keys that are there are not asked for; the others leave in one call; each has its own outcome."""
    rig = Rig()
    await rig.write(Operation.SET, b"here", key=b"a")
    rig.loader.put(b"b", b"loaded")
    rig.loader.values[b"d"] = OriginError("bad", again=False)
    assert await rig.get(b"a", b"b", b"c", b"d", b"b") == [b"here", b"loaded", None, Reason.LOAD_FAILED, b"loaded"]
    assert rig.loader.calls == [[b"b", b"c", b"d"]]


async def test_value_in_l2_is_not_loaded() -> None:
    """Memory, then L2, then the origin."""
    rig = Rig(l2=True)
    rig.loader.put(K, b"v")
    assert await rig.get() == [b"v"]
    space = rig.node.namespaces.get("n")
    assert space is not None
    space.store.remove(K)
    assert await rig.get() == [b"v"]
    assert len(rig.loader.calls) == 1


async def test_origin_may_know_the_life() -> None:
    """A value's own TTL goes before the namespace's; an infinite one does not end."""
    rig = Rig()
    rig.loader.values = {K: Loaded(b"v", 0, ttl_s=2.0), b"ever": Loaded(b"v", 0, ttl_s=math.inf)}
    await rig.get(K, b"ever")
    rig.clock.advance(2.0)
    await rig.get(K)
    rig.clock.advance(1e9)
    await rig.get(b"ever")
    assert rig.loader.calls == [[K, b"ever"], [K]]


async def test_value_that_is_not_to_be_kept() -> None:
    """All who wait get it, who comes later has it loaded again."""
    rig = Rig()
    rig.loader.values[K] = Loaded(b"v", 0, keep=False)
    assert [*await asyncio.gather(rig.get(), rig.get())] == [[b"v"]] * 2
    assert await rig.get() == [b"v"]
    assert len(rig.loader.calls) == 2


async def test_value_that_is_too_large() -> None:
    """It fails like a write of it would, with the limit."""
    rig = Rig()
    rig.loader.put(K, b"v" * 101)
    assert await rig.get() == [Reason.VALUE_TOO_LARGE]


async def test_failed_load_leads_to_its_line() -> None:
    """The error that readers get has the number of the line in the log, which holds neither key nor text."""
    rig = Rig()
    rig.loader.failures = [OriginError("OSError about k")]
    with capture_logs() as lines:
        result = await run(rig.node, Batch(Operation.GET, "n", [K]))
    [line] = [line for line in lines if line["event"] == "load_failed"]
    assert result.failures[0].detail == f"the load failed: OSError about k (request {line['request_id']})"
    assert (line["namespace"], line["keys"]) == ("n", 1)
    assert "about" not in str(line)


async def test_failed_load_is_told_and_paused() -> None:
    """All who wait get the error, nothing is kept, and the next load waits for the back-off: part of scenario 49."""
    rig = Rig(negative_ttl_s=60.0)
    rig.loader.put(K, b"v")
    rig.loader.failures = [OriginError("OSError")]
    assert [*await asyncio.gather(rig.get(), rig.get())] == [[Reason.LOAD_FAILED]] * 2
    assert await rig.get() == [Reason.LOAD_FAILED]
    assert len(rig.loader.calls) == 1
    rig.clock.advance(1.0)
    assert await rig.get() == [b"v"]


async def test_callers_may_leave() -> None:
    """A load goes on without those who asked for it."""
    rig = Rig()
    rig.loader.put(K, b"v")
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    rig.loader.gate.set()
    assert await rig.get() == [b"v"]
    assert len(rig.loader.calls) == 1


async def test_invalidation_during_a_load() -> None:
    """Who asked before gets what was loaded, nothing is kept, and who asks after has it loaded anew."""
    rig = Rig()
    rig.loader.put(K, b"old")
    rig.loader.gate.clear()
    before = rig.reading()
    await rig.loader.held.wait()
    await rig.write(Operation.INVALIDATE)
    rig.loader.put(K, b"new")
    after = rig.reading()
    await asyncio.sleep(0)
    rig.loader.gate.set()
    assert await before == [b"old"]
    assert await after == [b"new"]
    assert await rig.get() == [b"new"]


async def test_refresh_ahead_needs_no_client() -> None:
    """A read in the last part of the TTL is answered at once and has the value loaded anew."""
    rig = Rig(refresh_ahead=0.5)
    rig.loader.put(K, b"old")
    await rig.get()
    rig.loader.put(K, b"new")
    rig.clock.advance(6.0)
    assert await asyncio.gather(*(rig.get() for _ in range(5))) == [[b"old"]] * 5
    for _ in range(10):
        await asyncio.sleep(0)
    assert await rig.get() == [b"new"]
    assert len(rig.loader.calls) == 2
    assert rig.count("renewed") == 1


async def test_stale_while_the_origin_is_down() -> None:
    """After its TTL a value is served, marked, while loads fail; at its hard end it is gone."""
    rig = Rig(stale_s=5.0)
    rig.loader.put(K, b"v")
    await rig.get()
    rig.loader.failures = [OriginError("OSError")] * 10
    rig.clock.advance(TTL_S + 1)
    for _ in range(3):
        result = await run(rig.node, Batch(Operation.GET, "n", [K]))
        assert HEADER.unpack_from(result.records[0])[1] & STALE
        await asyncio.sleep(0)
    assert len(rig.loader.calls) == 2  # the second was the refresh; a third waits for the back-off
    assert rig.node.hit("n", K)[0] == b""  # the short way knows nothing of refreshes, so it is not taken
    rig.clock.advance(5.0)
    assert await rig.get() == [Reason.LOAD_FAILED]


async def test_loader_of_a_caller_is_the_callers() -> None:
    """A LEASE, which `get_or_load` sends, still lets its caller load."""
    rig = Rig()
    result = await run(rig.node, Batch(Operation.LEASE, "n", [K], lease_s=5.0), holder="caller")
    assert result.tokens[0]
    assert rig.loader.calls == []


# Over nodes.


async def test_owner_loads_for_all_nodes() -> None:
    """Whichever node is asked, the owner loads, once."""
    rig = Rig("a", "b", "c")
    rig.loader.put(K, b"v")
    assert await asyncio.gather(*(rig.get(node=name) for name in "abcabc")) == [[b"v"]] * 6
    assert rig.loader.calls == [[K]]


async def test_owner_that_cannot_be_reached() -> None:
    """A stand-in lets one node load at a time, and nothing is kept."""
    rig = Rig("a", "b", "c")
    [key] = owned_by(rig.view, "c")
    rig.loader.put(key, b"v")
    rig.peers.cut.add("c")
    assert await rig.get(key) == [b"v"]
    assert rig.loader.calls == [[key]]
    assert [node.namespaces.get("n").store.peek(key, 0.0) for node in rig.nodes.values()] == [None] * 3
    del rig.loader.values[key]
    assert await rig.get(key) == [None]
    rig.loader.values[key] = OriginError("bad", again=False)
    assert await rig.get(key) == [Reason.LOAD_FAILED]


async def test_key_that_another_may_still_act_for() -> None:
    """It is loaded and not kept; what cannot be loaded fails: the origin may have it."""
    rig = Rig("a", "b", "c")
    rig.peers.settles = False
    after = view_of(2, "a", "b")
    ring = Ring(after)
    key = next(key for key in owned_by(rig.view, "c", 50) if ring.owner(key) == "a")
    rig.node.placement.apply(after)
    assert rig.node.placement.gained(key)
    rig.loader.put(key, b"v")
    assert await rig.get(key) == [b"v"]
    assert await fetch(rig.node, key, "n") == b"v"
    assert len(rig.loader.calls) == 2
    rig.loader.values[key] = OriginError("bad", again=False)
    assert await rig.get(key) == [Reason.LOAD_FAILED]
    assert rig.node.failures[Reason.LOAD_FAILED] == 1


async def test_fenced_node_asks_the_origin() -> None:
    """Its memory and L2 may be untrue, but nothing would mean that the origin has nothing. Nothing is kept."""
    rig = Rig()
    rig.loader.put(K, b"old")
    assert await rig.get() == [b"old"]
    rig.node.placement.set_lease(rig.clock.now())
    rig.loader.put(K, b"new")
    rig.loader.values[b"bad"] = OriginError("bad", again=False)
    assert await rig.get(K, b"none", b"bad") == [b"new", None, Reason.LOAD_FAILED]
    assert await rig.get() == [b"new"]
    assert len(rig.loader.calls) == 3
    asked = Batch(Operation.LEASE, "n", [K], lease_s=5.0)
    assert (await run(rig.node, asked)).failures[0].reason is Reason.NOT_READY


# What is not there.


async def test_absence_is_remembered_for_its_time() -> None:
    """A flood of reads of what is not there asks the origin once. It is no error."""
    rig = Rig(negative_ttl_s=5.0)
    for _ in range(20):
        assert await rig.get() == [None]
    assert len(rig.loader.calls) == 1
    assert (rig.count("negative_hits"), rig.count("misses")) == (19, 20)
    rig.clock.advance(5.0)
    rig.loader.put(K, b"v")
    assert await rig.get() == [b"v"]


async def test_without_a_time_absence_is_not_remembered() -> None:
    """Who wants every read to ask, may."""
    rig = Rig()
    assert [await rig.get() for _ in range(2)] == [[None]] * 2
    assert len(rig.loader.calls) == 2


@pytest.mark.parametrize("l2", [False, True])
async def test_write_ends_an_absence(l2: bool) -> None:
    """It never hides a value that was written; nor what was declared untrue."""
    rig = Rig(l2=l2, negative_ttl_s=1_000.0)
    assert await rig.get() == [None]
    await rig.write(Operation.SET, b"v")
    assert await rig.get() == [b"v"]
    await rig.write(Operation.DELETE)
    assert await rig.get() == [None]
    rig.loader.put(K, b"new")
    assert await rig.get() == [None]
    await rig.write(Operation.INVALIDATE)
    assert await rig.get() == [b"new"]


async def test_write_during_a_load_that_finds_nothing() -> None:
    """The load began before the write, so what it has not found says nothing."""
    rig = Rig(negative_ttl_s=1_000.0)
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    await rig.write(Operation.INVALIDATE)
    rig.loader.put(K, b"v")
    rig.loader.gate.set()
    assert await reading == [None]
    assert await rig.get() == [b"v"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(SelectorKind.PREFIX, b"k"), (SelectorKind.GLOB, b"k*"), (SelectorKind.TAG, b"t"), (SelectorKind.NAMESPACE, b"*")],
)
async def test_absence_from_before_a_barrier(kind: SelectorKind, text: bytes) -> None:
    """A barrier that covers the key ends it, whether it comes during the load or after; a tag ends every one."""
    rig = Rig(negative_ttl_s=1_000.0)
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    await rig.bar(kind, text)
    rig.loader.gate.set()
    assert await reading == [None]
    assert await rig.get() == [None]
    assert len(rig.loader.calls) == 2
    rig.loader.put(K, b"v")
    assert await rig.get() == [None]
    await rig.bar(SelectorKind.PREFIX, b"other")
    assert await rig.get() == [None]
    await rig.bar(kind, text)
    assert await rig.get() == [b"v"]


async def test_view_ends_absences() -> None:
    """Meanwhile another node may have ordered a write."""
    rig = Rig(negative_ttl_s=1_000.0)
    assert await rig.get() == [None]
    rig.loader.put(K, b"v")
    rig.node.placement.apply(view_of(2, "a", "b"))
    rig.node.placement.apply(view_of(3, "a"))
    assert await rig.get() == [b"v"]


async def test_absence_found_by_a_caller_counts_too() -> None:
    """`get_or_load` says ABSENT; the next one is told so without a load."""
    rig = Rig(negative_ttl_s=5.0)
    asked = Batch(Operation.LEASE, "n", [K], lease_s=5.0)
    token = (await run(rig.node, asked, holder="caller")).tokens[0]
    await run(rig.node, Batch(Operation.ABANDON, "n", [K], flags=[1], tokens=[token]))
    again = await run(rig.node, Batch(Operation.LEASE, "n", [K], lease_s=5.0), holder="caller")
    assert (list(again.records), list(again.tokens)) == ([b""], [])
    assert await rig.get() == [None]
    assert rig.loader.calls == []


async def test_node_that_leaves_hands_out_what_it_loads() -> None:
    """It stores nothing more, but those who wait for a load are given its value."""
    rig = Rig()
    rig.loader.put(K, b"v")
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    await rig.node.close()
    rig.loader.gate.set()
    assert await reading == [b"v"]
    space = rig.node.namespaces.get("n")
    assert space is not None
    assert (len(space.store), len(space.flights)) == (0, 0)


async def test_stop_ends_the_loads() -> None:
    """A node that stops loads nothing more, and those who wait are sent elsewhere."""
    rig = Rig()
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    await rig.node.read_through.close()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert rig.node.namespaces.get("n").origin is not None


async def test_key_is_explained() -> None:
    """Its origin, that it is being loaded by the node, and for how long it is believed to be absent."""
    rig = Rig(negative_ttl_s=5.0)
    space = rig.node.namespaces.get("n")
    assert space is not None
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    found = await explain(rig.node, space, K)
    assert (found.origin, found.absent_s, found.loads_itself) == ("o", None, True)
    rig.loader.gate.set()
    await reading
    rig.clock.advance(2.0)
    found = await explain(rig.node, space, K)
    assert (found.absent_s, found.loads_itself) == (3.0, False)
    await rig.write(Operation.SET, b"v")
    assert (await explain(rig.node, space, K)).absent_s is None


@pytest.mark.parametrize("evicted_first", [True, False])
async def test_stale_value_from_l2_is_marked(evicted_first: bool) -> None:
    """Whoever did not load it knows when its TTL is over: from then on it is marked, and loaded anew.

    In L2 it lives for `stale_s` longer; a touch gives it a life without that.
    """
    rig = Rig(l2=True, stale_s=100.0)
    space = rig.node.namespaces.get("n")
    assert space is not None
    rig.loader.put(K, b"old")

    def forget() -> None:
        space.store.remove(K)
        space.renewals._due.clear()

    async def read() -> tuple[bytes, bool]:
        [record] = (await run(rig.node, Batch(Operation.GET, "n", [K]))).records
        return record[HEADER_BYTES:], bool(HEADER.unpack_from(record)[1] & STALE)

    assert await rig.get() == [b"old"]
    if evicted_first:
        forget()
        assert await read() == (b"old", False)
    rig.clock.advance(TTL_S + 1)
    if not evicted_first:
        forget()
    rig.loader.put(K, b"new")
    rig.loader.gate.clear()
    assert await read() == (b"old", True)
    assert await read() == (b"old", True)
    rig.loader.gate.set()
    await eventually(lambda: not len(space.flights))
    assert await read() == (b"new", False)
    await run(rig.node, Batch(Operation.TOUCH, "n", [K], ttls_ms=[50_000]))
    forget()
    assert await read() == (b"new", False)
