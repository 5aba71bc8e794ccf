"""What nodes save and merge of their filters spares the origin, and never hides a key that was written."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.saved_filters import MOST_BYTES
from cachenode.node import saved_blooms
from cachenode_api.reasons import Reason
from cachenode_api.ring import Ring
from cachenode_api.selectors import SelectorKind
from tests.support.cluster import owned_by, run, view_of
from tests.support.filters import OTHER, Rig

_KIND = ".bloom"


def moved(rig: Rig, before: Ring, giver: str, count: int = 1) -> list[bytes]:
    """Return keys that were a node's under a ring and are somebody else's now."""
    owned = (b"m%d" % number for number in range(10_000))
    now = Ring(rig.view)
    return [key for key in owned if before.owner(key) == giver != now.owner(key)][:count]


def slots(rig: Rig) -> dict[tuple[str, bytes], object]:
    """Return what L2 holds of filters."""
    assert rig.l2 is not None
    assert isinstance(rig.l2.inner, MemoryL2)
    return {key: slot for key, slot in rig.l2.inner._slots.items() if key[0] == _KIND}


async def start(*names: str) -> Rig:
    """Return nodes whose filters were built from an origin that has one key."""
    rig = Rig(*names, l2=True)
    rig.loader.put(b"k", b"v")
    assert await rig.settle() == "built"
    assert rig.loader.lists == 1
    return rig


async def test_newcomer_takes_part_without_a_list() -> None:
    """It answers for keys that were others', and hides nothing that those wrote."""
    rig = await start("a", "b")
    before, later = Ring(rig.view), Ring(view_of(2, "a", "b", "c"))
    owned = (b"m%d" % number for number in range(1_000))
    written, absent, *_ = [key for key in owned if (before.owner(key), later.owner(key)) == ("a", "c")]
    await rig.set(written, node="a")
    rig.change("a", "b", "c")
    assert await rig.settle() == "merged"
    assert rig.loader.lists == 1
    assert await rig.get(absent, node="c") is None
    assert await rig.get(written, node="c") == b"set"
    assert rig.asked == 0
    counters = rig.counters("c")
    assert (counters.state, counters.absences, counters.rebuilds, counters.merges) == ("ready", 1, 0, 1)
    assert (counters.listed, counters.age_s) == (1, 0.0)
    rig.wall += 7.0
    assert rig.counters("c").age_s == 7.0


async def test_node_that_leaves_saves_what_it_wrote() -> None:
    """Its keys are others' then, who read what it has saved."""
    rig = await start("a", "b", "c")
    before = Ring(rig.view)
    [key] = owned_by(rig.view, "c")
    await rig.set(key, node="c")
    await rig.leave("c")
    assert before.owner(key) == "c"
    assert await rig.settle() == "merged"
    owner = Ring(rig.view).owner(key)
    assert owner is not None
    assert await rig.get(key, node=owner) == b"set"
    assert rig.loader.lists == 1
    assert await rig.get(owned_by(rig.view, owner, 2, prefix="absent")[1], node=owner) is None
    assert rig.asked == 0


async def test_all_nodes_restart() -> None:
    """Nobody lists the origin: what was saved is read, also by nodes of other names."""
    rig = await start("a", "b", "c")
    keys = {name: owned_by(rig.view, name)[0] for name in "abc"}
    for name, key in keys.items():
        await rig.set(key, node=name)
    await rig.leave("c", "b", "a")
    rig.change("a", "d")
    assert await rig.settle() == "saved"
    assert rig.loader.lists == 1
    for key in keys.values():
        assert await rig.get(key, node="a") == b"set"
    [absent] = owned_by(rig.view, "d", prefix="absent")
    assert await rig.get(absent, node="d") is None
    assert rig.asked == 0
    assert rig.counters("d").source == "saved"
    assert not rig.counters("a").refusals


async def test_killed_node_makes_the_origin_be_listed() -> None:
    """Nobody knows what it wrote last."""
    rig = await start("a", "b", "c")
    [key] = owned_by(rig.view, "c")
    await rig.set(key, node="c")
    rig.kill("c")
    rig.change("a", "b")
    assert await rig.settle() == "built"
    assert rig.loader.lists == 2
    assert await rig.get(key, node="a") == b"set"
    assert sum(rig.counters(name).refusals for name in "ab") == 1


@pytest.mark.parametrize("saved_before", [False, True])
async def test_killed_node_that_comes_back(saved_before: bool) -> None:
    """Its next life has the same id; what a life before saved when it left is not all."""
    rig = await start("a")
    if saved_before:
        await rig.leave("a")
        rig.change("a")
        assert await rig.settle() == "saved"
    await rig.set(OTHER)
    rig.kill("a")
    rig.change("a")
    assert await rig.settle() == "built"
    assert await rig.get(OTHER) == b"set"


async def test_write_between_saving_and_taking() -> None:
    """Its owner has begun a fresh filter before it saved, which has the key."""
    rig = await start("a", "b")
    before = Ring(rig.view)
    rig.change("a", "b", "c")
    [key] = moved(rig, before, "b")
    saved = [node.blooms.saved for node in rig.nodes.values()]
    merges = [each.merge for each in saved]

    async def merge(*arguments: object) -> object:
        await rig.set(key, node="c")
        for each, former in zip(saved, merges, strict=True):
            each.merge = former  # type: ignore[method-assign]
        return await former(*arguments)  # type: ignore[arg-type]

    for each in saved:
        each.merge = merge  # type: ignore[method-assign, assignment]
    assert await rig.settle() == "merged"
    assert await rig.get(key, node="c") == b"set"
    assert rig.counters("c").absences == 0


async def test_newcomer_saves_what_it_wrote_before_its_first_filter() -> None:
    """Another view comes before it has one."""
    rig = await start("a", "b")
    rig.change("a", "b", "c")
    [key] = owned_by(rig.view, "c")
    await rig.set(key, node="c")
    await rig.leave("c")
    assert await rig.settle() == "merged"
    assert await rig.get(key, node="a") == b"set"
    assert rig.loader.lists == 1


async def test_newcomer_that_has_written_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no room for the keys, so it saves nothing, and the origin is listed."""
    monkeypatch.setattr("cachenode.core.bloom._MOST_EARLY", 2)
    rig = await start("a", "b")
    rig.change("a", "b", "c")
    keys = owned_by(rig.view, "c", 3)
    for key in keys:
        await rig.set(key, node="c")
    assert await rig.settle() == "built"
    for key in keys:
        assert await rig.get(key, node="c") == b"set"


async def test_member_that_has_not_released_is_waited_for() -> None:
    """It may still acknowledge what it began under the former view."""
    rig = await start("a", "b")
    rig.change("a", "b", "c")
    node = rig.nodes["b"]
    node.placement.released_epoch = 1
    order = Batch(Operation.BLOOM_SAVE, "n", [b"bloom"], [(2).to_bytes(8, "little")], tokens=[1])
    result: BatchResult = await run(node, order, from_peer=True)
    assert result.failures[0].reason is Reason.NOT_READY
    assert not slots(rig)
    node.placement.released_epoch = 2
    result = await run(node, order, from_peer=True)
    assert (result.failures, result.versions) == ({}, [1])


@pytest.mark.parametrize("what", ["index", "head", "part", "all", "damage", "away"])
async def test_store_that_has_lost_something(what: str) -> None:
    """The origin is listed, and nothing is hidden."""
    rig = await start("a")
    await rig.set(OTHER)
    await rig.leave("a")
    assert rig.l2 is not None
    assert isinstance(rig.l2.inner, MemoryL2)
    held = rig.l2.inner._slots
    names = {"index": b"n", "head": b"n\0a\x001", "part": b"n\0a\x001\x000"}
    assert {(_KIND, name) for name in names.values()} == slots(rig).keys()
    if what in names:
        del held[_KIND, names[what]]
    elif what == "all":
        for key in slots(rig):
            del held[key]
    elif what == "damage":
        slot = held[_KIND, names["part"]]
        held[_KIND, names["part"]] = slot._replace(value=bytes(len(slot.value or b"")))
    rig.change("a")
    if what == "away":
        tier = rig.node.tier
        assert tier is not None
        for _ in range(3):
            tier._fail()
        assert await rig.settle() == ""
        assert await rig.get(OTHER) is None  # it is looked for, and nobody has it
        assert rig.asked == 1
        return
    assert await rig.settle() == "built"
    assert rig.loader.lists == 2
    assert await rig.get(OTHER) == b"set"


async def test_older_record_that_comes_back() -> None:
    """A replica that lacks the last writes takes the store's place: what it has claims less."""
    rig = await start("a", "b")
    rig.change("a", "b", "c")
    assert await rig.settle() == "merged"
    older = slots(rig)
    [key] = owned_by(rig.view, "b")
    await rig.set(key, node="b")
    await rig.leave("b")
    assert rig.l2 is not None
    assert isinstance(rig.l2.inner, MemoryL2)
    rig.l2.inner._slots |= older  # type: ignore[arg-type]
    assert await rig.settle() == "built"
    assert await rig.get(key, node="a") == b"set"


@pytest.mark.parametrize("change", [{"bloom_error": 0.02}, {"bloom_keys": 5_000}])
async def test_other_settings(change: dict[str, float]) -> None:
    """Who asks for another filter gets one, from the origin."""
    from dataclasses import replace

    rig = await start("a")
    await rig.leave("a")
    rig.policy = replace(rig.policy, **change)  # type: ignore[arg-type]
    rig.change("a")
    assert await rig.settle() == "built"


async def test_large_filter_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take too much of L2."""
    assert MOST_BYTES == 64 << 20
    monkeypatch.setattr(saved_blooms, "MOST_BYTES", 100)
    rig = await start("a")
    await rig.leave("a")
    assert not slots(rig)
    rig.change("a")
    assert await rig.settle() == "built"


async def test_large_filter_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are put together again."""
    monkeypatch.setattr(saved_blooms, "_PART_BYTES", 100)
    rig = await start("a")
    await rig.set(OTHER)
    await rig.leave("a")
    assert len(slots(rig)) == 2 + 13
    rig.change("a")
    assert await rig.settle() == "saved"
    assert await rig.get(OTHER) == b"set"


async def test_barrier_outlives_a_merge() -> None:
    """What it covers is looked for also by who has the filter from others."""
    rig = await start("a", "b")
    before = Ring(rig.view)
    await rig.do(Operation.BARRIER, b"m", flags=[SelectorKind.PREFIX.value])
    rig.change("a", "b", "c")
    [key] = moved(rig, before, "b")
    rig.loader.put(key, b"inserted")
    for node in rig.nodes.values():
        for other in rig.nodes.values():
            for position, selector in other.namespaces.get("n").barriers.barriers():
                node.barriers.note(node.namespaces.get("n"), position, selector)  # type: ignore[arg-type]
    assert await rig.settle() == "merged"
    assert await rig.get(key, node="c") == b"inserted"
    assert rig.counters("c").skipped == 1


@pytest.mark.parametrize("known", [True, False])
async def test_tag_that_was_invalidated_before_a_restart(known: bool) -> None:
    """It may cover any key; and who does not know it, since the store has lost it, believes nothing."""
    rig = await start("a")
    await rig.do(Operation.BARRIER, b"t", flags=[SelectorKind.TAG.value])
    namespace = rig.node.namespaces.get("n")
    assert namespace is not None
    barriers = namespace.barriers.barriers()
    rig.loader.put(OTHER, b"inserted")
    await rig.leave("a")
    rig.change("a")
    for position, selector in barriers if known else ():
        rig.node.barriers.note(rig.node.namespaces.get("n"), position, selector)  # type: ignore[arg-type]
    assert await rig.settle() == "built"
    assert await rig.get(OTHER) == b"inserted"


async def test_list_that_is_asked_for_goes_before_a_merge() -> None:
    """Who asks for a list wants to know what the origin has."""
    rig = await start("a", "b")
    rig.change("a", "b", "c")
    leader = next(node for node in rig.nodes.values() if rig.leads(node))
    assert rig.l2 is not None
    rig.l2.gate.clear()
    rig.clock.advance(2.0)
    leader.blooms.tick(rig.clock.now())
    leader.blooms.tick(rig.clock.now())
    rig.clock.advance(2.0)
    leader.blooms.tick(rig.clock.now())
    await rig.l2.held.wait()
    [merging] = leader.blooms._running.values()
    assert not merging.lists
    namespace = leader.namespaces.get("n")
    assert namespace is not None
    listing = leader.blooms.rebuild(namespace)
    assert listing.lists
    assert leader.blooms.rebuild(namespace) is listing
    rig.l2.gate.set()
    assert listing.task is not None
    await listing.task
    assert (listing.stage, rig.loader.lists) == ("done", 2)
    assert {rig.counters(name).source for name in "abc"} == {"built"}
    assert not leader.blooms._running


async def test_schedule_goes_on_over_a_restart() -> None:
    """A list that was due while no node ran is made up for at once."""
    rig = await start("a")
    await rig.leave("a")
    rig.wall += 86_000
    rig.change("a")
    assert await rig.settle() == "saved"
    assert rig.counters("a").age_s == 86_000
    rig.wall += 401
    assert await rig.settle() == "built"
    assert rig.counters("a").age_s == 0


async def test_node_that_is_stopped_too_soon_claims_nothing() -> None:
    """A write is under way when its time is over, so what it saves would not be all."""
    rig = await start("a")
    assert rig.l2 is not None
    rig.l2.gate.clear()
    writing = asyncio.ensure_future(rig.set(OTHER))
    await rig.l2.held.wait()
    closing = asyncio.ensure_future(rig.node.close())
    await asyncio.sleep(0)
    await rig.node.blooms.saved.leave()
    rig.l2.gate.set()
    await asyncio.gather(writing, closing)
    assert not slots(rig)
    await rig.node.blooms.saved.leave()
    assert slots(rig)
