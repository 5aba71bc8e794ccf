from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from cachenode.errors import RegistryError
from cachenode.node.membership import RegistryMembership
from cachenode.node.placement import Placement
from cachenode.ports import LOST_HISTORY_STRIDE
from cachenode_api.view import Member, View
from tests.support.cluster import member, view_of
from tests.support.eventually import eventually


class Registry:
    """A registry that says what the test says."""

    def __init__(self) -> None:
        self.view: View | None = view_of(1, "a")
        self.known: list[int] = []
        self.left: list[Member] = []
        self.closed = False

    async def renew(self, me: Member, known: View | None) -> View:
        self.known.append(known.epoch if known is not None else 0)
        if self.view is None:
            raise RegistryError("registry: away")
        return self.view

    async def leave(self, me: Member) -> None:
        if self.view is None:
            raise RegistryError("registry: away")
        self.left.append(me)

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
async def new(registry: Registry, placement: Placement) -> AsyncIterator[NewMembership]:
    """Makes memberships, stopped after the test."""
    made: list[RegistryMembership] = []

    def membership(renew_s: float = 0.001) -> RegistryMembership:
        made.append(RegistryMembership(registry, placement, renew_s=renew_s))
        return made[-1]

    yield membership
    for one in made:
        await one.stop()


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
