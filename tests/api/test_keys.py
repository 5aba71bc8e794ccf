"""Canonical keys and names of namespaces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.errors import ContractError, InvalidKey, InvalidNamespace
from cachenode_api.keys import DEFAULT_NAMESPACE, MAX_KEY_BYTES, canonical_key, check_namespace


class Name(str):
    __slots__ = ()


class Raw(bytes):
    __slots__ = ()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_KEY_BYTES // 4))
def test_text_and_its_bytes_are_one_key(text: str) -> None:
    """A string means its UTF-8 bytes, in whatever type it comes."""
    raw = text.encode()
    for key in (text, raw, Name(text), Raw(raw), bytearray(raw), memoryview(raw)):
        found = canonical_key(key)
        assert found == raw
        assert type(found) is bytes


def test_a_changed_buffer_does_not_change_the_key() -> None:
    """A mutable buffer is copied."""
    buffer = bytearray(b"key")
    key: Any = buffer
    found = canonical_key(key)
    buffer[0] = 0
    assert found == b"key"


def test_different_unicode_forms_are_different_keys() -> None:
    """Keys are bytes and are not normalised."""
    assert canonical_key("\u00e9") != canonical_key("e\u0301")


def test_the_limit_counts_bytes_and_is_exact() -> None:
    """1,024 bytes are accepted, one more is not, and a character counts with all its bytes."""
    assert MAX_KEY_BYTES == 1024
    assert len(canonical_key("é" * 512)) == 1024
    for key in (b"x" * 1025, "é" * 512 + "x"):
        with pytest.raises(InvalidKey) as caught:
            canonical_key(key)
        assert str(caught.value) == "key: 1,025 bytes exceed the limit of 1,024 bytes"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "key: must not be empty"),
        (b"", "key: must not be empty"),
        (5, "key: must be str or bytes, not int"),
        (None, "key: must be str or bytes, not NoneType"),
        (("canary",), "key: must be str or bytes, not tuple"),
        pytest.param("canary\udc00", "key: not encodable as UTF-8 (it holds a lone surrogate)", id="surrogate"),
    ],
)
def test_what_is_no_key(key: Any, text: str) -> None:
    """The text names the field and the limit, never the key."""
    with pytest.raises(InvalidKey) as caught:
        canonical_key(key)
    assert str(caught.value) == text
    assert isinstance(caught.value, ContractError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["a", "default", "0", "a-b_c.d", "x" * 64])
def test_names_of_namespaces(name: str) -> None:
    """A valid name is returned as it is."""
    assert check_namespace(name) == name


def test_the_empty_namespace_is_the_default() -> None:
    """On the wire, an empty name means the default namespace."""
    assert check_namespace("") == DEFAULT_NAMESPACE == "default"


@pytest.mark.parametrize("name", ["x" * 65, "Canary", "-a", ".a", "_a", "a b", "a\n", "a/b", "ä", "a:b", "a\0"])
def test_what_is_no_namespace(name: str) -> None:
    """Names outside the form are refused without being quoted."""
    with pytest.raises(InvalidNamespace) as caught:
        check_namespace(name)
    assert str(caught.value) == "namespace: must be 1 to 64 of a-z 0-9 _ . - and begin with a letter or digit"
