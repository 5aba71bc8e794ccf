"""Write-through: the origin first, then the cache; what fails changes neither, what is uncertain leaves nothing old."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Loaded, Operation, SinkWrite
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import OriginError
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES, INT_FLAGS, TAGGED
from cachenode_api.selectors import SelectorKind
from cachenode_api.tags import pack_tags
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, new_node, owned_by, run, version_of, view_of
from tests.support.origin import ScriptedLoader, ScriptedSink, origin_of

K = b"k"
TIMEOUT_S = 5.0
with_l2 = pytest.mark.parametrize("l2", [False, True])


class Table(ScriptedSink):
    """A sink that a loader reads."""

    def __init__(self) -> None:
        super().__init__()
        self.loader = ScriptedLoader()

    async def write(self, writes: Any) -> Any:
        """Write, and let the loader see it as soon as it is done."""
        self._values_seen()
        return await super().write(writes)

    async def _pass(self, gate: asyncio.Event) -> None:
        self._values_seen()
        await super()._pass(gate)
        self._values_seen()

    def _values_seen(self) -> None:
        self.loader.values = {key: Loaded(value, flags) for key, (value, flags, _) in self.values.items()}


class Rig:
    """Nodes of a namespace that writes through to one table."""

    def __init__(self, *names: str, l2: bool = False, reads: bool = True, **limits: float) -> None:
        self.clock = ManualClock()
        self.table = Table()
        self.peers = DirectPeers()
        self.l2 = HeldL2(MemoryL2(self.clock))
        self.view = view_of(1, *(names or ("a",)))
        policy = NamespacePolicy("n", 100.0, 100, l2=l2, share=1.0, origin="o", write="through")
        limits = {"attempts": 1, "timeout_s": TIMEOUT_S, "breaker_failures": 1_000, **limits}
        self.nodes: dict[str, Node] = {
            name: new_node(
                name,
                self.clock,
                peers=self.peers,
                policies=[policy],
                l2=self.l2 if l2 else None,
                view=self.view,
                origins={"o": origin_of(self.table.loader if reads else None, self.clock, sink=self.table, **limits)},
            )
            for name in names or ("a",)
        }
        self.node = next(iter(self.nodes.values()))
        self.clock.advance(TIMEOUT_S)  # a node that starts does not know who owned its keys before

    async def act(
        self,
        operation: Operation,
        *values: bytes,
        keys: tuple[bytes, ...] = (K,),
        node: Node | None = None,
        **more: Any,
    ) -> BatchResult:
        return await run(node or self.node, Batch(operation, "n", list(keys), list(values), **more))

    async def set(self, value: bytes, key: bytes = K, **more: Any) -> Reason:
        return reason(await self.act(Operation.SET, value, keys=(key,), **more))

    async def get(self, key: bytes = K, node: Node | None = None) -> bytes | Reason | None:
        result = await self.act(Operation.GET, keys=(key,), node=node)
        if result.failures:
            return result.failures[0].reason
        return result.records[0][HEADER_BYTES:] if result.records[0] else None

    async def held(self, work: Coroutine[Any, Any, Any], *, late: bool = False) -> asyncio.Task[Any]:
        """Begin something, and return when it is at the sink: before it has written, or after."""
        (self.table.late if late else self.table.gate).clear()
        self.table.held.clear()
        task = asyncio.ensure_future(work)
        await self.table.held.wait()
        return task

    def let_go(self) -> None:
        self.table.gate.set()
        self.table.late.set()

    def forget(self, node: Node | None = None) -> None:
        """Take the key out of memory."""
        space = (node or self.node).namespaces.get("n")
        assert space is not None
        space.store.remove(K)


def reason(result: BatchResult) -> Reason:
    return result.failures[0].reason if result.failures else Reason.OK


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@with_l2
async def test_write_is_at_the_origin_and_in_the_cache(l2: bool) -> None:
    """Both have it, under one version; a removal removes it from both; the cache asks for neither."""
    rig = Rig(l2=l2)
    result = await rig.act(Operation.SET, b"v")
    assert rig.table.values == {K: (b"v", 0, result.versions[0])}
    assert (await rig.get(), rig.table.loader.calls) == (b"v", [])
    rig.forget()
    assert await rig.get() == b"v"
    assert (rig.table.loader.calls == []) is l2
    assert (await rig.act(Operation.DELETE)).versions[0]
    assert rig.table.values == {}
    assert await rig.get() is None
    assert (await rig.act(Operation.DELETE)).versions == [0]
    assert [write.value for call in rig.table.calls for write in call] == [b"v", None, None]


async def test_batch_leaves_together_and_each_key_has_its_outcome() -> None:
    """One call of the sink; the key that it refuses fails alone."""
    rig = Rig()
    rig.table.refused[b"b"] = OriginError("too long", again=False)
    result = await rig.act(Operation.SET, b"1", b"2", b"3", keys=(b"a", b"b", b"c"))
    assert [len(call) for call in rig.table.calls] == [3]
    assert {at: failure.reason for at, failure in result.failures.items()} == {1: Reason.SINK_FAILED}
    assert result.failures[1].detail == "the origin has not taken the write: too long"
    assert [await rig.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]


@with_l2
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OriginError("bad", again=False), Reason.SINK_FAILED),
        (OriginError("down"), Reason.SINK_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
async def test_refusal_changes_nothing(l2: bool, in_memory: bool, error: OriginError, told: Reason) -> None:
    """Cache and origin have what they had, also if only L2 had it; with a loader that cannot help."""
    rig = Rig(l2=l2, reads=False)
    assert await rig.set(b"old") is Reason.OK
    if not in_memory and l2:
        rig.forget()
    rig.table.failures = [error, error]
    assert await rig.set(b"new") is told
    assert reason(await rig.act(Operation.DELETE)) is told
    assert rig.table.values[K][0] == b"old"
    assert await rig.get() == b"old"
    if l2:
        rig.forget()
        assert await rig.get() == b"old", "L2 has it back"


@with_l2
async def test_uncertain_write_leaves_nothing_old(l2: bool) -> None:
    """The sink wrote and the answer was lost: nobody finds the older value, and what is loaded is not kept a while."""
    rig = Rig(l2=l2)
    await rig.set(b"old")
    rig.table.failures = [OriginError("connection lost", maybe_done=True)]
    result = await rig.act(Operation.SET, b"new")
    assert reason(result) is Reason.UNCERTAIN
    assert result.failures[0].detail == "the origin may or may not have taken the write: connection lost"
    for _ in range(2):
        assert await rig.get() == b"new"
    assert len(rig.table.loader.calls) == 2, "a call that is late might still change it"
    rig.clock.advance(TIMEOUT_S)
    for _ in range(2):
        await rig.get()
    assert len(rig.table.loader.calls) == 3


async def test_sink_that_is_late() -> None:
    """It may have written: the outcome is not known, and the older value is gone."""
    rig = Rig(timeout_s=0.01)
    await rig.set(b"old")
    rig.table.late.clear()
    assert await rig.set(b"new") is Reason.UNCERTAIN
    assert await rig.get() == b"new"


async def test_writes_of_a_key_take_turns() -> None:
    """The second reaches the sink when the first is done; those of other keys do not wait."""
    rig = Rig()
    first = await rig.held(rig.set(b"1"))
    second, other = asyncio.ensure_future(rig.set(b"2")), asyncio.ensure_future(rig.set(b"x", b"other"))
    await turns()
    assert [[write.key for write in call] for call in rig.table.calls] == [[K], [b"other"]]
    rig.let_go()
    assert list(await asyncio.gather(first, second, other)) == [Reason.OK] * 3
    assert (await rig.get(), rig.table.values[K][0]) == (b"2", b"2")


async def test_key_twice_in_a_batch() -> None:
    """The later one is the last."""
    rig = Rig()
    await rig.act(Operation.SET, b"1", b"2", keys=(K, K))
    assert (await rig.get(), rig.table.values[K][0]) == (b"2", b"2")


@with_l2
@pytest.mark.parametrize("began", ["before", "during"])
@pytest.mark.parametrize("ends", ["during", "after"])
async def test_load_across_a_write_is_not_stored(l2: bool, began: str, ends: str) -> None:
    """It has read what was there before the commit; whoever reads after the write finds the new value."""
    rig = Rig(l2=l2)
    rig.table.values[K] = b"old", 0, 1
    rig.table._values_seen()
    loader = rig.table.loader
    loader.gate.clear()
    if began == "before":
        load = asyncio.ensure_future(rig.get())
        await loader.held.wait()
    writing = await rig.held(rig.set(b"new"))
    if began == "during":
        load = asyncio.ensure_future(rig.get())
        await loader.held.wait()
    if ends == "during":
        loader.gate.set()
        assert await load == b"old"
    rig.let_go()
    assert await writing is Reason.OK
    loader.gate.set()
    assert await load == b"old", "they asked before"
    rig.forget() if l2 else None
    assert await rig.get() == b"new"


@with_l2
@pytest.mark.parametrize("what", ["key", "prefix"])
async def test_invalidation_during_a_write_is_not_undone(l2: bool, what: str) -> None:
    """It was told after the write was given its place: the value is at the origin, and loaded from there."""
    rig = Rig(l2=l2)
    writing = await rig.held(rig.set(b"v"), late=True)
    if what == "key":
        await rig.act(Operation.INVALIDATE)
    else:
        await rig.act(Operation.BARRIER, keys=(b"k",), flags=[SelectorKind.PREFIX.value])
    rig.table.values[K] = b"changed by others", 0, 9
    rig.let_go()
    assert await writing is Reason.OK
    rig.table._values_seen()
    assert await rig.get() == b"changed by others"


async def test_invalidation_is_not_the_origins() -> None:
    """It says that the cache is wrong, not the origin."""
    rig = Rig()
    await rig.set(b"v")
    await rig.act(Operation.INVALIDATE)
    assert rig.table.values[K][0] == b"v"
    assert await rig.get() == b"v"


async def test_owner_that_dies_half_way() -> None:
    """The sink has committed and L2 has not heard: the next owner finds no older value there. Scenario 16."""
    rig = Rig("a", "b", l2=True)
    (key,) = owned_by(rig.view, "a")
    node_a, node_b = rig.nodes.values()
    assert await rig.set(b"old", key, node=node_a) is Reason.OK
    writing = await rig.held(rig.set(b"new", key, node=node_a), late=True)
    node_b.placement.apply(view_of(2, "b"))
    assert await rig.get(key, node_b) == b"new"
    writing.cancel()
    rig.let_go()
    await asyncio.gather(writing, return_exceptions=True)


async def test_loads_are_not_kept_after_an_owner_has_died() -> None:
    """What it gave to the sink may arrive yet; for as long as a call may take every reader asks the origin."""
    rig = Rig("a", "b")
    (key,) = owned_by(rig.view, "a")
    node_a, node_b = rig.nodes.values()
    writing = await rig.held(rig.set(b"new", key, node=node_a))
    node_b.placement.apply(view_of(2, "b"))
    assert await rig.get(key, node_b) is None
    rig.let_go()
    await writing
    assert await rig.get(key, node_b) == b"new"
    calls = len(rig.table.loader.calls)
    rig.clock.advance(TIMEOUT_S)
    assert [await rig.get(key, node_b) for _ in range(3)] == [b"new"] * 3
    assert len(rig.table.loader.calls) == calls + 1


@with_l2
@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE])
async def test_new_owner_waits_for_the_sink(l2: bool, operation: Operation) -> None:
    """It does not act for the key before the write is done; nothing older is left, and the write is acknowledged."""
    rig = Rig("a", l2=l2)
    two = view_of(2, "a", "b")
    (key,) = owned_by(two, "b")
    await rig.set(b"old", key)
    values = [b"new"] if operation is Operation.SET else []
    writing = await rig.held(rig.act(operation, *values, keys=(key,)))
    rig.node.placement.apply(two)
    assert rig.node.placement.released_epoch < 2
    rig.let_go()
    assert reason(await writing) is Reason.OK
    await turns()
    assert rig.node.placement.released_epoch == 2
    space = rig.node.namespaces.get("n")
    assert space is not None
    assert space.store.peek(key, rig.clock.now()) is None
    assert (rig.table.values[key][0] if key in rig.table.values else None) == (values[0] if values else None)
    [found] = await rig.l2.read("n", [key])
    assert found is None


async def test_write_whose_turn_comes_after_its_key_has_moved() -> None:
    """It has not begun: it is refused, and its caller goes to the new owner."""
    rig = Rig("a")
    two = view_of(2, "a", "b")
    (key,) = owned_by(two, "b")
    first = await rig.held(rig.set(b"1", key))
    second = asyncio.ensure_future(rig.set(b"2", key))
    await turns()
    rig.node.placement.apply(two)
    rig.let_go()
    assert (await first, await second) == (Reason.OK, Reason.NOT_OWNER)
    assert rig.table.values[key][0] == b"1"


@with_l2
async def test_write_that_outlives_the_lease(l2: bool) -> None:
    """Another may have owned the key since: the outcome is not known, and the copy of whoever owns it goes."""
    rig = Rig("a", "b", l2=l2)
    (key,) = owned_by(rig.view, "a")
    node_a, node_b = rig.nodes.values()
    writing = await rig.held(rig.set(b"late", key, node=node_a))
    node_a.placement.set_lease(rig.clock.now())
    node_b.placement.apply(view_of(2, "b"))
    assert await rig.get(key, node_b) is None
    node_a.placement.set_lease(float("inf"))
    node_b.placement.apply(view_of(3, "a", "b"))
    node_a.placement.apply(view_of(3, "a", "b"), follows=False)
    rig.let_go()
    assert await writing is Reason.UNCERTAIN
    if node_a.tier is not None:
        node_a.tier.must_adopt = False  # no barriers were ordered meanwhile
    assert await rig.get(key, node_a) == b"late"


async def test_attempts_end_with_the_lease() -> None:
    """Who may be out of the view does not try again."""
    rig = Rig(attempts=3)
    rig.table.failures = [OriginError("down"), None]
    writing = await rig.held(rig.set(b"late"))
    rig.node.placement.set_lease(rig.clock.now())
    rig.let_go()
    assert await writing is Reason.SINK_UNAVAILABLE
    assert len(rig.table.calls) == 1


@with_l2
async def test_touch_takes_its_turn(l2: bool) -> None:
    """It finds what the write before it has brought, and the sink does not hear of it."""
    rig = Rig(l2=l2)
    await rig.set(b"old")
    writing = await rig.held(rig.set(b"new"))
    touching = asyncio.ensure_future(rig.act(Operation.TOUCH, ttls_ms=[500_000]))
    await turns()
    assert not touching.done()
    rig.let_go()
    await writing
    assert (await touching).versions[0]
    assert await rig.get() == b"new"
    assert len(rig.table.calls) == 2
    rig.clock.advance(400.0)
    rig.table.loader.values.clear()
    assert await rig.get() == b"new"


@pytest.mark.parametrize("begun", [False, True])
async def test_caller_that_goes_away(begun: bool) -> None:
    """Before its turn it takes its write along; later the write goes on, and cache and origin have it."""
    rig = Rig()
    first = await rig.held(rig.set(b"1"))
    second = asyncio.ensure_future(rig.set(b"2"))
    await turns()
    (first if begun else second).cancel()
    await turns()
    rig.let_go()
    await asyncio.gather(first, second, return_exceptions=True)
    await rig.node.close()
    seen = [write.value for call in rig.table.calls for write in call]
    assert seen == ([b"1", b"2"] if begun else [b"1"])
    assert await rig.get() == rig.table.values[K][0] == seen[-1]


async def test_node_that_leaves_waits_for_the_sink() -> None:
    """What has begun is done before the node resigns."""
    rig = Rig()
    writing = await rig.held(rig.set(b"v"))
    closing = asyncio.ensure_future(rig.node.close())
    await turns()
    assert not closing.done()
    rig.let_go()
    assert await writing is Reason.OK
    await closing


@with_l2
async def test_counter_goes_on_from_the_origin(l2: bool) -> None:
    """What is not in the cache may be there; a load that fails is no zero."""
    rig = Rig(l2=l2)
    rig.table.values[K] = b"41", INT_FLAGS, 1
    rig.table._values_seen()
    result = await rig.act(Operation.INCR, deltas=[1])
    assert result.records[0][HEADER_BYTES:] == b"42"
    assert rig.table.values[K] == (b"42", INT_FLAGS, version_of(result.records[0]))
    await rig.act(Operation.INVALIDATE)
    rig.table.loader.failures = [OriginError("down", again=False)]
    assert reason(await rig.act(Operation.INCR, deltas=[1])) is Reason.LOAD_FAILED
    rig.table.failures = [OriginError("down", again=False)]
    assert reason(await rig.act(Operation.INCR, deltas=[1])) is Reason.SINK_FAILED
    assert rig.table.values[K][0] == b"42"


@pytest.mark.parametrize(
    ("there", "condition", "done"),
    [
        (True, ABSENT_VERSION, False),
        (True, ANY_VERSION, True),
        (False, ABSENT_VERSION, True),
        (False, ANY_VERSION, False),
    ],
)
async def test_condition_is_asked_of_the_origin(there: bool, condition: int, done: bool) -> None:
    """Add and replace look there if the cache has nothing; what they refuse does not reach the sink."""
    rig = Rig()
    if there:
        rig.table.values[K] = b"old", 0, 1
        rig.table._values_seen()
    told = await rig.set(b"new", if_versions=[condition])
    assert told is (Reason.OK if done else Reason.CONDITION_FAILED)
    assert len(rig.table.calls) == done
    assert await rig.get() == (b"new" if done else b"old" if there else None)


async def test_counters_do_not_lose_each_other() -> None:
    """Many at the same time, each in its turn."""
    rig = Rig(l2=True)
    await asyncio.gather(*(rig.act(Operation.INCR, deltas=[1]) for _ in range(20)))
    assert (await rig.get(), rig.table.values[K][0]) == (b"20", b"20")


async def test_tags_are_the_caches_own() -> None:
    """The sink gets the value without them; an invalidation by tag finds the key."""
    rig = Rig()
    await rig.act(Operation.SET, pack_tags([b"t"]) + b"v", flags=[TAGGED])
    [[write]] = rig.table.calls
    assert write == SinkWrite(K, b"v", 0, write.version)
    rig.table.loader.put(K, b"loaded")
    await rig.act(Operation.BARRIER, keys=(b"t",), flags=[SelectorKind.TAG.value])
    assert await rig.get() == b"loaded"


async def test_write_without_l2_that_is_away() -> None:
    """L2 does not answer: the write is done, and nobody believes what L2 has."""
    rig = Rig(l2=True)
    await rig.set(b"old")
    for _ in range(3):
        rig.node.tier._fail()
    assert await rig.set(b"new") is Reason.OK
    assert rig.table.values[K][0] == b"new"
    rig.forget()
    assert await rig.get() == b"new"
