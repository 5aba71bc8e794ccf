"""The codec: values to bytes and flags, and back."""

from __future__ import annotations

import contextlib
import math
import pickle
import struct
import traceback
import zlib
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.records import COMPRESSION_SHIFT, STALE
from cachenode_client._results import Lookup
from cachenode_client._values import Codec
from cachenode_client.errors import DecodeError, InvalidArgument, Unserializable, ValueTooLarge

CANARY = "canary-4711"

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


@dataclass(frozen=True)
class Own:
    """A serializer of a user, which can fail in every way."""

    id: int = 200
    name: str = "own"
    all_types: bool = False
    result: Any = b"data"
    error: Exception | None = None

    def dumps(self, value: Any) -> Any:
        if self.error:
            raise self.error
        return self.result

    def loads(self, data: bytes) -> Any:
        if self.error:
            raise self.error
        return ("loaded", data)


class Evil:
    """Its pickle would run code."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Evil, "ran", True))


def types_of(value: Any) -> Any:
    if type(value) is dict:
        return (dict, [(key, types_of(item)) for key, item in value.items()])
    if type(value) is list:
        return (list, [types_of(item) for item in value])
    return (type(value), struct.pack("<d", value) if type(value) is float and not math.isnan(value) else str(value))


@pytest.mark.parametrize("compression", [None, "zlib", "lz4", "zstd"])
@given(value=values)
def test_values_come_back_equal_and_of_the_same_types(compression: str | None, value: object) -> None:
    """The guarantee of the default serializer, with every compression."""
    codec = Codec(compression=compression, compress_from_bytes=0)
    data, flags = codec.encode(value)
    assert types_of(codec.decode(data, flags)) == types_of(value)
    assert types_of(Codec().decode(data, flags | STALE)) == types_of(value)


@pytest.mark.parametrize(
    ("value", "data", "flags"),
    [
        (b"\x00x", b"\x00x", 0),
        ("ü", "ü".encode(), 1),
        (-12, b"-12", 2),
        pytest.param(10**4299, b"1" + b"0" * 4299, 2, id="huge"),
        (1.5, struct.pack("<d", 1.5), 3),
        (math.inf, struct.pack("<d", math.inf), 3),
        (True, b"1", 4),
        (False, b"0", 4),
        (None, b"", 5),
        ([1], b"[1]", 6),
    ],
)
def test_the_form_of_scalars_is_stable(value: object, data: bytes, flags: int) -> None:
    """Stored bytes stay readable by every later release and other languages: the form is fixed by these examples."""
    assert Codec().encode(value) == (data, flags)
    found = Codec().decode(data, flags)
    assert found == value
    assert type(found) is type(value)


def test_nan_and_negative_zero_are_exact() -> None:
    """Floats are kept bit for bit."""
    codec = Codec()
    assert math.isnan(codec.decode(*codec.encode(math.nan)))
    assert math.copysign(1, codec.decode(*codec.encode(-0.0))) == -1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(
            f"{CANARY}\ud800", "value: str holds a lone surrogate, which UTF-8 cannot encode; ", id="surrogate"
        ),
        pytest.param(
            10**4300, "value: int has more digits than can be read back (at most 4,300); store it as bytes", id="huge"
        ),
        ((CANARY,), "value: tuple does not come back from JSON as what it was; "),
    ],
)
def test_what_cannot_come_back_is_refused(value: object, text: str) -> None:
    """The error is also a ValueError and a TypeError, and shows nothing of the value, not even in the traceback."""
    with pytest.raises(Unserializable) as caught:
        Codec().encode(value)
    assert str(caught.value).startswith(text)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("number", range(2, 6))
@pytest.mark.parametrize("data", [b"x", b"1_0", b" 1", b"1\n", "١".encode(), b"2", b"1" * 4301, b"--1"])
def test_bytes_of_another_type_are_refused(number: int, data: bytes) -> None:
    """Damaged scalars raise DecodeError and are not guessed."""
    if (number, data) == (2, b"2"):
        assert Codec().decode(data, number) == 2
        return
    with pytest.raises(DecodeError) as caught:
        Codec().decode(data, number)
    assert str(caught.value) == f"value: the stored bytes are not those of serializer {number}"


def test_damaged_text_and_json_are_refused_without_showing_them() -> None:
    """Damaged bytes never appear in the error or its traceback."""
    for data, number in ((CANARY.encode() + b"\xff", 1), (CANARY.encode(), 6), (CANARY.encode(), 7), (b"\xff", 8)):
        with pytest.raises(DecodeError) as caught:
            Codec().decode(data, number)
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(DecodeError) as caught:
        Codec().decode(b"{", 6)
    assert str(caught.value) == 'value: serializer "json" cannot decode the stored bytes (JSONDecodeError)'
    with pytest.raises(DecodeError) as caught:
        Codec().decode(b"[" * 100_000, 6)
    assert str(caught.value) == 'value: serializer "json" cannot decode the stored bytes (RecursionError)'


def test_tags_of_later_releases_keep_their_own_text() -> None:
    """An error that a serializer raises on purpose is not wrapped again."""
    with pytest.raises(DecodeError) as caught:
        Codec().decode(b'{"$z":1}', 6)
    assert str(caught.value) == "value: JSON with a tag that this release does not know; update cachenode-client"


def test_clients_read_each_others_serializers() -> None:
    """A default client reads what clients with other safe serializers wrote, and again from its memory of them."""
    reader = Codec()
    for name in ("msgspec", "orjson", "msgspec"):
        data, flags = Codec(name).encode({"a": [1, "x"]})
        assert reader.decode(data, flags) == {"a": [1, "x"]}


def test_pickle_runs_only_where_it_was_asked_for() -> None:
    """A pickled value is refused by every client that was not itself given pickle, and its code does not run."""
    data = pickle.dumps(Evil())
    for name in ("json", "msgspec", "orjson"):
        with pytest.raises(DecodeError, match="does not unpickle"):
            Codec(name).decode(data, 9)
    packed = zlib.compress(data)
    with pytest.raises(DecodeError, match="does not unpickle"):
        Codec(compression="zlib").decode(packed, 9 | 1 << COMPRESSION_SHIFT)
    assert not Evil.ran
    trusting = Codec("pickle")
    assert trusting.decode(*trusting.encode({(1, 2): {3}})) == {(1, 2): {3}}


def test_failures_of_libraries_do_not_quote_the_value() -> None:
    """What a library says about a value stays out of the error and its traceback; the class of its error is named."""

    class Odd:
        def __repr__(self) -> str:
            return CANARY

        def __reduce__(self) -> str:
            return CANARY

    for name, problem in (("pickle", "PicklingError"), ("msgspec", "TypeError"), ("orjson", "TypeError")):
        with pytest.raises(Unserializable) as caught:
            Codec(name).encode(Odd())
        assert str(caught.value) == f'value: serializer "{name}" cannot encode Odd ({problem})'
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_serializer_of_the_user_gets_what_is_not_scalar() -> None:
    """Scalars take the direct way unless the serializer asks for all types."""
    codec = Codec(Own())
    assert codec.encode(True) == (b"1", 4)
    assert codec.encode((1,)) == (b"data", 200)
    assert codec.decode(b"data", 200) == ("loaded", b"data")
    assert Codec(Own(all_types=True)).encode(True) == (b"data", 200)
    with pytest.raises(DecodeError, match="written by serializer 200"):
        Codec().decode(b"data", 200)


def test_failures_of_the_users_serializer_keep_their_cause() -> None:
    """Who writes a serializer sees what went wrong in it."""
    cause = RuntimeError("mine")
    codec = Codec(Own(error=cause))
    with pytest.raises(Unserializable) as refused:
        codec.encode([1])
    assert str(refused.value) == 'value: serializer "own" cannot encode list (RuntimeError)'
    assert refused.value.__cause__ is cause
    with pytest.raises(DecodeError) as caught:
        codec.decode(b"", 200)
    assert str(caught.value) == 'value: serializer "own" cannot decode the stored bytes (RuntimeError)'
    assert caught.value.__cause__ is cause


def test_a_serializer_must_return_bytes() -> None:
    """A serializer that returns text is told so at once."""
    with pytest.raises(Unserializable) as caught:
        Codec(Own(result="text")).encode([1])
    assert str(caught.value) == 'value: serializer "own" returned str instead of bytes'


@pytest.mark.parametrize(("name", "number"), [("zlib", 1), ("lz4", 2), ("zstd", 3)])
def test_compression_is_used_where_it_helps(name: str, number: int) -> None:
    """From the threshold on, and only where the result is smaller."""
    codec = Codec(compression=name)
    data, flags = codec.encode("x" * 1024)
    assert flags == 1 | number << COMPRESSION_SHIFT
    assert len(data) < 1024
    assert codec.encode("x" * 1023) == (b"x" * 1023, 1)
    noise = Random(1).randbytes(2000)
    assert codec.encode(noise) == (noise, 0)
    reader = Codec()
    assert [reader.decode(data, flags) for _ in range(2)] == ["x" * 1024] * 2


@pytest.mark.parametrize(("name", "number"), [("zlib", 1), ("lz4", 2), ("zstd", 3)])
def test_bombs_and_damage_are_refused(name: str, number: int) -> None:
    """Compressed bytes never become more than the reader's limit, and damaged ones never become a value."""
    data, flags = Codec(compression=name).encode(b"\0" * 100_000)
    assert flags == number << COMPRESSION_SHIFT
    reader = Codec(max_value_bytes=99_999)
    with pytest.raises(DecodeError) as caught:
        reader.decode(data, flags)
    assert "decompresses to more than 99,999 bytes" in str(caught.value)
    with pytest.raises(DecodeError) as caught:
        reader.decode(CANARY.encode(), flags)
    assert str(caught.value).startswith("value: the compressed bytes are damaged (")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_compression_is_refused() -> None:
    """All numbers but those in use are refused."""
    for number in (4, 15):
        with pytest.raises(DecodeError, match=f"compression {number} is unknown"):
            Codec().decode(b"x", number << COMPRESSION_SHIFT)


def test_values_above_the_limit_are_refused_before_compression() -> None:
    """What a client may write it can also read: the limit counts the bytes before compression."""
    codec = Codec(compression="zlib", max_value_bytes=2000)
    assert codec.decode(*codec.encode(b"x" * 2000)) == b"x" * 2000
    with pytest.raises(ValueTooLarge) as caught:
        codec.encode(b"x" * 2001)
    assert str(caught.value) == "value: 2,001 bytes exceed the limit of 2,000 bytes"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"compress_from_bytes": -1}, "compress_from_bytes: must not be negative"),
        ({"max_value_bytes": 0}, "max_value_bytes: must be at least 1"),
        ({"compression": "brotli"}, "compression: unknown name; use None or one of zlib, lz4, zstd"),
        (
            {"serializer": "x"},
            "serializer: unknown name; use one of json, msgspec, orjson, pickle, or an object of your own",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    """Options are checked when the client is made."""
    with pytest.raises(InvalidArgument) as caught:
        Codec(**options)
    assert str(caught.value) == text


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_no_stored_bytes_raise_anything_else(data: bytes, flags: int) -> None:
    """Whatever lies in the cache, decoding returns a value or raises DecodeError."""
    with contextlib.suppress(DecodeError):
        Codec(max_value_bytes=10_000).decode(data, flags)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (CANARY, "<str, 11 characters>"),
        (CANARY.encode() * 1000, "<bytes, 11,000 bytes>"),
        ({CANARY: CANARY}, "<dict, 1 items>"),
        ([CANARY], "<list, 1 items>"),
        (None, "<NoneType>"),
        (4711, "<int>"),
    ],
)
def test_a_lookup_never_shows_its_value(value: object, shown: str) -> None:
    """A representation in a log shows type and size only."""
    lookup = Lookup(True, value, version=7, ttl_s=1.5, layer="l1", flags=0x101)
    assert repr(lookup) == (
        f"Lookup(found=True, value={shown}, version=7, ttl_s=1.5, layer='l1', stale=False, flags=0x101)"
    )
    assert "4711" not in repr(lookup)
    assert lookup == Lookup(True, value, version=7, ttl_s=1.5, layer="l1", flags=0x101)
    assert Lookup(False) == Lookup(False, None, 0, None, "none", stale=False, flags=0)
