"""What members tell each other of an L2 that has lost its history, above all when one of them is gone too."""

from __future__ import annotations

import asyncio
import random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, L2Write, Operation
from cachenode.core.l2_journal import RECENT_S
from cachenode.node.l2_tier import L2Tier
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.version import make_version
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, fetch, new_node, owned_by, put, run, view_of
from tests.support.copies import settled


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachenode.node.service._ASK_AGAIN_S", 0)


class Rig:
    """Nodes over one L2 that can be replaced by what it was before."""

    def __init__(self, *names: str, journal_limit: int = 1_000) -> None:
        self.clock = ManualClock()
        self.peers = DirectPeers()
        self.memory = MemoryL2(self.clock)
        self.access: dict[str, ChaosL2] = {}
        self.nodes: dict[str, Node] = {}
        self._journal_limit = journal_limit
        for name in names:
            self.start(name, view_of(1, *names))

    def start(self, name: str, view: View, *, new: bool = False) -> Node:
        """Start a node; a new one has all to learn."""
        l2 = self.access[name] = ChaosL2(self.memory, random.Random(0))
        limit = self._journal_limit
        node = self.nodes[name] = new_node(
            name, self.clock, l2=l2, peers=self.peers, view=view, journal_limit=limit, handover_bytes=0
        )
        self.tier(name).must_adopt = new
        return node

    def tier(self, name: str) -> L2Tier:
        tier = self.nodes[name].tier
        assert tier is not None
        return tier

    def die(self, name: str) -> None:
        """Let a node vanish, which the view has still."""
        del self.nodes[name]
        self.peers.cut.add(name)

    def change(self, epoch: int, *names: str, at: str = "") -> None:
        """Put a view in force, at one node or at all of it."""
        for name in at or names:
            if name in self.nodes:
                self.nodes[name].placement.apply(view_of(epoch, *names))

    def fail_over(self, former: dict[tuple[str, bytes], object]) -> None:
        """Let L2 be what it was, and nobody have anything in memory."""
        self.memory.forget()
        self.memory._slots.update(former)  # type: ignore[arg-type]
        for node in self.nodes.values():
            for namespace in node.namespaces:
                namespace.store.clear()

    async def recover(self, name: str) -> None:
        """Let a node bring L2 up to date, in as many rounds as it takes."""
        for _ in range(5):
            if await self.tier(name).recover():
                return
        pytest.fail(f"{name} does not trust L2 again")

    async def doubly_written(self, name: str, *names: str) -> tuple[bytes, dict[tuple[str, bytes], object]]:
        """Write a key of a node twice, and another of it once before; return it, and what L2 was in between."""
        key, other = owned_by(view_of(1, *names), name, 2)
        await put(self.nodes[name], other, b"other")
        await put(self.nodes[name], key, b"old")
        former: dict[tuple[str, bytes], object] = dict(self.memory._slots)
        await put(self.nodes[name], key, b"new")
        return key, former


async def test_history_lost_with_a_member() -> None:
    """Nobody has the journal of the member that is gone: what was written under earlier views is not believed."""
    rig = Rig("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    rig.die("a")
    rig.change(2, "b", "c")
    rig.fail_over(former)
    await rig.recover("b")
    await rig.recover("c")
    for name in "bc":
        assert await fetch(rig.nodes[name], key) is None
        assert rig.tier(name).floors == 1
    later = owned_by(view_of(2, "b", "c"), "b")[0]
    await put(rig.nodes["b"], later, b"newer")
    rig.fail_over(dict(rig.memory._slots))
    await rig.recover("c")
    assert await fetch(rig.nodes["c"], later) is None, "b has its journal, so it is a tombstone"
    await rig.recover("b")
    await put(rig.nodes["b"], later, b"newest")
    rig.nodes["b"].namespaces.get("default").store.clear()
    assert await fetch(rig.nodes["b"], later) == b"newest", "written under this view"


async def test_member_that_has_gone_long_ago() -> None:
    """Older writes than the journal's span are not lost: L2 is believed, but for what members have journaled."""
    rig = Rig("a", "b", "c")
    key, _ = await rig.doubly_written("a", "a", "b", "c")
    rig.die("a")
    rig.change(2, "b", "c")
    rig.clock.advance(RECENT_S + 1)
    rig.fail_over(dict(rig.memory._slots))
    await rig.recover("b")
    assert await fetch(rig.nodes["b"], key) == b"new"
    assert rig.tier("b").floor == 0


async def test_nobody_has_gone() -> None:
    """A new member is no reason to disbelieve what is older; whoever was there before has all journals."""
    rig = Rig("a", "b")
    rig.clock.advance(RECENT_S + 1)
    key, former = await rig.doubly_written("a", "a", "b")
    rig.change(2, "a", "b", "c")
    rig.start("c", view_of(2, "a", "b", "c"), new=True)
    await rig.recover("c")
    rig.fail_over(former)
    await rig.recover("a")
    assert await fetch(rig.nodes["a"], key) is None
    assert rig.tier("a").floor == 0


async def test_floor_of_one_is_the_floor_of_all() -> None:
    """Who remembers less than it has written says so, and whoever trusts L2 again takes its word."""
    rig = Rig("a", "b", journal_limit=1)
    keys = owned_by(view_of(1, "a", "b"), "a", 3)
    for key in keys:
        await put(rig.nodes["a"], key, b"old")
    former: dict[tuple[str, bytes], object] = dict(rig.memory._slots)
    for key in keys:
        await put(rig.nodes["a"], key, b"new")
    rig.fail_over(former)
    await rig.recover("b")
    assert rig.tier("b").floor >= make_version(1, 5), "the one but last write is the newest that was forgotten"
    rig.peers.cut.add("a")
    assert [await fetch(rig.nodes["b"], key) for key in keys] == [None] * 3, "past the owner"
    mine = owned_by(view_of(1, "a", "b"), "b")[0]
    await put(rig.nodes["b"], mine, b"v")
    rig.nodes["b"].namespaces.get("default").store.clear()
    assert await fetch(rig.nodes["b"], mine) == b"v", "b's versions are above the floor, although it has written less"


async def test_history_lost_before_the_view_changes() -> None:
    """The dead member is asked in vain; L2 is trusted once the view leaves it out, and not about what it wrote."""
    rig = Rig("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    rig.die("a")
    rig.fail_over(former)
    recovering = asyncio.create_task(rig.tier("b").recover())
    assert not await settled(recovering, turns=200)
    assert await fetch(rig.nodes["b"], key) is Reason.OWNER_UNREACHABLE
    rig.change(2, "b", "c")
    await recovering
    await rig.recover("b")
    assert await fetch(rig.nodes["b"], key) is None


async def test_newcomer_after_history_was_lost() -> None:
    """A node that comes before anybody has noticed asks: the members bring what they wrote, and say what is lost."""
    rig = Rig("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    mine = owned_by(view_of(1, "a", "b", "c"), "b")[0]
    await put(rig.nodes["b"], mine, b"old")
    former |= {("default", mine): rig.memory._slots["default", mine]}
    await put(rig.nodes["b"], mine, b"new")
    rig.die("a")
    rig.change(2, "b", "c")
    rig.fail_over(former)
    rig.change(3, "b", "c", "d")
    node = rig.start("d", view_of(3, "b", "c", "d"), new=True)
    recovering = asyncio.create_task(rig.tier("d").recover())
    assert not await settled(recovering, turns=100), "b and c are not done with it themselves"
    await rig.recover("b")
    await rig.recover("c")
    assert await recovering
    for name in ("b", "c"):
        rig.peers.cut.add(name)
    assert await fetch(node, key) is None
    assert await fetch(node, mine) is None
    assert rig.tier("d").floor == make_version(2, 0)


async def test_who_answers_has_the_asker_s_view() -> None:
    """A member that has not heard yet who is gone does not know whose journal is missing: it answers later."""
    rig = Rig("a", "b")
    batch = Batch(Operation.REPLAY, "default", [b"floor", b"sure"], tokens=[2, 1])
    refused = await run(rig.nodes["b"], batch, from_peer=True)
    assert {failure.reason for failure in refused.failures.values()} == {Reason.NOT_READY}
    rig.change(2, "b", "d")
    assert (await run(rig.nodes["b"], batch, from_peer=True)).versions == [0, 1]


async def test_member_that_goes_while_it_is_asked() -> None:
    """The last that could know is gone before it has answered: a newcomer believes nothing from before."""
    rig = Rig("a")
    key, former = await rig.doubly_written("a", "a")
    rig.die("a")
    rig.fail_over(former)
    node = rig.start("b", view_of(2, "a", "b"), new=True)
    recovering = asyncio.create_task(rig.tier("b").recover())
    assert not await settled(recovering, turns=100)
    rig.change(3, "b")
    await recovering
    await rig.recover("b")
    assert await fetch(node, key) is None


async def test_another_is_sure_when_a_member_goes() -> None:
    """Whoever was there all the time knows that nothing is lost: what L2 holds is believed."""
    rig = Rig("a", "b")
    key, _ = await rig.doubly_written("a", "a", "b")
    rig.die("a")
    rig.change(2, "a", "b", "c")
    node = rig.start("c", view_of(2, "a", "b", "c"), new=True)
    recovering = asyncio.create_task(rig.tier("c").recover())
    assert not await settled(recovering, turns=100)
    rig.change(3, "b", "c")
    await recovering
    await rig.recover("c")
    rig.peers.cut.add("b")
    assert await fetch(node, key) == b"new"
    assert rig.tier("c").floor == 0


async def test_cluster_that_starts_anew_believes_l2() -> None:
    """Newcomers among themselves know nothing and do not wait for each other: a value outlives the whole cluster."""
    rig = Rig("a", "b")
    key, _ = await rig.doubly_written("a", "a", "b")
    for name in ("a", "b"):
        rig.die(name)
    rig.peers.cut.clear()
    for name in ("c", "d"):
        rig.start(name, view_of(2, "c", "d"), new=True)
    await asyncio.gather(rig.recover("c"), rig.recover("d"))
    for name in ("c", "d"):
        assert await fetch(rig.nodes[name], key) == b"new"


async def test_view_changes_while_a_newcomer_learns() -> None:
    """A node that has missed views meanwhile begins anew to learn: it may not have been told what came since."""
    rig = Rig("a")
    rig.start("b", view_of(2, "a", "b"), new=True)
    rig.change(2, "a", "b", at="a")
    barriers = rig.memory.barriers

    async def and_then() -> list[object]:
        rig.memory.barriers = barriers  # type: ignore[method-assign]
        rig.change(7, "a", "b")
        return []

    rig.memory.barriers = and_then  # type: ignore[method-assign,assignment]
    assert not await rig.tier("b").recover()
    assert rig.tier("b").must_adopt
    await rig.recover("b")
    assert not rig.tier("b").must_adopt


async def test_witness_that_is_cut_off() -> None:
    """A member that cannot reach L2 holds nobody up: what it wrote is disbelieved, as if it were lost."""
    rig = Rig("a", "b")
    key, former = await rig.doubly_written("a", "a", "b")
    rig.access["a"].down = True
    rig.fail_over(former)
    for _ in range(3):
        await fetch(rig.nodes["a"], key)
    recovering = asyncio.create_task(rig.tier("b").recover())
    assert await settled(recovering, turns=500)
    await rig.recover("b")
    rig.peers.cut.add("a")
    assert await fetch(rig.nodes["b"], key) is None
    assert await rig.memory.read("default", [key]) == [None], "b has brought it to L2"


class Leavers(Rig):
    """Nodes that have been there for long, and leave in good order."""

    def __init__(self, *names: str, journal_limit: int = 1_000) -> None:
        super().__init__(*names, journal_limit=journal_limit)
        self.clock.advance(RECENT_S + 1)

    async def leave(self, name: str) -> None:
        """Let a node end its writes and say what it has to say; it still is a member."""
        await self.nodes[name].close()
        await self.nodes[name].witnesses.bequeath()

    async def left(self, name: str, epoch: int, *names: str) -> None:
        """Let a node leave in good order, and the view without it be in force."""
        await self.leave(name)
        self.die(name)
        self.change(epoch, *names)

    async def found(self, name: str, key: bytes) -> bytes | None:
        """Let a node bring L2 up to date; return what it finds there then."""
        await self.recover(name)
        found = await fetch(self.nodes[name], key)
        assert not isinstance(found, Reason)
        return found


async def test_history_lost_after_a_member_has_left() -> None:
    """What the leaver wrote last is journaled by its heirs; all that is older is believed."""
    rig = Leavers("a", "b", "c")
    older = owned_by(view_of(1, "a", "b", "c"), "a", 3)[2]
    await put(rig.nodes["a"], older, b"older")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    await rig.left("a", 2, "b", "c")
    rig.fail_over(former)
    assert await rig.found("b", key) is None, "the heir has brought a tombstone"
    assert await rig.found("c", key) is None
    assert rig.tier("b").floor == rig.tier("c").floor == 0


async def test_older_content_outlives_a_leaver_and_a_failover() -> None:
    """What was written before the journal's span is found after one after the other has been restarted."""
    names = ("a", "b", "c")
    rig = Leavers(*names)
    keys = [owned_by(view_of(1, *names), name)[0] for name in names]
    for name, key in zip(names, keys, strict=True):
        await put(rig.nodes[name], key, b"older")
    rig.clock.advance(RECENT_S + 1)
    epoch = 1
    for name in names:
        stay = [other for other in names if other != name]
        await rig.left(name, epoch + 1, *stay)
        epoch += 2
        rig.peers.cut.discard(name)
        rig.start(name, view_of(epoch, *names), new=True)
        rig.change(epoch, *names)
        await rig.recover(name)
    rig.fail_over(dict(rig.memory._slots))
    for name in names:
        await rig.recover(name)
        assert rig.tier(name).floor == 0
    for key in keys:
        assert await fetch(rig.nodes["a"], key) == b"older"


async def test_history_lost_while_a_member_leaves() -> None:
    """A member that has noticed takes no part: it may be done with bringing L2 up to date, and the part comes late."""
    rig = Leavers("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    rig.fail_over(former)
    await rig.memory.ping()
    await rig.leave("a")
    assert not rig.nodes["b"].witnesses._parted
    rig.die("a")
    rig.change(2, "b", "c")
    assert await rig.found("b", key) is None
    assert rig.tier("b").floor == make_version(2, 0)


async def test_word_that_comes_while_l2_is_brought_up_to_date() -> None:
    """Its heirs have been asked already, before they had their parts; so the leaver is missed."""
    rig = Leavers("a", "b", "c")
    word = Batch(Operation.BEQUEATH, "default", [b"a", b"1"], ttls_ms=[0, 0], tokens=[0, 0], epoch=1)
    rig.memory.forget()
    assert (await run(rig.nodes["b"], word, from_peer=True)).versions == [0, 0]
    await rig.recover("b")
    assert (await run(rig.nodes["b"], word, from_peer=True)).versions == [1, 1]
    word.epoch = 2
    assert (await run(rig.nodes["b"], word, from_peer=True)).versions == [0, 0], "of another view"
    part = Batch(Operation.BEQUEATH, "default", [b"k"], ttls_ms=[5_000], tokens=[7], epoch=1)
    rig.memory.forget()
    assert (await run(rig.nodes["b"], part, from_peer=True)).versions == [0]


async def test_heir_that_dies() -> None:
    """It took with it what it was left: nothing from before is believed."""
    rig = Leavers("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    await rig.left("a", 2, "b", "c")
    rig.die("c")
    rig.change(3, "b")
    rig.fail_over(former)
    assert await rig.found("b", key) is None
    assert rig.tier("b").floor == make_version(3, 0)


async def test_heir_that_leaves() -> None:
    """It passes on what it was left, for as long as that is to be remembered."""
    rig = Leavers("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    await rig.left("a", 2, "b", "c")
    rig.clock.advance(RECENT_S / 2)
    await rig.left("c", 3, "b")
    rig.fail_over(former)
    assert await rig.found("b", key) is None
    assert rig.tier("b").floor == 0
    rig = Leavers("a", "b", "c")
    key, former = await rig.doubly_written("a", "a", "b", "c")
    await rig.left("a", 2, "b", "c")
    rig.clock.advance(RECENT_S + 1)
    await rig.left("c", 3, "b")
    assert all(at <= rig.clock.now() - RECENT_S for at, *_ in rig.tier("b")._journal._recent)


async def test_who_fears_says_no_word() -> None:
    """A member that has died lately, more writes than are remembered, or a write that L2 lacks: all count as missed."""
    rig = Leavers("a", "b", "c", "d")
    rig.die("d")
    rig.change(2, "a", "b", "c")
    await rig.leave("a")
    assert not rig.nodes["b"].witnesses._parted
    rig = Leavers("a", "b", journal_limit=1)
    await rig.doubly_written("a", "a", "b")
    await rig.leave("a")
    assert not rig.nodes["b"].witnesses._parted
    rig = Leavers("a", "b")
    rig.access["a"].down = True
    await put(rig.nodes["a"], owned_by(view_of(1, "a", "b"), "a")[0], b"v")
    await rig.leave("a")
    assert not rig.nodes["b"].witnesses._parted
    rig = Leavers("a", "b", "c")
    rig.peers.cut.add("b")
    await rig.doubly_written("a", "a", "b", "c")
    await rig.leave("a")
    assert not rig.nodes["c"].witnesses._parted, "the heir has not answered"


async def test_write_after_the_word() -> None:
    """It counts as one that L2 has missed: the others are told before it is done."""
    rig = Leavers("a", "b")
    key = owned_by(view_of(1, "a", "b"), "a")[0]
    await rig.leave("a")
    assert rig.nodes["b"].witnesses._parted == {("a", rig.nodes["a"].placement.me.incarnation)}
    tier, version = rig.tier("a"), rig.nodes["a"].versions.next()
    assert await tier.write("default", [L2Write(key, b"v", 0, version, 60.0)]) == [True]
    assert await tier.drop("default", [(key, version + 1)]) == [False]
    assert await rig.memory.read("default", [key]) == [None]
    assert rig.tier("b").missed() == {"default": [(key, version + 1)]}


async def test_tombstone_that_l2_has_forgotten() -> None:
    """What L2 missed was brought to it, and that is lost again: it is brought once more."""
    rig = Leavers("a", "b")
    key = owned_by(view_of(1, "a", "b"), "a")[0]
    await put(rig.nodes["a"], key, b"old")
    former: dict[tuple[str, bytes], object] = dict(rig.memory._slots)
    rig.clock.advance(RECENT_S + 1)
    rig.access["a"].down = True
    await put(rig.nodes["a"], key, b"new")
    rig.access["a"].down = False
    await rig.recover("b")
    await rig.recover("a")
    rig.fail_over(former)
    await rig.recover("b")
    assert await rig.found("a", key) is None
