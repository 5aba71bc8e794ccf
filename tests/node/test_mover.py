"""What happens to memory when the view changes."""

from __future__ import annotations

from cachenode.node.service import Node
from cachenode_api.ring import Ring
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, fetch, new_node, owned_by, put, view_of


async def filled(count: int = 300) -> tuple[Node, list[bytes]]:
    """Return a lone node with some entries."""
    node = new_node("a", ManualClock(), peers=DirectPeers())
    keys = [b"key-%d" % number for number in range(count)]
    for key in keys:
        await put(node, key, b"v")
    return node, keys


async def test_moved_keys_are_dropped_in_slices() -> None:
    """After a view change the keys of the other member go, slice by slice, and this node's stay."""
    node, keys = await filled()
    both = view_of(2, "a", "b")
    node.placement.apply(both)
    assert node.mover.moving
    steps = 0
    while node.mover.moving:
        node.mover.step(100)
        steps += 1
    ring = Ring(both)
    own = [key for key in keys if ring.owner(key) == "a"]
    store = node.namespaces.get("default").store
    assert steps >= 3
    assert len(store) == len(own)
    assert node.mover.moved == len(keys) - len(own)
    assert all(store.peek(key, 0.0) for key in own)


async def test_hits_are_checked_while_moving() -> None:
    """A key that has moved away is not answered from memory even before the walk reaches it."""
    node, keys = await filled()
    both = view_of(2, "a", "b")
    node.placement.apply(both)
    moved = next(key for key in keys if Ring(both).owner(key) == "b")
    assert await fetch(node, moved) != b"v"


async def test_key_that_moved_away_and_back_is_dropped() -> None:
    """A copy from before is not served after the key was another's for one view, though the walk had not reached it."""
    node, keys = await filled()
    both = view_of(2, "a", "b")
    node.placement.apply(both)
    node.placement.apply(view_of(3, "a"))
    moved = next(key for key in keys if Ring(both).owner(key) == "b")
    kept = next(key for key in keys if Ring(both).owner(key) == "a")
    assert await fetch(node, moved) is None
    assert await fetch(node, kept) == b"v"
    while node.mover.moving:
        node.mover.step(50)
    assert await fetch(node, kept) == b"v"
    assert not node.namespaces.get("default").store.peek(moved, 0.0)


async def test_gap_in_epochs_drops_everything() -> None:
    """A view that this node never saw may have moved any key, so nothing is kept."""
    node, keys = await filled(50)
    node.placement.apply(view_of(3, "a"))
    assert len(node.namespaces.get("default").store) == 0
    assert not node.mover.moving
    assert node.mover.moved == len(keys)


async def test_view_change_voids_fills() -> None:
    """What was read under the former view may not be stored under the new one."""
    node, _ = await filled(1)
    fills = node.namespaces.get("default").fills
    (token,) = fills.begin([b"x"])
    node.placement.apply(view_of(2, "a", "b"))
    assert not fills.settle(b"x", token)


async def test_older_view_changes_nothing() -> None:
    """A view of the same or a lower epoch is not applied."""
    node, _ = await filled(10)
    assert not node.placement.apply(view_of(1, "a", "b"))
    assert len(node.namespaces.get("default").store) == 10


async def test_joiner_takes_its_share() -> None:
    """A member that joins takes about 1/N of the keys, and only keys that it now owns."""
    _, keys = await filled(2_000)
    before, after = view_of(2, "a", "b", "c"), view_of(3, "a", "b", "c", "d")
    moved = [key for key in keys if Ring(before).owner(key) != Ring(after).owner(key)]
    assert {Ring(after).owner(key) for key in moved} == {"d"}
    assert 0.75 <= len(moved) / (len(keys) / 4) <= 1.25
    assert owned_by(after, "d")
