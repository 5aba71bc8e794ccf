"""Members that find each other by seeds: one view, whatever the order of events."""

from __future__ import annotations

import math

import pytest

from cachenode.node.placement import Placement
from cachenode.node.seed_membership import SeedMembership
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.cluster import member


class World:
    """Nodes that are linked or not, as the test says; views travel over links at once."""

    def __init__(self, *names: str) -> None:
        self.clock = ManualClock()
        self.counter_up, self.counted = True, 0
        self.nodes: dict[str, SeedMembership] = {}
        self.places: dict[str, Placement] = {}
        self.links: set[frozenset[str]] = set()
        self.farewells = 0
        for name in names:
            self.add(name)

    def add(self, name: str, incarnation: str = "1") -> None:
        place = Placement(member(name, incarnation))
        node = SeedMembership(
            place,
            self.clock,
            missing=lambda: {other for other in self.nodes if other != name} - self.linked_to(name),
            epoch_after=self.epoch_after,
            lease_s=4.0,
            bootstrap_wait_s=2.0,
            farewell=self.farewell,
        )
        node._started_at = self.clock.now()
        place.listeners.append(lambda _, view: self.tell(name, view))
        place.release_listeners.append(lambda epoch: self.settled(name, epoch))
        self.nodes[name], self.places[name] = node, place

    async def epoch_after(self, epoch: int) -> tuple[int, bool]:
        return max(epoch, self.counted if self.counter_up else 0) + 1, self.counter_up

    async def farewell(self) -> None:
        self.farewells += 1

    def linked_to(self, name: str) -> set[str]:
        return {other for link in self.links if name in link for other in link if other != name}

    def tell(self, name: str, view: View) -> None:
        for other in self.linked_to(name):
            self.nodes[other].peer_view(self.me(name), view)

    def settled(self, name: str, epoch: int) -> None:
        for other in self.linked_to(name):
            self.nodes[other].peer_settled(self.me(name), epoch)

    def beat(self, late_s: float = 0.0) -> None:
        """Let every heartbeat be answered at once that was sent so long ago."""
        for link in self.links:
            for here, there in (sorted(link), sorted(link, reverse=True)):
                self.nodes[here].peer_alive(self.me(there), self.clock.now() - late_s)

    def fenced(self) -> set[str]:
        return {name for name, place in self.places.items() if place.fenced(self.clock.now())}

    def me(self, name: str) -> Member:
        return self.places[name].me

    def link(self, one: str, other: str) -> None:
        self.links.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            self.nodes[here].peer_up(self.me(there))
            view = self.places[there].view
            if view is not None:
                self.nodes[here].peer_view(self.me(there), view)

    def cut(self, one: str, other: str) -> None:
        self.links.discard(frozenset((one, other)))
        self.nodes[one].peer_down(self.me(other))
        self.nodes[other].peer_down(self.me(one))

    async def tick(self, seconds: float = 0.25, only: str | None = None) -> None:
        self.clock.advance(seconds)
        for name in [only] if only else list(self.nodes):
            await self.nodes[name].tick()

    def views(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        return {
            name: (place.epoch, tuple(m.id for m in place.view.members) if place.view else ())
            for name, place in self.places.items()
        }


async def test_two_nodes_that_start_together_end_in_one_view() -> None:
    """Both wait for their seeds, and then only the smaller makes a view, with both."""
    world = World("a", "b")
    await world.tick()
    assert world.views() == {"a": (0, ()), "b": (0, ())}
    world.link("a", "b")
    await world.tick(only="b")
    await world.tick()
    assert world.views() == {"a": (1, ("a", "b")), "b": (1, ("a", "b"))}
    assert world.places["a"].view == world.places["b"].view
    assert all(place.ready for place in world.places.values())


async def test_late_seeds_join() -> None:
    """A node alone stops waiting after a while; who comes later is taken in."""
    world = World("a", "b", "c")
    await world.tick(2.1)
    assert world.views()["b"] == (1, ("b",))
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        world.link(*pair)
    for _ in range(4):
        await world.tick()
    assert {members for _, members in world.views().values()} == {("a", "b", "c")}
    assert len({epoch for epoch, _ in world.views().values()}) == 1


async def test_halves_merge() -> None:
    """After a partition the coordinator's next view is above both halves' epochs and holds all."""
    world = World("a", "b", "c", "d")
    names = ("a", "b", "c", "d")
    pairs = [(one, other) for one in names for other in names if one < other]
    for pair in pairs:
        world.link(*pair)
    await world.tick()
    for one, other in pairs:
        if (one in "ab") != (other in "ab"):
            world.cut(one, other)
    for _ in range(20):
        await world.tick()
    assert world.views()["a"][1] == ("a", "b")
    assert world.views()["d"][1] == ("c", "d")
    high = max(epoch for epoch, _ in world.views().values())
    for one, other in pairs:
        world.link(one, other)
    for _ in range(4):
        await world.tick()
    assert len(set(world.views().values())) == 1
    epoch, members = world.views()["a"]
    assert members == names
    assert epoch > high


async def test_coordinator_is_replaced() -> None:
    """A dead coordinator counts as live for its lease; then the next smallest makes the view without it."""
    world = World("a", "b", "c")
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        world.link(*pair)
    await world.tick()
    world.cut("a", "b")
    world.cut("a", "c")
    del world.nodes["a"]
    place = world.places.pop("a")
    await world.tick(3.0)
    assert world.views()["b"][1] == ("a", "b", "c")
    await world.tick(1.5)
    assert world.views()["b"] == (place.epoch + 1, ("b", "c"))
    assert world.views()["c"] == world.views()["b"]


async def test_leaving_peer_is_gone_at_once() -> None:
    """Who says goodbye does not keep its keys waiting for the end of a lease."""
    world = World("a", "b")
    world.link("a", "b")
    await world.tick()
    world.nodes["a"].peer_leaving(world.me("b"))
    await world.tick(only="a")
    assert world.views()["a"] == (2, ("a",))


async def test_link_that_comes_after_the_farewell() -> None:
    """Everybody dials everybody: the second link may come up when the first has already brought the goodbye."""
    world = World("a", "b")
    world.link("a", "b")
    await world.tick()
    world.nodes["a"].peer_leaving(world.me("b"))
    world.nodes["a"].peer_up(world.me("b"))
    await world.tick(only="a")
    assert world.views()["a"] == (2, ("a",))
    world.nodes["a"].peer_down(world.me("b"))
    world.add("b", "2")
    world.link("a", "b")
    await world.tick(only="a")
    assert world.views()["a"] == (3, ("a", "b"))
    world.clock.advance(100.0)
    await world.tick(only="a")
    assert not world.nodes["a"]._left


async def test_restart_is_another_incarnation() -> None:
    """A member that restarts gets a new view with its new incarnation, and only then is it ready."""
    world = World("a", "b")
    world.link("a", "b")
    await world.tick()
    world.cut("a", "b")
    world.add("b", "2")
    assert not world.places["b"].ready
    world.link("a", "b")
    await world.tick()
    assert world.places["b"].ready
    assert world.views()["a"] == (2, ("a", "b"))
    assert world.places["a"].view.by_id["b"].incarnation == "2"


async def test_epoch_is_made_sure_later() -> None:
    """A view made while the counter of epochs was away is made again, above former lives, when it is back."""
    world = World("a")
    world.counter_up, world.counted = False, 40
    await world.tick(2.1)
    assert world.views()["a"] == (1, ("a",))
    await world.tick()
    assert world.views()["a"] == (1, ("a",))
    world.counter_up = True
    await world.tick()
    assert world.views()["a"] == (41, ("a",))
    await world.tick()
    assert world.views()["a"] == (41, ("a",))


async def joined(*names: str) -> World:
    """Return nodes that are all linked and in one view, their heartbeats answered."""
    world = World(*names)
    for one in names:
        for other in names:
            if one < other:
                world.link(one, other)
    await world.tick()
    world.beat()
    return world


async def test_alone_there_is_nobody_to_be_fenced_against() -> None:
    """A view of one member has no end of its lease; with a second member there is one."""
    world = World("a")
    await world.tick(2.1)
    assert world.places["a"].lease_until == math.inf
    world.add("b")
    world.link("a", "b")
    await world.tick()
    assert world.views()["a"][1] == ("a", "b")
    assert world.fenced() == {"a", "b"}, "nobody has answered yet"
    world.beat(late_s=0.5)
    assert {place.lease_until for place in world.places.values()} == {world.clock.now() - 0.5 + 3.6}


async def test_lease_needs_a_majority() -> None:
    """A node keeps its lease while most of its view answers, itself among them, and loses it when fewer do.

    Scenario 26.
    """
    world = await joined("a", "b", "c", "d")
    assert world.fenced() == set()
    world.cut("a", "b")
    world.cut("a", "c")
    world.clock.advance(3.0)
    world.beat()
    world.clock.advance(1.0)
    assert world.fenced() == {"a"}, "itself and one other are two of four"
    world.link("a", "b")
    world.beat()
    assert world.fenced() == set()


async def test_late_answer_lowers_no_lease() -> None:
    """The newest heartbeat that was answered counts, in whatever order the answers are taken."""
    world = await joined("a", "b")
    until = world.places["a"].lease_until
    world.beat(late_s=1.0)
    assert world.places["a"].lease_until == until


async def test_members_that_went_on_without_this_node_do_not_count() -> None:
    """Who has told a newer view that does not name this node keeps it from acting by the old one."""
    world = await joined("a", "b", "c")
    world.nodes["a"].peer_view(world.me("b"), View(9, b"s" * 16, (world.me("b"), world.me("c"))))
    world.beat()
    assert world.fenced() == set()
    world.nodes["a"].peer_view(world.me("c"), View(9, b"s" * 16, (world.me("b"), world.me("c"))))
    world.beat()
    assert world.fenced() == {"a"}


async def test_new_nodes_of_one_view_are_settled_at_once() -> None:
    """Nodes that meet in their first view say that nothing is left, and wait for nothing else."""
    world = await joined("a", "b", "c")
    assert not any(place.unsettled for place in world.places.values())


async def test_restart_waits_for_the_former_life() -> None:
    """A node that hears of a former incarnation of its own in a view waits for the end of that one's lease."""
    world = await joined("a", "b")
    world.cut("a", "b")
    world.add("b", "2")
    world.link("a", "b")
    await world.tick()
    place = world.places["b"]
    assert (place.ready, place.unsettled, world.places["a"].unsettled) == (True, True, False)
    place.tick(world.clock.now())
    place.tick(world.clock.now() + 4.4)
    assert not place.unsettled


async def test_old_news_of_a_former_life_are_nothing_new() -> None:
    """A peer that is late with a view of the past does not make the node wait once more."""
    world = await joined("a", "b")
    world.nodes["b"].peer_view(world.me("a"), View(0, b"s" * 16, (world.me("a"), member("b", "0"))))
    world.add("c")
    world.link("b", "c")
    world.link("a", "c")
    await world.tick()
    assert world.views()["b"][1] == ("a", "b", "c")
    assert not world.places["b"].unsettled


async def test_unsettled_node_says_no_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stops while others may act for what it has gained leaves without a word."""
    monkeypatch.setattr("cachenode.node.seed_membership.SETTLE_S", 0.01)
    world = World("a", "b")
    world.link("a", "b")
    world.places["a"].apply(View(1, b"s" * 16, (world.me("a"), world.me("b"), member("c"))))
    await world.nodes["a"].stop()
    assert world.farewells == 0


async def test_stop_resigns_and_says_farewell() -> None:
    """A node that stops acts for no key any more, whatever answers still come, and its peers are told."""
    world = await joined("a", "b")
    await world.nodes["a"].stop()
    world.beat()
    assert (world.fenced(), world.farewells, world.places["a"].ready) == ({"a"}, 1, False)
