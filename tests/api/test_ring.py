"""The ring: placement that both ends, and other languages, compute alike."""

from __future__ import annotations

import json
from bisect import bisect_right
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uhashring import HashRing

from cachenode_api.ring import Ring
from cachenode_api.view import Member, View

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "ring_vectors.json").read_text(encoding="utf-8"))
KEYS = [f"user:{number}".encode() for number in range(5000)]

weights = st.dictionaries(
    st.sampled_from([f"node-{at}" for at in range(12)]), st.integers(1, 3), min_size=1, max_size=5
)
keys = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30)


def ring(members: dict[str, int], *, seed: bytes = b"seed", vnodes: int = 160) -> Ring:
    return Ring(View(1, seed, tuple(Member(name, "", "", weight=at) for name, at in members.items()), vnodes=vnodes))


def even(count: int) -> dict[str, int]:
    return {f"node-{at}": 1 for at in range(count)}


class Model:
    """The ring as its docstring describes it, written without its code and without uhashring."""

    def __init__(self, members: dict[str, int], seed: bytes, vnodes: int) -> None:
        self.seed = seed
        labels = [(name, f"{name}-{at}") for name, weight in members.items() for at in range(vnodes * weight)]
        self.points = sorted((self.hash(label.encode()), name) for name, label in labels)

    def hash(self, key: bytes) -> int:
        return int.from_bytes(blake2b(key, digest_size=8, key=self.seed).digest(), "big")

    def walk(self, key: bytes) -> list[str]:
        at = bisect_right([point for point, _ in self.points], self.hash(key))
        return list(dict.fromkeys(name for _, name in self.points[at:] + self.points[:at]))


@given(weights, keys, st.binary(max_size=64), st.integers(1, 20))
def test_the_ring_is_what_its_docstring_says(
    members: dict[str, int], some: list[bytes], seed: bytes, vnodes: int
) -> None:
    """Hash, owner and followers equal those of a model written from the description alone."""
    real, model = ring(members, seed=seed, vnodes=vnodes), Model(members, seed, vnodes)
    for key in some:
        assert real.hash(key) == model.hash(key)
        assert real.owner(key) == model.walk(key)[0]
        for count in range(1, len(members) + 2):
            assert real.owners(key, count) == model.walk(key)[:count]


@given(weights, keys)
def test_placement_is_uhashrings(members: dict[str, int], some: list[bytes]) -> None:
    """The quick look-up gives the owner that uhashring's own get_node gives."""
    ours = ring(members)

    def position(key: str | bytes) -> int:
        return ours.hash(key.encode() if isinstance(key, str) else key)

    theirs = HashRing(nodes={name: {"weight": at, "vnodes": 160} for name, at in members.items()}, hash_fn=position)
    assert [ours.owner(key) for key in some] == [theirs.get_node(key) for key in some]


@given(st.permutations(list(even(6))), keys)
def test_the_order_of_members_is_irrelevant(order: list[str], some: list[bytes]) -> None:
    """Two sides that learn the members in different orders agree."""
    one, two = ring(even(6)), ring(dict.fromkeys(order, 1))
    assert [one.owner(key) for key in some] == [two.owner(key) for key in some]


@pytest.mark.parametrize("count", range(1, 9))
def test_a_joining_member_takes_its_share_and_nothing_else_moves(count: int) -> None:
    """Every key that moves goes to the new member, and no more of them than 1.25 times the ideal share. Scenario 25."""
    before, after = ring(even(count)), ring(even(count + 1))
    moved = [key for key in KEYS if before.owner(key) != after.owner(key)]
    assert {after.owner(key) for key in moved} == {f"node-{count}"}
    assert len(moved) <= 1.25 * len(KEYS) / (count + 1)


@pytest.mark.parametrize("count", range(2, 9))
def test_only_the_keys_of_a_leaving_member_move(count: int) -> None:
    """Keys of those that stay do not move, and those of the one that left go to their next member."""
    before, after = ring(even(count)), ring({name: 1 for name in even(count) if name != "node-1"})
    for key in KEYS:
        expected = next(name for name in before.owners(key, 2) if name != "node-1")
        assert after.owner(key) == expected


@pytest.mark.parametrize("count", range(2, 9))
def test_no_member_owns_more_than_a_quarter_above_its_ideal(count: int) -> None:
    """Short sequential keys and the ring itself are spread evenly."""
    spread = ring(even(count))
    owned = [spread.owner(key) for key in KEYS]
    assert max(owned.count(name) for name in even(count)) <= 1.25 * len(KEYS) / count
    assert max(spread.shares().values()) <= 1.25 / count


def test_weights_are_shares() -> None:
    """A member of weight 3 owns about three times the part of one of weight 1."""
    shares = ring({"a": 1, "b": 3, "c": 1}).shares()
    assert shares["b"] == pytest.approx(0.6, abs=0.06)
    assert shares["a"] == pytest.approx(0.2, abs=0.05)


@given(weights, st.integers(1, 20))
def test_shares_add_up(members: dict[str, int], vnodes: int) -> None:
    """The parts of the ring are of the members, and make up the whole of it."""
    shares = ring(members, vnodes=vnodes).shares()
    assert set(shares) == set(members)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(part >= 0 for part in shares.values())


def test_a_share_is_the_part_of_keys() -> None:
    """What `shares` computes is what the keys find."""
    uneven = ring({"a": 1, "b": 2}, vnodes=3)
    owned = [uneven.owner(key) for key in KEYS]
    for name, share in uneven.shares().items():
        assert owned.count(name) / len(KEYS) == pytest.approx(share, abs=0.03)


def test_another_seed_is_another_placement() -> None:
    """Who does not know the seed cannot choose keys that meet on one member."""
    one, two = ring(even(4), seed=b"one"), ring(even(4), seed=b"two")
    stayed = sum(one.owner(key) == two.owner(key) for key in KEYS)
    assert 0.15 < stayed / len(KEYS) < 0.35


def test_an_empty_ring_has_no_owner() -> None:
    """Without members nobody owns anything, and nothing fails."""
    empty = ring({})
    assert empty.owner(b"key") is None
    assert empty.owners(b"key", 3) == []
    assert empty.shares() == {}
    assert repr(empty) == "<Ring epoch=1 members=0 points=0>"


def test_keys_beyond_the_last_point_belong_to_the_first() -> None:
    """The ring wraps around, and a key exactly on a point belongs to the next one."""
    small = ring({"a": 1, "b": 1}, vnodes=1)
    points = sorted((small.hash(f"{name}-0".encode()), name) for name in "ab")
    assert small.owner(f"{points[0][1]}-0".encode()) == points[1][1]
    assert small.owner(f"{points[1][1]}-0".encode()) == points[0][1]
    beyond = next(key for key in KEYS if small.hash(key) > points[1][0])
    assert small.owner(beyond) == points[0][1]


def test_a_representation_shows_no_seed() -> None:
    """The seed is a secret of the cluster as far as strangers are concerned."""
    assert repr(ring(even(2), seed=b"secret")) == "<Ring epoch=1 members=2 points=320>"


@pytest.mark.parametrize("case", VECTORS["cases"], ids=range(len(VECTORS["cases"])))
def test_published_vectors(case: dict[str, Any]) -> None:
    """The published vectors hold, both for the ring and for the model written from its description."""
    members = {member["id"]: member["weight"] for member in case["members"]}
    seed = bytes.fromhex(case["ring_seed"])
    real, model = ring(members, seed=seed, vnodes=case["vnodes"]), Model(members, seed, case["vnodes"])
    for point in case["points"]:
        assert real.hash(point["label"].encode()) == int(point["hash"], 16)
        assert int(point["hash"], 16) in [at for at, _ in model.points]
    for entry in case["keys"]:
        key = bytes.fromhex(entry["key"])
        assert real.hash(key) == model.hash(key) == int(entry["hash"], 16)
        assert real.owner(key) == model.walk(key)[0] == entry["owner"]
        assert real.owners(key, 2) == model.walk(key)[:2] == entry["owners"]


def test_vectors_cover_what_matters() -> None:
    """Weights, an empty and a longest seed, few points, ids and keys beyond ASCII are in the published file."""
    cases = VECTORS["cases"]
    assert VECTORS["ring_hash"] == "blake2b-64"
    assert {len(case["ring_seed"]) // 2 for case in cases} >= {0, 64}
    assert any(member["weight"] > 1 for case in cases for member in case["members"])
    assert any(not member["id"].isascii() for case in cases for member in case["members"])
    assert all(len(case["keys"]) >= 10 for case in cases)


def test_segments_are_of_the_owners() -> None:
    """A picture of the ring in equal parts shows each member about as large as its share; an empty ring has none."""
    built = ring({"a": 1, "b": 2, "c": 1})
    parts = built.segments(7_200)
    assert len(parts) == 7_200
    for member, share in built.shares().items():
        assert parts.count(member) / 7_200 == pytest.approx(share, abs=0.01)
    assert ring({}).segments(10) == []
