"""Serializers: the lossless JSON, the optional libraries, pickle by name only, and the user's own."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_client.errors import DecodeError, InvalidArgument, Unserializable
from cachenode_client.serializers import (
    FIRST_USER_ID,
    JSON_ID,
    MAX_DEPTH,
    PICKLE_ID,
    Serializer,
    builtin_by_id,
    int_digits,
    resolve_serializer,
)

REMEDY = 'convert it, or use serializer="pickle" (keeps every type) or "msgspec" (tuples and sets come back as lists)'
TOO_DEEP = "value: nested deeper than 100 levels, or contains itself; store a flatter value"
JSON = resolve_serializer("json")


class Colour(IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@dataclass(frozen=True)
class Reverse:
    """A serializer of a user."""

    id: Any = 200
    name: str = "reverse"

    def dumps(self, value: Any) -> bytes:
        return str(value).encode()[::-1]

    def loads(self, data: bytes) -> Any:
        return data[::-1].decode()


def nested(levels: int, leaf: object = 1) -> Any:
    value: Any = leaf
    for _ in range(levels):
        value = [value]
    return value


texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
keys = texts | texts.map("${}".format) | st.sampled_from(["$", "$b", "$f", "$$b"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3))


def same(left: Any, right: Any) -> bool:
    """Equal in value and in every type, with NaN equal to itself and -0.0 different from 0.0."""
    if type(left) is not type(right):
        return False
    if type(left) is dict:
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if type(left) is list:
        return len(left) == len(right) and all(map(same, left, right))
    if type(left) is float:
        return repr(left) == repr(right)
    return bool(left == right)


@given(values)
def test_json_is_lossless(value: object) -> None:
    """What JSON accepts comes back equal, of the same types, in the same order; and it is standard JSON on the way."""
    data = JSON.dumps(value)
    assert same(JSON.loads(data), value)
    json.loads(data, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({}, b"{}"),
        ([], b"[]"),
        ({"a": [1, None, True, 1.5, "ü"]}, '{"a":[1,null,true,1.5,"ü"]}'.encode()),
        ({"a": b"\xff"}, b'{"a":{"$b":"/w=="}}'),
        ([math.inf, -math.inf, math.nan], b'[{"$f":"inf"},{"$f":"-inf"},{"$f":"nan"}]'),
        ({"$b": "x"}, b'{"$$b":"x"}'),
        ({"$$b": b""}, b'{"$$$b":{"$b":""}}'),
        ({"$": 1}, b'{"$$":1}'),
        ({"$b": 1, "c": 2}, b'{"$b":1,"c":2}'),
        ([{"price": "$5"}], b'[{"price":"$5"}]'),
    ],
)
def test_the_form_of_json_is_stable(value: object, data: bytes) -> None:
    """Stored bytes stay readable by every later release: the form is fixed by these examples."""
    assert JSON.dumps(value) == data
    assert same(JSON.loads(data), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), f"value: tuple does not come back from JSON as what it was; {REMEDY}"),
        ([{"a": 1, "b": [{2}]}], "value → list item 0 → dict item 1 → list item 0: set does not"),
        ({"a": {"b": 1, "canary": (1,)}}, "value → dict item 0 → dict item 1: tuple does not come back"),
        (
            {"a": 0, 1: 0},
            f"value → key of dict item 1: a key of type int does not come back from JSON; {REMEDY}",
        ),
        ({True: 0}, "value → key of dict item 0: a key of type bool does not"),
        ({Text("canary"): 0}, "value → key of dict item 0: a key of type Text does not"),
        ([Text("canary")], "value → list item 0: Text does not"),
        (Colour.RED, "value: Colour does not"),
        ([1, OrderedDict(canary=1)], "value → list item 1: OrderedDict does not"),
        ([Decimal(1)], "value → list item 0: Decimal does not"),
        ([bytearray(b"canary")], "value → list item 0: bytearray does not"),
        (object(), "value: object does not"),
        (
            ["canary\ud800"],
            "value → list item 0: str holds a lone surrogate, which UTF-8 cannot encode; store it as bytes",
        ),
        ({"canary\ud800": 0}, "value → key of dict item 0: str holds a lone surrogate"),
        (
            [10**4300],
            "value → list item 0: int has more digits than can be read back (at most 4,300); store it as bytes",
        ),
        (
            [b"", -(10**4300)],
            "value → list item 1: int has more digits than can be read back (at most 4,300); store it as bytes",
        ),
        (nested(MAX_DEPTH + 1), TOO_DEEP),
        (nested(MAX_DEPTH + 1, b""), TOO_DEEP),
        (nested(100_000), TOO_DEEP),
    ],
)
def test_what_json_would_change_is_refused(value: object, text: str) -> None:
    """What would come back as something else is refused, with its position but nothing of its contents."""
    with pytest.raises(Unserializable) as caught:
        JSON.dumps(value)
    assert str(caught.value).startswith(text)
    assert "canary" not in str(caught.value)


def test_the_allowed_depth_is_reached() -> None:
    """Exactly the documented number of levels is accepted, with and without tags."""
    for leaf in (1, b"x"):
        assert JSON.loads(JSON.dumps(nested(MAX_DEPTH, leaf))) == nested(MAX_DEPTH, leaf)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Cycles end in an error, also when each level holds itself many times."""
    loop: list[Any] = []
    loop.extend([loop] * 10)
    mapping: dict[str, Any] = {}
    mapping["again"] = {"a": b"", "b": mapping}
    for value in (loop, mapping):
        with pytest.raises(Unserializable) as caught:
            JSON.dumps(value)
        assert str(caught.value) == TOO_DEEP


def test_a_caller_deep_in_its_own_stack_gets_the_same_error() -> None:
    """Python's recursion limit never surfaces as RecursionError."""

    def descend(levels: int) -> bytes:
        return descend(levels - 1) if levels else JSON.dumps(nested(MAX_DEPTH))

    free = sys.getrecursionlimit() - len(inspect.stack())
    with pytest.raises(Unserializable) as caught:
        descend(free - 50)
    assert str(caught.value) == TOO_DEEP


def test_a_process_with_a_lower_limit_of_digits() -> None:
    """Where Python is set to refuse shorter integers already, they are refused as unserializable."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(Unserializable) as caught:
            JSON.dumps([10**640])
    finally:
        sys.set_int_max_str_digits(before)
    assert (
        str(caught.value)
        == "value → list item 0: int has more digits than can be read back (at most 4,300); store it as bytes"
    )


def test_a_process_without_a_limit_of_digits() -> None:
    """Where Python would write any integer, what other processes could not read is refused all the same."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        for number in (10**4300, -(10**4300)):
            with pytest.raises(Unserializable):
                int_digits(number)
        assert len(int_digits(10**4300 - 1)) == 4300
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    "data",
    [b'{"$x":1}', b'{"$b":1}', b'{"$f":"1"}', b'{"$f":1}', b'{"$f":["nan"]}', b'[{"$":"a"}]'],
)
def test_an_unknown_tag_is_refused(data: bytes) -> None:
    """A tag of a later release is not mistaken for data."""
    with pytest.raises(DecodeError) as caught:
        JSON.loads(data)
    assert str(caught.value) == "value: JSON with a tag that this release does not know; update cachenode-client"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"$b":"*"}', b'{"$b":"YQ"}', b"1" * 5000])
def test_damaged_json_raises(data: bytes) -> None:
    """Damaged bytes raise (the codec makes that a DecodeError)."""
    with pytest.raises(ValueError, match=r"."):
        JSON.loads(data)


@pytest.mark.parametrize("name", ["json", "msgspec", "orjson", "pickle"])
def test_builtin_serializers_carry_plain_data(name: str) -> None:
    """Every built-in serializer carries plain data, under its stable number."""
    serializer = resolve_serializer(name)
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"c": []}}
    assert same(serializer.loads(serializer.dumps(value)), value)
    assert type(serializer.dumps(value)) is bytes
    assert (serializer.id, serializer.name) == ({"json": 6, "msgspec": 7, "orjson": 8, "pickle": 9}[name], name)


def test_pickle_keeps_types() -> None:
    """Pickle is what the error of JSON says it is."""
    value = {1: (2, {3}), "d": Decimal("1.10"), "c": Colour.RED}
    serializer = resolve_serializer("pickle")
    assert serializer.loads(serializer.dumps(value)) == value
    assert resolve_serializer("msgspec").loads(resolve_serializer("msgspec").dumps([(1,), {2}])) == [[1], [2]]


@pytest.mark.parametrize(("name", "number"), [("msgspec", 7), ("orjson", 8)])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Without its library a serializer is refused at once, and a stored value says what to install."""
    monkeypatch.setitem(sys.modules, name, None)
    text = f'serializer: "{name}" needs a library that is missing; run: pip install "cachenode-client[{name}]"'
    with pytest.raises(InvalidArgument) as refused:
        resolve_serializer(name)
    assert str(refused.value) == text
    with pytest.raises(DecodeError) as caught:
        builtin_by_id(number)
    assert str(caught.value) == f"value: cannot be decoded here. {text}"


def test_flags_alone_never_lead_to_pickle() -> None:
    """The number of pickle is refused with the way to allow it."""
    with pytest.raises(DecodeError) as caught:
        builtin_by_id(PICKLE_ID)
    assert str(caught.value) == (
        "value: it is pickled, and this client does not unpickle, since that can run code; "
        'if you trust everybody who writes to the cache, create the client with serializer="pickle"'
    )


@pytest.mark.parametrize("number", [10, 127, 128, 255])
def test_an_unknown_number_is_refused(number: int) -> None:
    """A value of an unknown serializer says which one, and what to do."""
    with pytest.raises(DecodeError) as caught:
        builtin_by_id(number)
    assert str(caught.value) == (
        f"value: written by serializer {number}, which this client does not know; "
        "create the client with the serializer that wrote the value, or update cachenode-client"
    )


def test_builtins_by_number() -> None:
    """The safe built-in serializers are found by number."""
    assert [builtin_by_id(number).name for number in (JSON_ID, 7, 8)] == ["json", "msgspec", "orjson"]


def test_a_serializer_of_the_user() -> None:
    """An object with the four parts is taken as it is, at both ends of the range of ids."""
    for number in (FIRST_USER_ID, 255):
        own: Serializer = Reverse(id=number)
        assert resolve_serializer(own) is own


@pytest.mark.parametrize(
    ("serializer", "text"),
    [
        ("yaml", "serializer: unknown name; use one of json, msgspec, orjson, pickle, or an object of your own"),
        (object(), "serializer: an object of your own needs id, name, dumps(value) and loads(data)"),
        (Reverse(id=9), "serializer: the id must be an int from 128 to 255"),
        (Reverse(id=256), "serializer: the id must be an int from 128 to 255"),
        (Reverse(id="200"), "serializer: the id must be an int from 128 to 255"),
        (Reverse(id=True), "serializer: the id must be an int from 128 to 255"),
    ],
)
def test_what_is_no_serializer(serializer: Any, text: str) -> None:
    """A wrong serializer is refused when the client is made, not at the first value."""
    with pytest.raises(InvalidArgument) as caught:
        resolve_serializer(serializer)
    assert str(caught.value) == text
