from __future__ import annotations

from cachenode.core.parting import Parcel, Parting
from cachenode_api.records import HEADER


def parcel(key: bytes, version: int = 1, size: int = 10) -> Parcel:
    return Parcel("n", key, HEADER.pack(0, 0, version, 99.0) + bytes(size), 0)


def test_hottest_first_and_of_those_the_youngest() -> None:
    """Each owner gets the hottest entries first, and of equally hot ones the highest versions; then nothing is left."""
    parting = Parting(1 << 20, 100)
    parting.add("b", parcel(b"cold", 9), 0)
    parting.add("b", parcel(b"hot-old", 1), 7)
    parting.add("c", parcel(b"warm", 5), 3)
    parting.add("b", parcel(b"hot-young", 2), 7)
    assert len(parting) == 4
    found = parting.by_owner()
    assert [each.key for each in found["b"]] == [b"hot-young", b"hot-old", b"cold"]
    assert [each.key for each in found["c"]] == [b"warm"]
    assert (len(parting), parting.used_bytes, parting.by_owner()) == (0, 0, {})


def test_coldest_make_room() -> None:
    """When there are too many, the one that has waited longest among the coldest goes."""
    parting = Parting(1 << 20, 3)
    for key, heat in ((b"cold-1", 0), (b"cold-2", 0), (b"hot-1", 5), (b"hot-2", 5)):
        parting.add("b", parcel(key), heat)
    assert {each.key for each in parting.by_owner()["b"]} == {b"cold-2", b"hot-1", b"hot-2"}


def test_bytes_are_limited() -> None:
    """No more bytes wait than allowed; what is larger than all of them does not wait, and nothing is left of it."""
    one = parcel(b"1", size=1_000)
    parting = Parting(2 * one.size, 100)
    for key in (b"1", b"2", b"3"):
        parting.add("b", parcel(key, size=1_000), 0)
    assert (len(parting), parting.used_bytes) == (2, 2 * one.size)
    parting.add("b", parcel(b"4", size=10_000), 0)
    assert (len(parting), parting.used_bytes) == (0, 0)
    assert "0 entries" in repr(parting)
