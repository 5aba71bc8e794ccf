"""Tags: what an entry is filed under besides its key, so that one invalidation finds all that share a tag.

They lie in a block before the value's own bytes, and the flag `cachenode_api.records.TAGGED` says so. Thus they travel
and are stored with the value, in memory, in L2 and in near caches, and nobody keeps a second table in step with it:

====== =================================================
type   field
====== =================================================
u16    length of the rest of the block, little-endian
u8     length of a tag  (for each tag)
bytes  the tag in UTF-8 (for each tag)
====== =================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

from cachenode_api.errors import InvalidTags

__all__ = ["MAX_TAGS", "MAX_TAG_BYTES", "canonical_tags", "pack_tags", "split_tags", "tags_length"]

MAX_TAGS = 32
MAX_TAG_BYTES = 128
_LENGTH = Struct("<H")
_MALFORMED = "tags: the block before the value is not well formed"


def canonical_tags(tags: Iterable[str]) -> tuple[bytes, ...]:
    """Return the bytes of tags, sorted and each once.

    Raises:
        InvalidTags: There are more than `MAX_TAGS`, or one is not a string of 1 to `MAX_TAG_BYTES` bytes of UTF-8.
    """
    if isinstance(tags, (str, bytes, bytearray, memoryview)):
        raise InvalidTags(f"tags: must be several strings, as in a list or set, not one {type(tags).__name__}")
    if not isinstance(tags, Iterable):
        raise InvalidTags(f"tags: must be an iterable of str, not {type(tags).__name__}")
    found = sorted({_canonical_tag(tag) for tag in tags})
    if len(found) > MAX_TAGS:
        raise InvalidTags(f"tags: {len(found):,} exceed the limit of {MAX_TAGS}")
    return tuple(found)


def _canonical_tag(tag: object) -> bytes:
    if not isinstance(tag, str):
        raise InvalidTags(f"tag: must be str, not {type(tag).__name__}")
    try:
        raw = tag.encode()
    except UnicodeEncodeError:
        raise InvalidTags("tag: not encodable as UTF-8 (it holds a lone surrogate)") from None
    if not raw:
        raise InvalidTags("tag: must not be empty")
    if len(raw) > MAX_TAG_BYTES:
        raise InvalidTags(f"tag: {len(raw):,} bytes exceed the limit of {MAX_TAG_BYTES} bytes")
    return raw


def pack_tags(tags: Sequence[bytes]) -> bytes:
    """Return the block of canonical tags."""
    rest = b"".join([bytes((len(tag),)) + tag for tag in tags])
    return _LENGTH.pack(len(rest)) + rest


def tags_length(value: bytes) -> int:
    """Return how many bytes the block before a tagged value takes, without looking at the tags.

    Raises:
        InvalidTags: The value is shorter than that.
    """
    if len(value) < _LENGTH.size:
        raise InvalidTags(_MALFORMED)
    length: int = _LENGTH.unpack_from(value)[0] + _LENGTH.size
    if length > len(value):
        raise InvalidTags(_MALFORMED)
    return length


def split_tags(value: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Return the tags of a tagged value, and the value itself.

    Raises:
        InvalidTags: The block is not well formed, or exceeds a limit.
    """
    end = tags_length(value)
    tags = []
    at = _LENGTH.size
    while at < end:
        start = at + 1
        at = start + value[at]
        if at > end:
            raise InvalidTags(_MALFORMED)
        tags.append(value[start:at])
    if len(tags) > MAX_TAGS:
        raise InvalidTags(f"tags: {len(tags):,} exceed the limit of {MAX_TAGS}")
    for tag in tags:
        _check(tag)
    return tuple(tags), value[end:]


def _check(tag: bytes) -> None:
    if not 0 < len(tag) <= MAX_TAG_BYTES:
        raise InvalidTags(f"tag: {len(tag)} bytes are outside the limits of 1 to {MAX_TAG_BYTES} bytes")
    if not tag.isascii():
        try:
            tag.decode()
        except UnicodeDecodeError:
            raise InvalidTags("tag: must be UTF-8") from None
