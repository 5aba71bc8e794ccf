"""References of parents: what may be one, and how several travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.dependencies import (
    MAX_PARENTS,
    Parent,
    canonical_parents,
    pack_references,
    parent_of,
    reference_of,
    split_references,
)
from cachenode_api.errors import ContractError, InvalidDependencies


def test_parents_of_this_and_other_namespaces() -> None:
    """A key alone is of the entry's own namespace, whatever slashes it has; each parent counts once."""
    parents: list[str | bytes | Parent | tuple[str, bytes]] = ["a/b", b"a/b", Parent("users", "u"), ("users", b"u")]
    assert canonical_parents(parents, "posts") == (b"posts/a/b", b"users/u")
    assert canonical_parents(["k"], "") == (b"default/k",)
    assert parent_of(b"posts/a/b") == ("posts", b"a/b")


@pytest.mark.parametrize(
    "parents",
    ["k", b"k", Parent("users", "u"), 7, [7], [("users", "u", "v")], [("No Name", "u")], [""], ["k" * 1_025], [None]],
)
def test_what_is_no_parent_is_refused(parents: object) -> None:
    """A single string above all: its letters would be parents."""
    with pytest.raises(ContractError):
        canonical_parents(parents, "posts")  # type: ignore[arg-type]


def test_too_many_parents() -> None:
    """The limit is told, and how many there are."""
    assert len(canonical_parents([str(at) for at in range(MAX_PARENTS)], "n")) == MAX_PARENTS
    with pytest.raises(InvalidDependencies, match="33 keys exceed the limit of 32"):
        canonical_parents([str(at) for at in range(MAX_PARENTS + 1)], "n")


@given(st.lists(st.binary(min_size=1, max_size=1_024), max_size=40))
def test_blocks_give_back_what_they_hold(keys: list[bytes]) -> None:
    """In order, whatever bytes the keys are."""
    references = [reference_of("n", key) for key in keys]
    assert split_references(pack_references(references)) == tuple(references)


@pytest.mark.parametrize("block", [b"\x01", b"\x05\x00abc", b"\x03\x00abc", b"\x02\x00a/", b"\x03\x00A/k"])
def test_malformed_blocks_are_refused(block: bytes) -> None:
    """Cut short, without a namespace, or with one that is none."""
    with pytest.raises(InvalidDependencies):
        split_references(block)


def test_blocks_have_a_limit() -> None:
    """Longer ones are refused as a whole."""
    with pytest.raises(InvalidDependencies, match="3 keys exceed the limit of 2"):
        split_references(pack_references([b"n/a", b"n/b", b"n/c"]), 2)
