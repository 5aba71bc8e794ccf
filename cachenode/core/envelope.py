"""The bytes in which a value lies in the shared store.

::

    offset  size
    0       1     FORMAT        any other first byte: not ours, reads as absent
    1       1     kind          VALUE or TOMBSTONE
    2       8     version       big-endian
    10      8     deadline      in milliseconds of the store's own clock, big-endian; 0 = never expires
    18      4     flags         big-endian
    22      8     position      of the namespace's barriers when the write or load began, big-endian
    30      4     CRC-32 of bytes 0-9, 18-29 and of the value
    34      …     value

The node makes the *head* (0-9) and the *tail* (18-end). The deadline between them is put there by a script inside the
store, from a time to live: only one clock is ever read, so the nodes' wall clocks do not matter. The node cannot know
the deadline when it makes the CRC, so the CRC leaves it out; the store drops the key by its own timer too, so a
damaged deadline can only end a life early.

A tombstone may end after its version; whatever follows is not read.
"""

from __future__ import annotations

import math
import struct
from zlib import crc32

from cachenode.core.entries import L2Entry

__all__ = ["FORMAT", "HEADER_BYTES", "HEAD_BYTES", "TOMBSTONE", "VALUE", "decode", "encode", "head", "tail", "ttl_ms"]

FORMAT = 0xC2  # never the first byte of UTF-8 text, nor of a pickle, JSON or zlib stream
VALUE = 0
TOMBSTONE = 1
HEAD_BYTES = 10
HEADER_BYTES = 34

_HEAD = struct.Struct(">BBQ")
_FLAGS = struct.Struct(">IQ")
_CHECK = struct.Struct(">I")
_ALL = struct.Struct(">BBQQIQI")
_DEADLINE = struct.Struct(">Q")
_PREFIX = bytes((FORMAT, VALUE))
_MAX_TTL_MS = 100 * 365 * 86_400_000  # a deadline stays far below 2**53, which the store's scripts count in doubles
_MAX_FLAGS = 0xFFFF_FFFF


def head(version: int, *, kind: int = VALUE) -> bytes:
    """Return what comes before the deadline."""
    return _HEAD.pack(FORMAT, kind, version)


def tail(version: int, flags: int, value: bytes, position: int = 0) -> bytes:
    """Return what comes after the deadline."""
    packed = _FLAGS.pack(flags & _MAX_FLAGS, position)
    return b"".join((packed, _CHECK.pack(crc32(value, crc32(packed, crc32(head(version))))), value))


def encode(version: int, deadline_ms: int, flags: int, value: bytes, position: int = 0) -> bytes:
    """Return a whole envelope, as the store's script composes it."""
    return head(version) + _DEADLINE.pack(deadline_ms) + tail(version, flags, value, position)


def ttl_ms(ttl_s: float) -> int:
    """Return a time to live as the store takes it: whole milliseconds, at least 1; 0 means that it never ends."""
    if math.isinf(ttl_s):
        return 0
    return max(1, min(math.ceil(ttl_s * 1_000), _MAX_TTL_MS))


def decode(raw: bytes | None, now_ms: int) -> L2Entry | None:
    """Return the live value in an envelope.

    None if there is none: absent, tombstone, past its deadline, damaged, or written by somebody else.

    Args:
        raw: What the store holds.
        now_ms: The store's clock, read in the same round trip.
    """
    if raw is None or raw[:2] != _PREFIX or len(raw) < HEADER_BYTES:
        return None
    _, _, version, deadline_ms, flags, position, check = _ALL.unpack_from(raw)
    if deadline_ms and deadline_ms <= now_ms:
        return None
    value = raw[HEADER_BYTES:]
    if crc32(value, crc32(raw[18:30], crc32(raw[:HEAD_BYTES]))) != check:
        return None
    return L2Entry(value, flags, version, (deadline_ms - now_ms) / 1_000 if deadline_ms else math.inf, position)
