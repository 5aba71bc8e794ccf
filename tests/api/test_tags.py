"""Tags: their canonical form and the block in which they stand before a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.errors import ContractError, InvalidTags
from cachenode_api.tags import MAX_TAG_BYTES, MAX_TAGS, canonical_tags, pack_tags, split_tags, tags_length

TAG = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_TAG_BYTES // 4)


@given(st.lists(TAG, max_size=MAX_TAGS), st.binary(max_size=64))
def test_a_block_is_read_back(tags: list[str], value: bytes) -> None:
    """What was packed before a value is found again, and so is the value."""
    found = canonical_tags(tags)
    block = pack_tags(found)
    assert tags_length(block + value) == len(block)
    assert split_tags(block + value) == (found, value)


@given(st.binary(max_size=80))
def test_any_bytes_are_split_or_refused(value: bytes) -> None:
    """Whatever comes, it is a well-formed block, which packs to the same bytes, or it is refused."""
    try:
        tags, rest = split_tags(value)
    except InvalidTags:
        return
    assert pack_tags(tags) + rest == value


def test_the_layout() -> None:
    """The block is the documented one, byte for byte."""
    assert pack_tags((b"ab", "é".encode())).hex() == "0600" + "02" + "6162" + "02" + "c3a9"
    assert pack_tags(()).hex() == "0000"


def test_tags_are_sorted_and_each_is_there_once() -> None:
    """Order and repetition mean nothing, so they leave no trace; any iterable will do."""
    assert canonical_tags(["b", "a", "b"]) == canonical_tags({"a", "b"}) == canonical_tags(iter("ab")) == (b"a", b"b")
    assert canonical_tags(()) == ()


def test_the_largest_block() -> None:
    """As many tags as may be, each as long as may be, fit in a block."""
    tags = canonical_tags(f"{number:0128}" for number in range(MAX_TAGS))
    assert split_tags(pack_tags(tags) + b"v") == (tags, b"v")


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ("canary", "tags: must be several strings, as in a list or set, not one str"),
        (b"canary", "tags: must be several strings, as in a list or set, not one bytes"),
        (5, "tags: must be an iterable of str, not int"),
        (None, "tags: must be an iterable of str, not NoneType"),
        ([b"canary"], "tag: must be str, not bytes"),
        ([("canary",)], "tag: must be str, not tuple"),
        (["a", ""], "tag: must not be empty"),
        (["é" * 65], "tag: 130 bytes exceed the limit of 128 bytes"),
        ([f"canary {number}" for number in range(33)], "tags: 33 exceed the limit of 32"),
        pytest.param(["canary\udc00"], "tag: not encodable as UTF-8 (it holds a lone surrogate)", id="surrogate"),
    ],
)
def test_what_are_no_tags(tags: Any, text: str) -> None:
    """The text names the field, the limit and the size, never the tag."""
    with pytest.raises(InvalidTags) as caught:
        canonical_tags(tags)
    assert str(caught.value) == text
    assert isinstance(caught.value, ContractError)
    assert isinstance(caught.value, ValueError)


def test_an_error_of_the_caller_is_not_disguised() -> None:
    """What an iterable itself raises comes through."""

    def broken() -> Any:
        yield "a"
        raise TypeError("the caller's own")

    with pytest.raises(TypeError, match="the caller's own"):
        canonical_tags(broken())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "tags: the block before the value is not well formed"),
        (b"\1", "tags: the block before the value is not well formed"),
        (b"\2\0\1", "tags: the block before the value is not well formed"),
        (b"\2\0\2a" + b"value", "tags: the block before the value is not well formed"),
        (b"\1\0\0", "tag: 0 bytes are outside the limits of 1 to 128 bytes"),
        (b"\x82\0\x81" + b"a" * 129, "tag: 129 bytes are outside the limits of 1 to 128 bytes"),
        (b"\2\0\1\xff", "tag: must be UTF-8"),
        (pack_tags([b"a"] * 33), "tags: 33 exceed the limit of 32"),
    ],
)
def test_malformed_blocks(value: bytes, text: str) -> None:
    """A block that no client packs is refused, and nothing beyond it is taken for a tag."""
    with pytest.raises(InvalidTags) as caught:
        split_tags(value)
    assert str(caught.value) == text
