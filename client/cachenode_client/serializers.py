"""Serializers: how values other than bytes, str, int, float, bool and None become bytes.

========= === ========================================================================================================
name      id  what it does
========= === ========================================================================================================
json      6   the default; what it accepts comes back equal and of the same types, everything else is refused
msgspec   7   MessagePack; fast and small, but tuples and sets come back as lists, dataclasses and structs as dicts
orjson    8   JSON; fast, but like any JSON: tuples come back as lists, dates as strings, NaN as None
pickle    9   nearly everything, also code: whoever can write to the cache can run code in your process
your own  128 to 255: an object with `id`, `name`, `dumps` and `loads` (`Serializer`)
========= === ========================================================================================================

A value's flags name its serializer, so clients with different serializers can read each other's values. The
exceptions: a pickled value is decoded only by a client that was itself given ``serializer="pickle"``, whatever the
flags say, and an id of your own only by a client that was given that serializer.

**How JSON is kept lossless.** Every dict, list and key is checked to be of exactly the type that JSON will give back.
Bytes and floats that JSON lacks travel as tags, ``{"$b": "<base64>"}`` and ``{"$f": "nan"}``. A user's dict with a
single key that begins with ``$`` gets one more ``$`` in front, which decoding takes off again, so no user data can be
mistaken for a tag. Plain values need no tags; that is found out in one pass over types, and they go to the C encoder
as they are.
"""

from __future__ import annotations

import json
import math
import pickle
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from cachenode_api.records import SERIALIZER_MASK
from cachenode_client.errors import DecodeError, InvalidArgument, Unserializable, missing_library

__all__ = ["FIRST_USER_ID", "JSON_ID", "MAX_DEPTH", "PICKLE_ID", "Serializer"]

JSON_ID = 6
PICKLE_ID = 9
FIRST_USER_ID = 128
MAX_DEPTH = 100
"""Levels of nesting that the JSON serializer accepts."""

_LEAVES = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list})
_NODES = _LEAVES | _CONTAINERS
MAX_INT_DIGITS = 4300
"""Python refuses to read longer integers, since reading them takes quadratic time."""

_INT_LIMIT = 10**MAX_INT_DIGITS
_NON_FINITE = frozenset({"nan", "inf", "-inf"})
_BYTES_TAG = "$b"
_FLOAT_TAG = "$f"
_REMEDY = 'convert it, or use serializer="pickle" (keeps every type) or "msgspec" (tuples and sets come back as lists)'
_TOO_DEEP = f"value: nested deeper than {MAX_DEPTH} levels, or contains itself; store a flatter value"

_Where: TypeAlias = "tuple[_Where, str, int] | None"
"""The position of a part of a value, innermost step first; written out only for an error."""


class Serializer(Protocol):
    """What a serializer of your own must have. It is called from every thread that uses the client.

    The types bytes, str, int, float, bool and None do not reach it unless it has an attribute ``all_types = True``.
    """

    @property
    def id(self) -> int:
        """The number in the flags, 128 to 255. Never give it another meaning while values are stored."""

    @property
    def name(self) -> str:
        """The name in error texts."""

    def dumps(self, value: Any, /) -> bytes:
        """Return the value's bytes. Whatever it raises reaches the user as the cause of an `Unserializable`."""

    def loads(self, data: bytes, /) -> Any:
        """Return the value. Whatever it raises reaches the user as the cause of a `DecodeError`."""


@dataclass(frozen=True, slots=True)
class _Builtin:
    id: int
    name: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def _json() -> Serializer:
    return _Builtin(JSON_ID, "json", _dump_json, _load_json)


def _msgspec() -> Serializer:
    msgpack = import_module("msgspec").msgpack
    return _Builtin(7, "msgspec", msgpack.encode, msgpack.decode)


def _orjson() -> Serializer:
    orjson = import_module("orjson")
    return _Builtin(8, "orjson", orjson.dumps, orjson.loads)


def _pickle() -> Serializer:
    return _Builtin(PICKLE_ID, "pickle", lambda value: pickle.dumps(value, protocol=5), pickle.loads)


_BY_NAME = {"json": _json, "msgspec": _msgspec, "orjson": _orjson, "pickle": _pickle}
_NAME_BY_ID = {JSON_ID: "json", 7: "msgspec", 8: "orjson"}  # Without pickle: flags alone never lead to unpickling.


def resolve_serializer(serializer: str | Serializer) -> Serializer:
    """Return a serializer by name, or the user's own after checking it.

    Raises:
        InvalidArgument: The name is unknown, its library is missing, or the user's serializer has an id outside 128
        to 255.
    """
    if isinstance(serializer, str):
        if serializer not in _BY_NAME:
            raise InvalidArgument(
                f"serializer: unknown name; use one of {', '.join(_BY_NAME)}, or an object of your own"
            )
        try:
            return _BY_NAME[serializer]()
        except ImportError:
            raise missing_library("serializer", serializer) from None
    if not all(hasattr(serializer, part) for part in ("id", "name", "dumps", "loads")):
        raise InvalidArgument("serializer: an object of your own needs id, name, dumps(value) and loads(data)")
    if type(serializer.id) is not int or not FIRST_USER_ID <= serializer.id <= SERIALIZER_MASK:
        raise InvalidArgument(f"serializer: the id must be an int from {FIRST_USER_ID} to {SERIALIZER_MASK}")
    return serializer


def builtin_by_id(number: int) -> Serializer:
    """Return the built-in serializer that wrote a value, never pickle.

    Raises:
        DecodeError: The id is not one of a built-in serializer that may be used unasked, or its library is missing.
    """
    if number == PICKLE_ID:
        raise DecodeError(
            "value: it is pickled, and this client does not unpickle, since that can run code; "
            'if you trust everybody who writes to the cache, create the client with serializer="pickle"'
        )
    name = _NAME_BY_ID.get(number)
    if name is None:
        raise DecodeError(
            f"value: written by serializer {number}, which this client does not know; "
            "create the client with the serializer that wrote the value, or update cachenode-client"
        )
    try:
        return resolve_serializer(name)
    except InvalidArgument as error:
        raise DecodeError(f"value: cannot be decoded here. {error}") from None


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def _dump_json(value: Any) -> bytes:
    try:
        if type(value) in _CONTAINERS and _is_plain(value, MAX_DEPTH):
            try:
                return _encode(value).encode()
            except ValueError:  # NaN, a huge integer or a lone surrogate, which the look at the types cannot see.
                pass
        return _encode(_tagged(value, None, MAX_DEPTH)).encode()
    except RecursionError:  # The caller is so deep in its own stack that even the allowed levels do not fit.
        raise Unserializable(_TOO_DEEP) from None


def _is_plain(value: dict[Any, Any] | list[Any], levels: int) -> bool:
    """Return whether JSON can take a container as it is. Looks at sets of types, so the loops over items run in C."""
    if levels == 0:
        return False
    items: Any = value
    if type(value) is dict:
        if value and set(map(type, value)) != {str}:
            return False
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return False
        items = value.values()
    kinds = set(map(type, items))
    if kinds <= _LEAVES:
        return True
    return kinds <= _NODES and all(_is_plain(item, levels - 1) for item in items if type(item) in _CONTAINERS)


def _tagged(value: Any, where: _Where, levels: int) -> Any:
    """Return a copy in which JSON loses nothing, or raise with the position of what cannot be kept."""
    kind = type(value)
    if kind in _CONTAINERS:
        if levels == 0:
            raise Unserializable(_TOO_DEEP)
        if kind is dict:
            return _tagged_dict(value, where, levels)
        return [_tagged(item, (where, "list item", at), levels - 1) for at, item in enumerate(value)]
    if kind is bytes:
        return {_BYTES_TAG: b2a_base64(value, newline=False).decode()}
    if kind is float and not math.isfinite(value):
        return {_FLOAT_TAG: repr(value)}
    if kind not in _LEAVES:
        raise _refused(where, f"{kind.__name__} does not come back from JSON as what it was; {_REMEDY}")
    _check_leaf(value, where)
    return value


def _tagged_dict(value: dict[Any, Any], where: _Where, levels: int) -> dict[str, Any]:
    tagged = {}
    for at, (key, item) in enumerate(value.items()):
        here = (where, "key of dict item", at)
        if type(key) is not str:
            raise _refused(here, f"a key of type {type(key).__name__} does not come back from JSON; {_REMEDY}")
        _check_leaf(key, here)
        tagged[key] = _tagged(item, (where, "dict item", at), levels - 1)
    if len(tagged) == 1:
        key, item = next(iter(tagged.items()))
        if key.startswith("$"):
            return {"$" + key: item}
    return tagged


def _check_leaf(value: object, where: _Where) -> None:
    if type(value) is str:
        check_text(value, where)
    elif type(value) is int:
        int_digits(value, where)


def check_text(text: str, where: _Where = None) -> bytes:
    """Return the bytes of a text.

    Raises:
        Unserializable: It holds half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _refused(where, "str holds a lone surrogate, which UTF-8 cannot encode; store it as bytes") from None


def int_digits(number: int, where: _Where = None) -> bytes:
    """Return the decimal digits of an integer.

    Raises:
        Unserializable: There are so many that Python would not read them back.
    """
    try:
        if -_INT_LIMIT < number < _INT_LIMIT:
            return str(number).encode()
    except ValueError:  # This process has a lower limit (sys.set_int_max_str_digits).
        pass
    raise _refused(where, f"int has more digits than can be read back (at most {MAX_INT_DIGITS:,}); store it as bytes")


def _refused(where: _Where, problem: str) -> Unserializable:
    """Name a position by types and numbers only: keys of a user's dict may be secrets."""
    steps = []
    while where is not None:
        where, step, at = where
        steps.append(f"{step} {at}")
    return Unserializable(f"{' → '.join(['value', *reversed(steps)])}: {problem}")


def _load_json(data: bytes) -> Any:
    text = data.decode()
    # Building dicts through a hook costs several times more, so it is done only where a tag is possible.
    return (_decode_tagged if '"$' in text else _decode_plain)(text)


def _untag(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    key, item = next(iter(found.items()))
    if not key.startswith("$"):
        return found
    if key.startswith("$$"):
        return {key[1:]: item}
    if type(item) is str:
        if key == _BYTES_TAG:
            return a2b_base64(item, strict_mode=True)
        if key == _FLOAT_TAG and item in _NON_FINITE:
            return float(item)
    raise DecodeError("value: JSON with a tag that this release does not know; update cachenode-client")


_decode_plain = json.JSONDecoder().decode
_decode_tagged = json.JSONDecoder(object_hook=_untag).decode
