"""What every `Registry` does, whichever keeps the members."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cachenode.adapters.leases import Leases
from cachenode.adapters.leases_kubernetes import KubernetesLeases
from cachenode.adapters.leases_memory import MemoryLeases
from cachenode.adapters.redis_client import connect
from cachenode.adapters.registry_leases import LeaseRegistry
from cachenode.adapters.registry_memory import MemoryRegistry
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.errors import RegistryError
from cachenode.ports import Registry
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.lease_api import lease_api
from tests.support.redis_server import LEGS

SEED = b"0123456789abcdef"


class Meeting:
    """A registry under test with ways to let leases run and to make it forget."""

    def __init__(
        self,
        registry: Registry,
        run_leases: Callable[[float], Awaitable[None]],
        forget: Callable[[], Awaitable[None]],
    ) -> None:
        self.registry = registry
        self.run_leases = run_leases
        self.forget = forget

    async def renew(self, member: Member, known: View | None = None) -> View:
        return (await self.registry.renew(member, known)).view


def member(name: str, incarnation: str = "1", *, address: str = "", weight: int = 1, http: str = "") -> Member:
    return Member(name, incarnation, address or f"{name}:7401", http, weight)


def names(view: View) -> list[str]:
    return [each.id for each in view.members]


def memory_meeting() -> Meeting:
    clock = ManualClock()
    registry = MemoryRegistry(clock)

    async def run_leases(share: float) -> None:
        clock.advance(4.0 * share)

    async def forget() -> None:
        registry.__dict__.update(MemoryRegistry(clock).__dict__)

    return Meeting(registry, run_leases, forget)


def leases_meeting(leases: Leases, held: dict[str, Any]) -> Meeting:
    clock = ManualClock()
    registry = LeaseRegistry(leases, "tests", clock, timeout_s=5.0)

    async def run_leases(share: float) -> None:
        for _ in range(4):  # time counts while somebody looks
            clock.advance(share)
            registry._look(await leases.list(), registry._seen)

    async def forget() -> None:
        held.clear()

    return Meeting(registry, run_leases, forget)


@pytest.fixture(params=["memory", "leases", "kubernetes", *LEGS, "cluster"])
async def meeting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Meeting]:
    """Each implementation in turn."""
    if request.param == "memory":
        yield memory_meeting()
        return
    if request.param == "leases":
        memory = MemoryLeases()
        yield leases_meeting(memory, memory.held)
        return
    if request.param == "kubernetes":
        async with lease_api(tmp_path) as api:
            kubernetes = leases_meeting(KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0), api.leases)
            yield kubernetes
            await kubernetes.registry.close()
        return
    url = request.getfixturevalue("server_urls")(request.param)
    cluster = f"t{secrets.token_hex(6)}"
    client = connect(url, timeout_s=5.0, connect_timeout_s=5.0)
    leases = f"cn:{{{cluster}}}:leases"

    async def run_leases(share: float) -> None:
        for name in await client.hkeys(f"cn:{{{cluster}}}:members"):
            await client.zincrby(leases, -4_000 * share, name)

    async def forget() -> None:
        await client.delete(leases, f"cn:{{{cluster}}}:registry", f"cn:{{{cluster}}}:members")

    registry = RedisRegistry(client, cluster, timeout_s=5.0)
    yield Meeting(registry, run_leases, forget)
    await registry.close()


async def test_first_node_makes_a_cluster(meeting: Meeting) -> None:
    """The first join makes epoch 1 with a seed of 16 random bytes and that member, all its fields kept."""
    first = member("a", "i-1", address="10.0.0.1:7401", weight=3, http="10.0.0.1:7402")
    view = await meeting.renew(first)
    assert view.epoch == 1
    assert len(view.ring_seed) == 16
    assert view.members == (first,)


async def test_renewal_changes_nothing(meeting: Meeting) -> None:
    """Renewing a lease gives the same view again."""
    view = await meeting.renew(member("a"))
    assert await meeting.renew(member("a"), view) == view
    assert await meeting.renew(member("a")) == view


async def test_a_join_raises_the_epoch_and_keeps_the_seed(meeting: Meeting) -> None:
    """Every join is an epoch; all members get the same view."""
    one = await meeting.renew(member("a"))
    two = await meeting.renew(member("b"))
    assert (two.epoch, names(two), two.ring_seed) == (one.epoch + 1, ["a", "b"], one.ring_seed)
    assert await meeting.renew(member("a"), one) == two


async def test_concurrent_joins_end_in_one_view(meeting: Meeting) -> None:
    """Nodes that start at the same moment get one sequence of views, each with the node in it, and then agree."""
    joining = [member(f"n{index}") for index in range(8)]
    first = await asyncio.gather(*(meeting.renew(each) for each in joining))
    assert len(set(first)) == len({view.epoch for view in first}), "an epoch is of one view"
    assert all(each.id in view.by_id for each, view in zip(joining, first, strict=True))
    again = await asyncio.gather(*(meeting.renew(each, view) for each, view in zip(joining, first, strict=True)))
    assert len(set(again)) == 1
    assert names(again[0]) == sorted(each.id for each in joining)


async def test_expired_member_leaves_at_the_next_renewal(meeting: Meeting) -> None:
    """A member that did not renew within its lease is gone when anybody renews, and the epoch rises once."""
    await meeting.renew(member("a"))
    await meeting.renew(member("b"))
    await meeting.run_leases(0.6)
    kept = await meeting.renew(member("b"))
    assert names(kept) == ["a", "b"]
    await meeting.run_leases(0.6)
    view = await meeting.renew(member("b"), kept)
    assert (names(view), view.epoch) == (["b"], kept.epoch + 1)


async def test_expired_member_comes_back(meeting: Meeting) -> None:
    """A member that lost its lease joins again with a new epoch."""
    await meeting.renew(member("a"))
    before = await meeting.renew(member("b"))
    await meeting.run_leases(1.1)
    alone = await meeting.renew(member("b"), before)
    view = await meeting.renew(member("a"), before)
    assert (names(view), view.epoch) == (["a", "b"], alone.epoch + 1)


async def test_own_expiry_alone_is_no_change(meeting: Meeting) -> None:
    """A lone member that renews late is pruned and admitted in one step, so its view stays."""
    view = await meeting.renew(member("a"))
    await meeting.run_leases(1.5)
    again = await meeting.renew(member("a"), view)
    assert again == view


async def test_twin_is_refused_with_the_address_of_the_other(meeting: Meeting) -> None:
    """A live member with the same id elsewhere is named; the view is not touched. Scenario 31."""
    view = await meeting.renew(member("a", "1", address="10.0.0.1:7401"))
    with pytest.raises(RegistryError, match=r"10\.0\.0\.1:7401"):
        await meeting.renew(member("a", "2", address="10.0.0.2:7401"))
    assert await meeting.renew(member("a", "1", address="10.0.0.1:7401"), view) == view


async def test_twin_may_join_once_the_lease_has_ended(meeting: Meeting) -> None:
    """An id is free again when its holder's lease is over."""
    await meeting.renew(member("a", "1", address="10.0.0.1:7401"))
    await meeting.run_leases(1.1)
    view = await meeting.renew(member("a", "2", address="10.0.0.2:7401"))
    assert view.members == (member("a", "2", address="10.0.0.2:7401"),)
    assert view.epoch == 2


async def test_restart_replaces(meeting: Meeting) -> None:
    """The same id at the same address with another incarnation is a restart: it takes over at once."""
    await meeting.renew(member("b"))
    before = await meeting.renew(member("a", "1"))
    view = await meeting.renew(member("a", "2"))
    assert view.by_id["a"].incarnation == "2"
    assert view.epoch == before.epoch + 1


@pytest.mark.parametrize("changed", [member("a", address="elsewhere:1"), member("a", weight=2)])
async def test_new_address_or_weight_raises_the_epoch(meeting: Meeting, changed: Member) -> None:
    """The ring depends on weights and the links on addresses, so both make a new view."""
    before = await meeting.renew(member("a"))
    view = await meeting.renew(changed, before)
    assert (view.epoch, view.members) == (before.epoch + 1, (changed,))


async def test_new_http_address_raises_no_epoch(meeting: Meeting) -> None:
    """The HTTP address is told to others, but a ring does not depend on it."""
    before = await meeting.renew(member("a"))
    changed = member("a", http="a:9")
    view = await meeting.renew(changed, before)
    assert (view.epoch, view.members) == (before.epoch, (changed,))


async def test_leave(meeting: Meeting) -> None:
    """Who leaves is gone at once, and learns the view without it; leaving twice does nothing."""
    await meeting.renew(member("b"))
    before = await meeting.renew(member("a"))
    left = await meeting.registry.leave(member("a"))
    assert await meeting.registry.leave(member("a")) is None
    view = await meeting.renew(member("b"), before)
    assert (names(view), view.epoch) == (["b"], before.epoch + 1)
    assert left == view
    last = await meeting.registry.leave(member("b"))
    assert last is not None
    assert (last.members, last.epoch) == ((), view.epoch + 1)


async def test_leave_of_a_replaced_incarnation_does_nothing(meeting: Meeting) -> None:
    """A late goodbye of the old process does not remove the new one."""
    await meeting.renew(member("a", "1"))
    before = await meeting.renew(member("a", "2"))
    await meeting.registry.leave(member("a", "1"))
    assert await meeting.renew(member("a", "2"), before) == before


async def test_epoch_and_seed_outlive_all_members(meeting: Meeting) -> None:
    """A cluster that stopped whole goes on counting and keeps its ring."""
    before = await meeting.renew(member("a"))
    await meeting.registry.leave(member("a"))
    view = await meeting.renew(member("b"))
    assert view.epoch > before.epoch
    assert view.ring_seed == before.ring_seed


async def test_lost_history_goes_on_from_what_a_node_knows(meeting: Meeting) -> None:
    """An empty registry takes the known members over: nobody becomes a cluster of one, no epoch is given out twice.

    Scenario 33.
    """
    await meeting.renew(member("b"))
    known = await meeting.renew(member("a"))
    await meeting.forget()
    view = await meeting.renew(member("a"), known)
    assert view.epoch > known.epoch + 10, "others may know a few epochs more than this node"
    assert view.ring_seed == known.ring_seed
    assert names(view) == ["a", "b"]
    assert await meeting.renew(member("b"), known) == view


async def test_members_taken_over_get_fresh_leases(meeting: Meeting) -> None:
    """The dead among the taken over leave when those leases end."""
    await meeting.renew(member("b"))
    known = await meeting.renew(member("a"))
    await meeting.forget()
    await meeting.renew(member("a"), known)
    await meeting.run_leases(0.9)
    assert names(await meeting.renew(member("a"))) == ["a", "b"]
    await meeting.run_leases(0.2)
    assert names(await meeting.renew(member("a"))) == ["a"]


async def test_newcomer_before_the_old_nodes_after_a_loss(meeting: Meeting) -> None:
    """A node that joins the emptied registry first is in the common view, with the old seed, once an old one renews."""
    await meeting.renew(member("b"))
    known = await meeting.renew(member("a"))
    await meeting.forget()
    new = await meeting.renew(member("c"))
    view = await meeting.renew(member("a"), known)
    assert view.epoch > max(known.epoch, new.epoch)
    assert view.ring_seed == known.ring_seed
    assert names(view) == ["a", "b", "c"]
    assert await meeting.renew(member("c"), new) == view


@pytest.mark.parametrize(("others", "expected"), [("x", "abx"), ("", "ab"), ("bx", "abx")])
async def test_same_epoch_with_other_members_is_a_loss(meeting: Meeting, others: str, expected: str) -> None:
    """Two histories that reached the same epoch are told apart by their members, and joined above both."""
    await meeting.renew(member("a"))
    await meeting.renew(member("b"))
    known = View(2, SEED, (member("a"), *map(member, others)))
    view = await meeting.renew(member("a"), known)
    assert view.epoch > 2
    assert names(view) == list(expected)


async def test_known_view_of_the_past_is_no_loss(meeting: Meeting) -> None:
    """A node that was away and knows an old view brings nobody back."""
    await meeting.renew(member("b"))
    old = await meeting.renew(member("a"))
    await meeting.registry.leave(member("b"))
    view = await meeting.renew(member("a"), old)
    assert names(view) == ["a"]
    assert view.epoch == old.epoch + 1


async def test_own_past_incarnation_is_not_taken_over(meeting: Meeting) -> None:
    """A node that knows a view with an older incarnation of itself joins as what it is now."""
    known = View(7, SEED, (member("a", "old", address="old:1"), member("b")))
    view = await meeting.renew(member("a", "new"), known)
    assert view.by_id["a"] == member("a", "new")
    assert view.epoch > 7


async def test_close_twice(meeting: Meeting) -> None:
    """Closing is safe to repeat."""
    await meeting.registry.close()
    await meeting.registry.close()


async def test_restart_within_the_lease_is_told(meeting: Meeting) -> None:
    """Who takes the place of an incarnation whose lease is not over is told so, once; nobody else is."""
    assert not (await meeting.registry.renew(member("b"), None)).replaced
    assert not (await meeting.registry.renew(member("a", "1"), None)).replaced
    assert not (await meeting.registry.renew(member("a", "1"), None)).replaced
    renewal = await meeting.registry.renew(member("a", "2"), None)
    assert renewal.replaced
    assert not (await meeting.registry.renew(member("a", "2"), renewal.view)).replaced
    assert not (await meeting.registry.renew(member("b"), renewal.view)).replaced


async def test_restart_after_the_lease_replaces_nothing(meeting: Meeting) -> None:
    """An incarnation whose lease is over, or was given back, cannot act any more."""
    await meeting.renew(member("a", "1"))
    await meeting.run_leases(1.1)
    assert not (await meeting.registry.renew(member("a", "2"), None)).replaced
    await meeting.registry.leave(member("a", "2"))
    assert not (await meeting.registry.renew(member("a", "3"), None)).replaced
