"""Views: member sets with an epoch."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from cachenode_api.errors import ContractError, InvalidView
from cachenode_api.view import RING_HASH, VNODES, Member, View

A = Member("a", "i1", "a:7401")
B = Member("b", "i2", "b:7401", "b:7402", weight=2)


def test_members_are_sorted_whatever_their_order() -> None:
    """Two views of the same members are equal, have one hash, and list them by id."""
    one, two = View(1, b"seed", (B, A)), View(1, b"seed", (A, B))
    assert one == two
    assert hash(one) == hash(two)
    assert one.members == (A, B)


def test_members_are_found_by_id() -> None:
    """The index holds every member."""
    assert View(1, b"", (B, A)).by_id == {"a": A, "b": B}


def test_defaults_are_those_of_the_protocol() -> None:
    """The ring's hash and number of points are part of the contract."""
    view = View(0, b"", ())
    assert (view.ring_hash, view.vnodes) == (RING_HASH, VNODES) == ("blake2b-64", 160)
    assert (A.weight, A.http_address, B.http_address) == (1, "", "b:7402")


def test_a_new_incarnation_is_another_member() -> None:
    """Identity is (id, incarnation, address)."""
    assert View(1, b"", (A,)) != View(1, b"", (replace(A, incarnation="i9"),))
    assert View(1, b"", (A,)) != View(1, b"", (replace(A, address="c:7401"),))


def test_views_differ_by_epoch_and_seed() -> None:
    """Equality compares everything that decides about placement."""
    view = View(1, b"seed", (A,))
    assert (
        len({view, replace_view(view, epoch=2), replace_view(view, ring_seed=b""), replace_view(view, vnodes=1)}) == 4
    )


def replace_view(view: View, **changes: object) -> View:
    fields: dict[str, object] = {"epoch": view.epoch, "ring_seed": view.ring_seed, "vnodes": view.vnodes, **changes}
    return View(members=view.members, **fields)  # type: ignore[arg-type]


def test_views_and_members_are_immutable() -> None:
    """What rings are built from never changes."""
    with pytest.raises(FrozenInstanceError):
        View(1, b"", ()).epoch = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        A.weight = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("members", "ring_hash", "text"),
    [
        ((A, replace(A, incarnation="i9")), RING_HASH, "view: two members share an id"),
        ((replace(A, weight=0),), RING_HASH, "view: a member's weight is below 1"),
        ((A,), "fnv-1", "view: unknown ring hash (this side knows blake2b-64)"),
    ],
)
def test_what_is_no_view(members: tuple[Member, ...], ring_hash: str, text: str) -> None:
    """A view that cannot be routed by is refused with the reason."""
    with pytest.raises(InvalidView) as caught:
        View(1, b"", members, ring_hash=ring_hash)
    assert str(caught.value) == text
    assert isinstance(caught.value, ContractError)
