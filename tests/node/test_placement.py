from __future__ import annotations

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
