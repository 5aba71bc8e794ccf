from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from cachenode.node.placement import Placement
from cachenode_api.ring import Ring
from cachenode_api.view import View
from tests.support.cluster import SEED, member, view_of

KEYS = [b"k%d" % number for number in range(200)]


def test_nothing_before_the_first_view() -> None:
    """Without a view the node is not ready, owns nothing and knows no owner."""
    placement = Placement(member("a"))
    assert (placement.epoch, placement.ready, placement.alone) == (0, False, False)
    assert placement.owner(b"k") is None
    assert not placement.owns(b"k")


def test_only_newer_views_are_taken() -> None:
    """A view with the same or a lower epoch changes nothing and tells nobody."""
    placement = Placement(member("a"))
    told: list[tuple[int, int]] = []
    placement.listeners.append(lambda former, view: told.append((former.epoch if former else 0, view.epoch)))
    assert placement.apply(view_of(5, "a"))
    assert not placement.apply(view_of(5, "a", "b"))
    assert not placement.apply(view_of(4, "a", "b"))
    assert placement.alone
    assert placement.apply(view_of(6, "a", "b"))
    assert told == [(0, 5), (5, 6)]
    assert placement.epoch == 6


def test_view_is_in_force_when_it_is_told() -> None:
    """Listeners see the new view already in force."""
    placement = Placement(member("a"))
    seen: list[tuple[int, bool]] = []
    placement.listeners.append(lambda _former, view: seen.append((placement.epoch, placement.ready)))
    placement.apply(view_of(3, "a"))
    assert seen == [(3, True)]


def test_ready_is_for_this_incarnation() -> None:
    """A view that names a former life of the node does not make it ready, nor does one that leaves it out."""
    placement = Placement(member("a", "2"))
    placement.apply(View(1, SEED, (member("a", "1"),)))
    assert not placement.ready
    placement.apply(View(2, SEED, (member("a", "2"),)))
    assert placement.ready
    placement.apply(view_of(3, "b"))
    assert not placement.ready


def test_owners_are_the_rings() -> None:
    """Owners are those of the ring under the view in force, alone or not."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a"))
    assert {placement.owner(key) for key in KEYS} == {"a"}
    view = view_of(2, "a", "b", "c")
    placement.apply(view)
    ring = Ring(view)
    assert [placement.owner(key) for key in KEYS] == [ring.owner(key) for key in KEYS]
    assert [placement.owns(key) for key in KEYS] == [ring.owner(key) == "a" for key in KEYS]


def test_alone_needs_to_be_the_member_itself() -> None:
    """A view of one other member is not this node's alone."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "b"))
    assert not placement.alone
    assert placement.owner(b"k") == "b"


def test_next_epoch_follows() -> None:
    """The next epoch follows the former one and a gap does not, unless the caller knows better."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a"))
    assert placement.follows
    placement.apply(view_of(3, "a"))
    assert not placement.follows
    placement.apply(view_of(103, "a"), follows=True)
    assert placement.follows
    placement.apply(view_of(104, "a"), follows=False)
    assert not placement.follows


def keys_gained(placement: Placement) -> int:
    return sum(placement.gained(key) for key in KEYS)


def test_first_view_waits_for_all_others() -> None:
    """A node without a former view acts for none of its keys until all others have given their word."""
    placement = Placement(member("a"))
    placement.apply(view_of(5, "a", "b", "c"))
    owned = sum(placement.owns(key) for key in KEYS)
    assert (placement.unsettled, keys_gained(placement)) == (True, owned)
    placement.peer_settled("b", "1", 5)
    placement.peer_settled("c", "1", 4)
    assert placement.unsettled
    placement.peer_settled("c", "1", 6)
    assert (placement.unsettled, keys_gained(placement)) == (False, 0)


def test_gained_are_the_keys_that_were_not_owned_before() -> None:
    """When a member leaves, its keys that come here are gained; those that were here are not, nor those of others."""
    placement = Placement(member("a"))
    former = view_of(1, "a", "b", "c")
    placement.apply(former)
    for name in "bc":
        placement.peer_settled(name, "1", 1)
    placement.apply(view_of(2, "a", "c"))
    before = Ring(former)
    for key in KEYS:
        assert placement.gained(key) == (placement.owns(key) and before.owner(key) != "a")
    placement.peer_settled("c", "1", 2)
    assert not placement.unsettled


def test_nothing_gained_nothing_to_wait_for() -> None:
    """A view in which only others gain leaves a node settled."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a"))
    placement.apply(view_of(2, "a", "b"))
    assert not placement.unsettled
    assert keys_gained(placement) == 0


def test_lease_is_compared_at_use() -> None:
    """A node is fenced from the very moment at which its lease ends, and without others never."""
    placement = Placement(member("a"))
    assert not placement.fenced(1e12)
    placement.set_lease(50.0)
    assert not placement.fenced(49.9)
    assert placement.fenced(50.0)


async def test_resigned_is_for_good() -> None:
    """A node that has resigned is not ready and fenced, whatever views, leases and releases still come."""
    placement = Placement(member("a"))
    never = asyncio.Event()

    async def hook(view: View) -> None:
        await never.wait()

    placement.releasing.append(hook)
    placement.apply(view_of(1, "a"))
    placement.resign()
    placement.set_lease(1e9)
    placement.apply(view_of(2, "a"))
    placement.resign()
    assert (placement.ready, placement.fenced(0.0), placement.released_epoch) == (False, True, 0)


async def test_settle_wakes_all_who_wait() -> None:
    """Whoever waits for the gained keys is woken by the last word, and not before; later callers do not wait.

    Scenario 24.
    """
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a", "b"))
    waiting = [asyncio.create_task(placement.settle()) for _ in range(3)]
    left = asyncio.create_task(placement.settle())
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    placement.tick(10.0)
    placement.tick(14.3)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    placement.tick(14.4)
    await asyncio.gather(*waiting)
    await placement.settle()
    assert not placement._settled


async def test_settle_goes_on_waiting_if_more_is_gained() -> None:
    """Who is woken when a newer view has already brought more keys waits on."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a", "b"))
    waiting = asyncio.create_task(placement.settle())
    await asyncio.sleep(0)
    placement.peer_settled("b", "1", 1)
    placement.peer_linked(member("b"))
    placement.apply(view_of(2, "a"))
    await asyncio.sleep(0)
    assert not waiting.done()
    placement.peer_settled("b", "1", 2)
    await waiting


def test_without_hooks_the_word_is_given_at_once() -> None:
    """If nothing is to be released a view is released in the turn in which it comes in force, after its listeners."""
    placement = Placement(member("a"))
    told: list[str] = []
    placement.listeners.append(lambda _former, view: told.append(f"view {view.epoch}"))
    placement.release_listeners.append(lambda epoch: told.append(f"settled {epoch}"))
    placement.releasing.append(lambda view: None)
    placement.apply(view_of(3, "a"))
    assert told == ["view 3", "settled 3"]
    assert (placement.released_epoch, placement.settled_epoch) == (3, 3)


async def test_word_waits_for_all_hooks() -> None:
    """The peers are told when the last hook has ended, and a hook that was overtaken by a newer view counts no more."""
    placement = Placement(member("a"))
    told: list[int] = []
    gates = {1: asyncio.Event(), 2: asyncio.Event()}
    ended: list[int] = []

    async def slow(view: View) -> None:
        await gates[view.epoch].wait()
        ended.append(view.epoch)

    async def quick(view: View) -> None:
        pass

    placement.releasing += [slow, quick]
    placement.release_listeners.append(told.append)
    placement.apply(view_of(1, "a"))
    await asyncio.sleep(0)
    placement.apply(view_of(2, "a", "b"))
    gates[1].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (told, ended) == ([], [])
    gates[2].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (told, ended, placement.released_epoch) == ([2], [2], 2)


async def test_failed_hook_gives_no_word() -> None:
    """If what is left cannot be ended the peers are not told that it is, and the log says why."""
    placement = Placement(member("a"))

    async def broken(view: View) -> None:
        raise RuntimeError

    placement.releasing.append(broken)
    with capture_logs() as logs:
        placement.apply(view_of(1, "a"))
        for _ in range(5):
            await asyncio.sleep(0)
    assert [(line["event"], line["error_type"]) for line in logs] == [("release_failed", "RuntimeError")]
    assert placement.settled_epoch == 0


def test_word_does_not_go_beyond_what_is_waited_for() -> None:
    """What was gained under an earlier view and is not settled keeps the word for a later one back."""
    placement = Placement(member("a"))
    told: list[int] = []
    placement.release_listeners.append(told.append)
    placement.apply(view_of(1, "a", "b"))
    placement.apply(view_of(2, "a", "b", "c"))
    assert (told, placement.released_epoch) == ([1], 2)
    placement.peer_settled("b", "1", 1)
    assert told == [1, 2]


def test_acquired_are_the_keys_that_came_with_the_view() -> None:
    """What this node owns and did not own under the view before; everything if it has missed one or has none."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a", "b"))
    assert all(placement.acquired(key) == placement.owns(key) for key in KEYS)
    former = Ring(view_of(1, "a", "b"))
    placement.apply(view_of(2, "a"))
    assert all(placement.acquired(key) == (former.owner(key) != "a") for key in KEYS)
    placement.apply(view_of(4, "a"))
    assert all(placement.acquired(key) for key in KEYS)


def test_lease_of_who_has_resigned_is_remembered() -> None:
    """Who resigns is fenced, but what it has is good until its lease would have ended; an ended one stays so."""
    placement = Placement(member("a"))
    placement.apply(view_of(1, "a", "b"))
    placement.set_lease(50.0)
    assert (placement.outlived(49.9), placement.outlived(50.0)) == (False, True)
    placement.resign()
    placement.resign()
    assert placement.fenced(0.0)
    assert (placement.outlived(49.9), placement.outlived(50.0)) == (False, True)


async def test_successors_are_those_of_the_next_view() -> None:
    """Who has resigned learns from a peer who has its keys; a view that skips one ends the wait without an answer."""
    for epoch, known in ((2, True), (3, False)):
        placement = Placement(member("a"))
        placement.apply(view_of(1, "a", "b"))
        placement.peer_view(view_of(2, "b"))
        assert placement.successors is None
        placement.resign()
        placement.peer_view(view_of(1, "b"))
        placement.peer_view(view_of(2, "a", "b", "c"))
        waiting = asyncio.create_task(placement.succession(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        placement.peer_view(view_of(epoch, "b"))
        await waiting
        assert (placement.successors is not None) == known


async def test_nobody_succeeds_where_all_leave() -> None:
    """Who has never had a view, is alone, or is left by all others does not wait; and nobody waits for ever."""
    await Placement(member("a")).succession(60.0)
    alone = Placement(member("a"))
    alone.apply(view_of(1, "a"))
    alone.resign()
    await alone.succession(60.0)
    left = Placement(member("a"))
    left.apply(view_of(1, "a", "b", "c"))
    left.resign()
    waiting = asyncio.create_task(left.succession(60.0))
    left.peer_left(member("b"))
    await asyncio.sleep(0)
    assert not waiting.done()
    left.peer_left(member("c"))
    await waiting
    late = Placement(member("a"))
    late.apply(view_of(1, "a", "b"))
    late.resign()
    await late.succession(0.0)
    assert (alone.successors, left.successors, late.successors) == (None, None, None)
