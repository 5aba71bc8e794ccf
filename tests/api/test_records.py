"""The record: the encoding of a value in memory and on the wire."""

from __future__ import annotations

import math

from cachenode_api.records import (
    COMPRESSION_MASK,
    COMPRESSION_SHIFT,
    HEADER,
    HEADER_BYTES,
    NO_TTL_MS,
    SERIALIZER_MASK,
    STALE,
)


def test_the_header_is_24_bytes_little_endian_without_padding() -> None:
    """The layout is the documented one, byte for byte."""
    raw = HEADER.pack(1, 0x0203, 4, 1.0)
    assert HEADER_BYTES == len(raw) == 24
    assert raw.hex() == "01000000" + "03020000" + "0400000000000000" + "000000000000f03f"


def test_a_header_is_read_from_the_front_of_a_record() -> None:
    """The largest version and an infinite deadline survive, and the value follows the header."""
    record = HEADER.pack(0, 0xFFFFFFFF, (1 << 64) - 1, math.inf) + b"value"
    assert HEADER.unpack_from(record) == (0, 0xFFFFFFFF, (1 << 64) - 1, math.inf)
    assert record[HEADER_BYTES:] == b"value"


def test_flags_do_not_overlap() -> None:
    """Serializer, compression and the stale mark have bits of their own in a 32-bit word."""
    assert (SERIALIZER_MASK, COMPRESSION_MASK, STALE) == (0xFF, 0xF00, 0x1000)
    assert COMPRESSION_MASK >> COMPRESSION_SHIFT == 15
    assert SERIALIZER_MASK & COMPRESSION_MASK == SERIALIZER_MASK & STALE == COMPRESSION_MASK & STALE == 0


def test_the_mark_for_no_ttl_is_the_largest_of_its_column() -> None:
    """The wire's documented number."""
    assert NO_TTL_MS == 18_446_744_073_709_551_615
