"""Values to bytes and back: the codec of a client.

The flags that travel with the bytes say how they are to be read (`cachenode_api.records`): bits 0-7 the serializer,
bits 8-11 the compression.

=== ======= ==========================================================
id  type    bytes
=== ======= ==========================================================
0   bytes   as they are
1   str     UTF-8
2   int     ASCII decimal digits, with a minus sign if negative
3   float   8 bytes IEEE 754, little-endian: exact, also NaN and infinity
4   bool    ``1`` or ``0``
5   None    none
6+  others  by a serializer (`cachenode_client.serializers`)
=== ======= ==========================================================

Only exact types take the direct way: a bool is not an int here, and an instance of a subclass goes to the serializer,
which either keeps its class or refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import Any

from cachenode_api.records import COMPRESSION_MASK, COMPRESSION_SHIFT, SERIALIZER_MASK
from cachenode_client._compression import Compression, compression_by_id, resolve_compression
from cachenode_client.errors import CacheError, DecodeError, InvalidArgument, Unserializable, ValueTooLarge
from cachenode_client.serializers import (
    FIRST_USER_ID,
    MAX_INT_DIGITS,
    Serializer,
    builtin_by_id,
    check_text,
    int_digits,
    resolve_serializer,
)

__all__ = ["DEFAULT_COMPRESS_FROM_BYTES", "DEFAULT_MAX_VALUE_BYTES", "Codec"]

DEFAULT_COMPRESS_FROM_BYTES = 1024
DEFAULT_MAX_VALUE_BYTES = 64 << 20

_DOUBLE = Struct("<d")
_INT = re.compile(rb"-?[0-9]{1,%d}\Z" % MAX_INT_DIGITS)
_BOOLS = {b"0": False, b"1": True}

_ENCODERS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    bytes: (0, lambda value: value),
    str: (1, check_text),
    int: (2, int_digits),
    float: (3, _DOUBLE.pack),
    bool: (4, lambda value: b"1" if value else b"0"),
    type(None): (5, lambda _: b""),
}


def _decode_int(data: bytes) -> int:
    if not _INT.match(data):
        raise ValueError
    return int(data)


def _decode_float(data: bytes) -> float:
    (number,) = _DOUBLE.unpack(data)
    return float(number)


def _decode_none(data: bytes) -> None:
    if data:
        raise ValueError


_DECODERS: tuple[Callable[[bytes], Any], ...] = (
    bytes,
    bytes.decode,
    _decode_int,
    _decode_float,
    _BOOLS.__getitem__,
    _decode_none,
)


class Codec:
    """Encodes and decodes the values of one client. Safe to use from several threads.

    Guarantee: with the default serializer, what `encode` accepts comes back from `decode` equal and of the same
    types, on every client that allows values of that size; everything else is refused with `Unserializable`. Other
    serializers keep what they keep.

    Args:
        serializer: "json", "msgspec", "orjson", "pickle", or an object of your own (`Serializer`).
        compression: None, "zlib", "lz4" or "zstd". Values compressed by any of them are read in any case.
        compress_from_bytes: Shorter values are stored as they are, as are those that compression does not make smaller.
        max_value_bytes: Largest encoded value before compression, in both directions.

    Raises:
        InvalidArgument: An option is not valid, or its library is missing.
    """

    __slots__ = ("_all_types", "_compress_from", "_compression", "_compressions", "_max", "_serializer", "_serializers")

    def __init__(
        self,
        serializer: str | Serializer = "json",
        *,
        compression: str | None = None,
        compress_from_bytes: int = DEFAULT_COMPRESS_FROM_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    ) -> None:
        if compress_from_bytes < 0:
            raise InvalidArgument("compress_from_bytes: must not be negative")
        if max_value_bytes < 1:
            raise InvalidArgument("max_value_bytes: must be at least 1")
        self._serializer = resolve_serializer(serializer)
        self._all_types = bool(getattr(self._serializer, "all_types", False))
        self._serializers = {self._serializer.id: self._serializer}
        self._compression = None if compression is None else resolve_compression(compression)
        self._compressions: dict[int, Compression] = {}
        self._compress_from = compress_from_bytes
        self._max = max_value_bytes

    def encode(self, value: object) -> tuple[bytes, int]:
        """Return a value's bytes and its flags.

        Raises:
            Unserializable: The value would not come back as what it is. The text names the position by types and
            numbers.
            ValueTooLarge: The bytes exceed the limit.
        """
        direct = None if self._all_types else _ENCODERS.get(type(value))
        if direct is None:
            flags, data = self._serializer.id, _dump(self._serializer, value)
        else:
            flags, data = direct[0], direct[1](value)
        if len(data) > self._max:
            raise ValueTooLarge(f"value: {len(data):,} bytes exceed the limit of {self._max:,} bytes")
        if self._compression is not None and len(data) >= self._compress_from:
            smaller = self._compression.compress(data)
            if len(smaller) < len(data):
                return smaller, flags | self._compression.id << COMPRESSION_SHIFT
        return data, flags

    def decode(self, data: bytes, flags: int) -> Any:
        """Return the value for bytes and flags.

        Raises:
            DecodeError: This client does not know the serializer or compression, must not use it (pickle), or the
                bytes are damaged or decompress to more than allowed.
        """
        if flags & COMPRESSION_MASK:
            data = self._decompress(data, (flags & COMPRESSION_MASK) >> COMPRESSION_SHIFT)
        number = flags & SERIALIZER_MASK
        if number >= len(_DECODERS):
            return self._load(data, number)
        try:
            return _DECODERS[number](data)
        except Exception:  # noqa: BLE001 - damaged bytes, whatever the decoder calls it
            raise DecodeError(f"value: the stored bytes are not those of serializer {number}") from None

    def _decompress(self, data: bytes, number: int) -> bytes:
        compression = self._compressions.get(number)
        if compression is None:
            compression = self._compressions[number] = compression_by_id(number)
        try:
            return compression.decompress(data, self._max)
        except DecodeError:
            raise
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            raise DecodeError(f"value: the compressed bytes are damaged ({type(error).__name__})") from None

    def _load(self, data: bytes, number: int) -> Any:
        serializer = self._serializers.get(number)
        if serializer is None:
            serializer = self._serializers[number] = builtin_by_id(number)
        try:
            return serializer.loads(data)
        except CacheError:
            raise
        except Exception as error:  # noqa: BLE001 - a serializer may raise anything
            text = f'value: serializer "{serializer.name}" cannot decode the stored bytes ({type(error).__name__})'
            raise DecodeError(text) from _cause(serializer, error)


def _dump(serializer: Serializer, value: object) -> bytes:
    try:
        data = serializer.dumps(value)
    except CacheError:
        raise
    except Exception as error:  # noqa: BLE001 - a serializer may raise anything
        text = f'value: serializer "{serializer.name}" cannot encode {type(value).__name__} ({type(error).__name__})'
        raise Unserializable(text) from _cause(serializer, error)
    if type(data) is not bytes:
        raise Unserializable(f'value: serializer "{serializer.name}" returned {type(data).__name__} instead of bytes')
    return data


def _cause(serializer: Serializer, error: Exception) -> Exception | None:
    """Show the cause only if it comes from the user's own serializer: texts of libraries may quote the value."""
    return error if serializer.id >= FIRST_USER_ID else None
