"""The record: the one encoding in which a value lies in a node's memory and travels to clients.

A record is a 24-byte little-endian header followed by the value:

====== ====== ========= ==============================================================================
offset size   field     meaning
====== ====== ========= ==============================================================================
0      u32    slot      the node's bookkeeping position; of no use to anybody else
4      u32    flags     how the value is encoded, and marks (below)
8      u64    version   orders the writes of one key (`cachenode_api.version`)
16     f64    deadline  seconds on the owner's clock; infinite if the entry does not expire
====== ====== ========= ==============================================================================

A reply carries the owner's present time beside its records, so a reader computes the remaining life as
``deadline - now_s`` and no clocks need to agree. A node keeps each entry as such a record in one ``bytes`` object:
half the memory of an object with fields, nothing for the garbage collector to visit, and nothing to encode when it is
read.

Flags: bits 0-7 the serializer, bits 8-11 the compression, bit 12 stale, bit 13: the value begins with a block of
tags (`cachenode_api.tags`), bit 14: the entry depends on others (`cachenode_api.dependencies`). The other bits are
reserved and kept.
"""

from __future__ import annotations

from struct import Struct

__all__ = [
    "COMPRESSION_MASK",
    "COMPRESSION_SHIFT",
    "DEPENDENT",
    "EXTENDED",
    "HEADER",
    "HEADER_BYTES",
    "INT_FLAGS",
    "NOT_KEPT_MS",
    "NO_TTL_MS",
    "SERIALIZER_MASK",
    "STALE",
    "TAGGED",
]

HEADER = Struct("<IIQd")
HEADER_BYTES = HEADER.size
SERIALIZER_MASK = 0xFF
COMPRESSION_SHIFT = 8
COMPRESSION_MASK = 0xF << COMPRESSION_SHIFT
STALE = 1 << 12
TAGGED = 1 << 13
DEPENDENT = 1 << 14
EXTENDED = 1 << 15
"""The life of a loaded value includes the time for which its namespace serves it past its TTL."""

INT_FLAGS = 2
"""Flags of a whole number, in ASCII decimal digits: the one kind of value that nodes read, to count."""

NO_TTL_MS = (1 << 64) - 1
"""In a column of TTLs: the entry does not expire."""
NOT_KEPT_MS = NO_TTL_MS - 1
"""In a column of TTLs of a FULFILL: the value is for those who wait, and is not stored."""
