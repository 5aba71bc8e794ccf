"""Checks of arguments: limits to the byte and the millisecond, texts without data."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.records import NO_TTL_MS
from cachenode_client import InvalidArgument, InvalidKey, InvalidNamespace, InvalidTtl
from cachenode_client._checks import checked_key, checked_namespace, checked_timeout, checked_ttl, sdk_version

CENTURY_S = 100 * 365 * 86_400


class Text(str):
    """A string of a class of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("k", b"k"),
        (b"k", b"k"),
        ("ü", b"\xc3\xbc"),
        (Text("k"), b"k"),
        (b"\x00", b"\x00"),
        ("x" * 1024, b"x" * 1024),
        ("ü" * 512, b"\xc3\xbc" * 512),
    ],
)
def test_key_is_its_bytes(key: Any, raw: bytes) -> None:
    """A key of 1 to 1,024 bytes is taken; text means its UTF-8 bytes."""
    assert checked_key(key) == raw
    assert type(checked_key(key)) is bytes


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "key: must not be empty"),
        (b"", "key: must not be empty"),
        ("x" * 1025, "key: 1,025 bytes exceed the limit of 1,024 bytes"),
        (b"x" * 1025, "key: 1,025 bytes exceed the limit of 1,024 bytes"),
        ("ü" * 513, "key: 1,026 bytes exceed the limit of 1,024 bytes"),
        (None, "key: must be str or bytes, not NoneType"),
        (5, "key: must be str or bytes, not int"),
        (["k"], "key: must be str or bytes, not list"),
    ],
)
def test_wrong_key(key: Any, text: str) -> None:
    """The text names the field and the limit or the type."""
    with pytest.raises(InvalidKey) as caught:
        checked_key(key)
    assert str(caught.value) == text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("ttl_s", "ttl_ms"),
    [
        (None, 0),
        (1, 1_000),
        (1.5, 1_500),
        (0.0001, 1),
        (5e-324, 1),
        (math.inf, NO_TTL_MS),
        (CENTURY_S, CENTURY_S * 1_000),
    ],
)
def test_ttl_in_milliseconds(ttl_s: float | None, ttl_ms: int) -> None:
    """None is the namespace's default, infinite is no end, and nothing becomes zero by rounding."""
    assert checked_ttl(ttl_s) == ttl_ms


@pytest.mark.parametrize(
    "ttl_s", [0, 0.0, -0.0, -1, -math.inf, math.nan, True, False, "5", b"5", CENTURY_S + 1, 10**400, [5]], ids=repr
)
def test_wrong_ttl(ttl_s: Any) -> None:
    """What is not a positive number of at most a century is refused."""
    with pytest.raises(InvalidTtl, match=r"^ttl_s: must be "):
        checked_ttl(ttl_s)


@given(st.floats(min_value=0, exclude_min=True, max_value=CENTURY_S))
def test_ttl_is_never_lost(ttl_s: float) -> None:
    """Any accepted TTL is at least a millisecond and within half of one of what was asked."""
    ttl_ms = checked_ttl(ttl_s)
    assert ttl_ms >= 1
    assert abs(ttl_ms - ttl_s * 1_000) <= 1


@pytest.mark.parametrize("timeout_s", [1, 0.001, 86_400])
def test_timeout_is_taken(timeout_s: float) -> None:
    """A timeout is above zero and at most a day."""
    assert checked_timeout(timeout_s) == timeout_s
    assert type(checked_timeout(timeout_s)) is float


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, True, "1", None, 86_401], ids=repr)
def test_wrong_timeout(timeout_s: Any) -> None:
    """Anything else names the field and the limits."""
    with pytest.raises(InvalidArgument, match=r"^timeout_s: must be above 0 and at most 86,400 seconds$"):
        checked_timeout(timeout_s)


def test_namespace() -> None:
    """A name of the allowed form is taken, none means the default, and what else there is is refused."""
    assert checked_namespace("a") == "a"
    assert checked_namespace("0_a.b-c" + "x" * 57) == "0_a.b-c" + "x" * 57
    assert checked_namespace("") == "default"
    wrong: list[Any] = ["A", "-a", "a b", "a\n", "ä", "x" * 65, 5, b"a", None]
    for name in wrong:
        with pytest.raises(InvalidNamespace, match=r"^namespace: must be "):
            checked_namespace(name)


def test_sdk_version_is_that_of_the_distribution() -> None:
    """The node is told the installed version."""
    assert sdk_version() == version("cachenode-client")
