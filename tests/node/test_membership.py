from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.registry_memory import MemoryRegistry
from cachenode.errors import RegistryError
from cachenode.node import membership as membership_module
from cachenode.node.membership import RegistryMembership
from cachenode.node.placement import Placement
from cachenode.ports import LOST_HISTORY_STRIDE, Renewal
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.cluster import member, view_of
from tests.support.eventually import eventually


class Registry:
    """A registry that says what the test says."""

    def __init__(self) -> None:
        self.view: View | None = view_of(1, "a")
        self.known: list[int] = []
        self.left: list[Member] = []
        self.done: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False
        self.replaced = False
        self.defect: Exception | None = None

    async def renew(self, me: Member, known: View | None) -> Renewal:
        self.known.append(known.epoch if known is not None else 0)
        await self.gate.wait()
        if self.defect is not None:
            raise self.defect
        if self.view is None:
            raise RegistryError("registry: away")
        return Renewal(self.view, replaced=self.replaced)

    async def leave(self, me: Member) -> None:
        if self.view is None:
            raise RegistryError("registry: away")
        self.left.append(me)
        self.done.append("leave")

    async def farewell(self) -> None:
        self.done.append("farewell")

    async def close(self) -> None:
        self.closed = True


NewMembership = Callable[..., RegistryMembership]


@pytest.fixture
async def registry() -> Registry:
    return Registry()


@pytest.fixture
async def placement() -> Placement:
    return Placement(member("a"))


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def new(registry: Registry, placement: Placement, clock: ManualClock) -> AsyncIterator[NewMembership]:
    """Makes memberships, stopped after the test."""
    made: list[RegistryMembership] = []

    def make(renew_s: float = 0.001) -> RegistryMembership:
        made.append(RegistryMembership(registry, placement, clock, renew_s=renew_s, farewell=registry.farewell))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


async def test_a_defect_does_not_end_the_renewals(registry: Registry, placement: Placement, new: NewMembership) -> None:
    """A failure that nobody foresaw is logged, and the node goes on: else it would be out for good."""
    registry.defect = TypeError("'NoneType' object is not subscriptable")
    with capture_logs() as logs:
        await new().start()
        await eventually(lambda: len(registry.known) > 2)
    assert {line["event"] for line in logs} == {"renewal_failed"}
    registry.defect = None
    await eventually(lambda: placement.epoch == 1)


async def test_joins_and_takes_each_new_view(registry: Registry, placement: Placement, new: NewMembership) -> None:
    """The first renewal brings the first view; later ones bring what has changed, and tell what is known."""
    await new().start()
    await eventually(lambda: placement.epoch == 1)
    assert placement.ready
    registry.view = view_of(2, "a", "b")
    await eventually(lambda: placement.epoch == 2)
    await eventually(lambda: registry.known[-1] == 2)
    assert registry.known[0] == 0


async def test_unreachable_registry_changes_nothing(
    registry: Registry, placement: Placement, new: NewMembership
) -> None:
    """While the registry is away the view stays; the log says once that it went and once that it is back."""
    with capture_logs() as logs:
        await new().start()
        await eventually(lambda: placement.epoch == 1)
        registry.view, asked = None, len(registry.known)
        await eventually(lambda: len(registry.known) > asked + 3)
        assert placement.epoch == 1
        registry.view = view_of(2, "a")
        await eventually(lambda: placement.epoch == 2)
    events = [line["event"] for line in logs if line["event"] != "view"]
    assert events == ["registry_unreachable", "registry_back"]


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 1.0), (0.4, 0.6), (1.0, 0.25), (90.0, 0.25)])
async def test_call_that_hung_is_followed_soon(
    registry: Registry,
    clock: ManualClock,
    new: NewMembership,
    monkeypatch: pytest.MonkeyPatch,
    took_s: float,
    pause_s: float,
) -> None:
    """What a failed renewal has waited in vain is part of the second until the next one."""
    pauses: list[float] = []

    def no_pause(renew_s: float, took_s: float) -> float:
        pauses.append(pause_after(renew_s, took_s))
        return 0.0

    pause_after = membership_module._pause_s
    monkeypatch.setattr(membership_module, "_pause_s", no_pause)
    registry.view = None
    registry.gate.clear()
    await new(renew_s=1.0).start()
    await eventually(lambda: registry.known)
    clock.advance(took_s)
    registry.gate.set()
    await eventually(lambda: len(registry.known) > 1)
    assert pauses[0] == pytest.approx(pause_s)


async def test_first_view_waits_for_the_registry(registry: Registry, placement: Placement, new: NewMembership) -> None:
    """A node that starts while the registry is away is not ready, and joins as soon as it is back."""
    registry.view = None
    await new().start()
    await eventually(lambda: len(registry.known) > 2)
    assert not placement.ready
    registry.view = view_of(1, "a")
    await eventually(lambda: placement.ready)


@pytest.mark.parametrize("news", ["newer view", "leaving"])
async def test_peers_news_are_asked_for_at_once(
    registry: Registry, placement: Placement, new: NewMembership, news: str
) -> None:
    """A peer that tells a newer view, or that it leaves, makes the node ask the registry without waiting."""
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.epoch == 1)
    registry.view = view_of(2, "a", "b")
    membership.peer_view(member("b"), view_of(1, "a"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert placement.epoch == 1, "a view that is not newer is no news"
    if news == "leaving":
        membership.peer_leaving(member("b"))
    else:
        membership.peer_view(member("b"), view_of(2, "a", "b"))
    await eventually(lambda: placement.epoch == 2)


async def test_registry_that_hears_of_changes(registry: Registry, placement: Placement, clock: ManualClock) -> None:
    """A newer view at the registry is asked for at once; the one that is known, or an older one, is not."""
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def changes() -> AsyncIterator[int]:
        while True:
            yield await heard.get()

    membership = RegistryMembership(registry, placement, clock, renew_s=3_600.0, changes=changes)
    await membership.start()
    await eventually(lambda: placement.epoch == 1)
    for epoch in (0, 1):
        heard.put_nowait(epoch)
    await eventually(heard.empty)
    assert len(registry.known) == 1
    registry.view = view_of(2, "a", "b")
    heard.put_nowait(2)
    await eventually(lambda: placement.epoch == 2)
    await membership.stop()


async def test_stop_gives_the_lease_back(registry: Registry, new: NewMembership) -> None:
    """A node that stops leaves, so that the others need not wait for the end of its lease."""
    membership = new()
    await membership.start()
    await eventually(lambda: registry.known)
    await membership.stop()
    assert registry.left == [member("a")]
    asked = len(registry.known)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(registry.known) == asked
    await membership.close()
    assert registry.closed


async def test_stop_without_the_registry(registry: Registry, new: NewMembership) -> None:
    """A registry that is away does not keep the node from stopping."""
    membership = new()
    await membership.start()
    registry.view = None
    await membership.stop()
    assert registry.left == []


async def lost_history(
    registry: Registry, placement: Placement, membership: RegistryMembership, view: View | None = None
) -> bool:
    """Let the registry lose its history; return whether the node takes the view as following its former one."""
    registry.view = view or view_of(placement.epoch + LOST_HISTORY_STRIDE, "a", "b")
    epoch = registry.view.epoch
    membership.peer_leaving(member("b"))
    await eventually(lambda: placement.epoch == epoch)
    return placement.follows


async def with_peer(registry: Registry, placement: Placement, new: NewMembership) -> RegistryMembership:
    registry.view = view_of(4, "a", "b")
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.epoch == 4)
    membership.peer_up(member("b"))
    return membership


async def test_lost_history_with_all_peers_at_hand_follows(
    registry: Registry, placement: Placement, new: NewMembership
) -> None:
    """The same members under an epoch a stride higher, all linked and none with another view: nothing was missed."""
    membership = await with_peer(registry, placement, new)
    membership.peer_view(member("b"), view_of(4, "a", "b"))
    assert await lost_history(registry, placement, membership)


@pytest.mark.parametrize("doubt", ["link lost", "never linked", "other epoch told", "other members", "other stride"])
async def test_lost_history_in_doubt_does_not_follow(
    registry: Registry, placement: Placement, new: NewMembership, doubt: str
) -> None:
    """If another view may have been in force meanwhile, what is in memory is not trusted."""
    membership = await with_peer(registry, placement, new)
    view = None
    if doubt == "link lost":
        membership.peer_down(member("b"))
        membership.peer_up(member("b"))
    elif doubt == "never linked":
        membership._linked.clear()
    elif doubt == "other epoch told":
        membership._told.add(7)
    elif doubt == "other members":
        view = view_of(104, "a", "b", "c")
    else:
        view = view_of(60, "a", "b")
    assert not await lost_history(registry, placement, membership, view)


async def test_doubt_ends_with_the_next_view(registry: Registry, placement: Placement, new: NewMembership) -> None:
    """A link that was lost before the view in force casts no doubt on what comes after it."""
    membership = await with_peer(registry, placement, new)
    membership.peer_down(member("b"))
    membership.peer_up(member("b"))
    assert not await lost_history(registry, placement, membership)
    assert await lost_history(registry, placement, membership)


async def test_lease_counts_from_before_the_call(
    registry: Registry, placement: Placement, new: NewMembership, clock: ManualClock
) -> None:
    """The ownership lease ends nine tenths of a lease after the renewal was sent, however late its answer is."""
    registry.gate.clear()
    await new(renew_s=3_600.0).start()
    await eventually(lambda: registry.known)
    assert placement.fenced(clock.now())
    sent_at = clock.now()
    clock.advance(1.5)
    registry.gate.set()
    await eventually(lambda: placement.ready)
    assert placement.lease_until == sent_at + 4.0 * 0.9


async def test_view_is_in_force_before_the_lease(
    registry: Registry, placement: Placement, new: NewMembership, clock: ManualClock
) -> None:
    """When a view comes in force the lease is still the one that the former view came with."""
    leases: list[float] = []
    placement.listeners.append(lambda _former, _view: leases.append(placement.lease_until))
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.epoch == 1)
    began = clock.now()
    clock.advance(1.0)
    registry.view = view_of(2, "a", "b")
    membership.peer_leaving(member("c"))
    await eventually(lambda: placement.lease_until > began + 3.6)
    assert leases == [began, began + 3.6]


async def test_answer_with_an_older_view_renews_nothing(
    registry: Registry, placement: Placement, new: NewMembership, clock: ManualClock
) -> None:
    """A registry that answers with less than this node knows has lost something, and gives no lease."""
    membership = new(renew_s=3_600.0)
    placement.apply(view_of(7, "a"))
    await membership.start()
    await eventually(lambda: registry.known)
    assert placement.fenced(clock.now())


async def test_lease_runs_out_without_the_registry(
    registry: Registry, placement: Placement, new: NewMembership, clock: ManualClock
) -> None:
    """While the registry cannot be reached the lease ends when its time is over, though the view stays. Scenario 27."""
    await new().start()
    await eventually(lambda: placement.ready)
    registry.view = None
    clock.advance(3.5)
    assert not placement.fenced(clock.now())
    clock.advance(0.2)
    assert placement.fenced(clock.now())
    assert placement.ready
    registry.view = view_of(1, "a")
    await eventually(lambda: not placement.fenced(clock.now()))


async def test_frozen_node_is_fenced_until_it_has_renewed(placement: Placement, clock: ManualClock) -> None:
    """A node that stood still for longer than its lease is fenced when it wakes, and comes back with nothing kept.

    Scenario 22.
    """
    registry = MemoryRegistry(clock)
    membership = RegistryMembership(registry, placement, clock, renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.ready)
    other = member("b")
    known = (await registry.renew(other, None)).view
    clock.advance(10.0)
    assert (await registry.renew(other, known)).view.members == (other,)
    assert placement.fenced(clock.now())
    membership.peer_view(other, view_of(9, "b"))
    await eventually(lambda: not placement.fenced(clock.now()))
    assert (placement.epoch, placement.ready, placement.follows, placement.unsettled) == (4, True, False, True)
    membership.peer_settled(other, 4)
    assert not placement.unsettled
    await membership.stop()


@pytest.mark.parametrize("replaced", [True, False])
async def test_successor_of_a_live_lease_waits_for_its_end(
    registry: Registry, placement: Placement, new: NewMembership, replaced: bool
) -> None:
    """If the registry says that a former incarnation's lease is not over, all keys wait for that end."""
    registry.replaced = replaced
    await new().start()
    await eventually(lambda: placement.ready)
    assert placement.unsettled == replaced
    placement.tick(100.0)
    placement.tick(104.5)
    assert not placement.unsettled


async def test_stop_resigns_says_farewell_and_gives_the_lease_back(
    registry: Registry, placement: Placement, new: NewMembership
) -> None:
    """A node ends its own service before its peers hear that it leaves, and that before the lease goes back."""
    states: list[tuple[bool, float]] = []
    farewell = registry.farewell

    async def spy() -> None:
        states.append((placement.ready, placement.lease_until))
        await farewell()

    registry.farewell = spy  # type: ignore[method-assign]
    membership = new()
    await membership.start()
    await eventually(lambda: placement.ready)
    await membership.stop()
    assert states[0] == (False, -math.inf)
    assert registry.done == ["farewell", "leave", "farewell"]
    assert placement.fenced(0.0)


async def test_unsettled_node_lets_its_lease_run_out(
    registry: Registry, placement: Placement, new: NewMembership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that stops while others may act for what it has gained says nothing, and does not give its lease back."""
    monkeypatch.setattr("cachenode.node.membership.SETTLE_S", 0.01)
    registry.view = view_of(4, "a", "b")
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.ready)
    await membership.stop()
    assert (registry.done, placement.ready) == ([], False)


async def test_node_without_a_view_leaves_nothing(registry: Registry, placement: Placement, new: NewMembership) -> None:
    """A node that stops before it has a view does not give back a lease that may have taken the place of another's."""
    registry.view = view_of(4, "a", "b")
    registry.gate.clear()  # it has been asked, and its answer is on the way
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: registry.known)
    await membership.stop()
    assert (registry.done, placement.view) == ([], None)


async def test_leaving_node_waits_a_moment_to_be_settled(
    registry: Registry, placement: Placement, new: NewMembership
) -> None:
    """The words of peers that come while a node stops let it leave in good order."""
    registry.view = view_of(4, "a", "b")
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.ready)
    stopping = asyncio.create_task(membership.stop())
    await eventually(lambda: not placement.ready)
    membership.peer_settled(member("b"), 4)
    await stopping
    assert registry.done == ["farewell", "leave", "farewell"]


async def test_peers_words_and_links_reach_the_placement(
    registry: Registry, placement: Placement, new: NewMembership
) -> None:
    """What the links tell about peers decides when gained keys are settled."""
    registry.view = view_of(4, "a", "b", "c")
    membership = new(renew_s=3_600.0)
    await membership.start()
    await eventually(lambda: placement.ready)
    membership.peer_up(member("b"))
    membership.peer_alive(member("b"), 0.0)
    membership.peer_settled(member("b"), 4)
    assert placement.unsettled
    membership.peer_down(member("b"))
    membership.peer_leaving(member("c"))
    assert not placement.unsettled
