"""Dependencies: which entries an entry was made from, so that it becomes untrue when one of them changes.

What an entry depends on are its *parents*. A parent is a key, of the same namespace or of another (`Parent`); it need
not be in the cache. Everywhere a parent is known by its *reference*, ``namespace/key`` as bytes: names of namespaces
hold no slash. Several travel as a block, each after its length in two bytes, little-endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from cachenode_api.errors import ContractError, InvalidDependencies
from cachenode_api.keys import DEFAULT_NAMESPACE, canonical_key, check_namespace

__all__ = [
    "MAX_ANCESTORS",
    "MAX_PARENTS",
    "Parent",
    "canonical_parents",
    "pack_references",
    "parent_of",
    "reference_of",
    "split_references",
]

MAX_PARENTS = 32
"""Parents that an entry may name."""
MAX_ANCESTORS = 128
"""Parents, their parents and so on, of one entry."""
_LENGTH = Struct("<H")
_MALFORMED = "depends_on: the references are not well formed"


class Parent(NamedTuple):
    """A key of a named namespace that something depends on: ``Parent("users", "user:7")``."""

    namespace: str
    key: str | bytes


def reference_of(namespace: str, key: bytes) -> bytes:
    """Return the reference of a key."""
    return b"%s/%s" % (namespace.encode(), key)


def parent_of(reference: bytes) -> tuple[str, bytes]:
    """Return the namespace and the key of a reference.

    Raises:
        InvalidDependencies: It is not one.
    """
    name, slash, key = reference.partition(b"/")
    if not slash:
        raise InvalidDependencies(_MALFORMED)
    try:
        return check_namespace(name.decode("ascii")), canonical_key(key)
    except (ContractError, UnicodeDecodeError):
        raise InvalidDependencies(_MALFORMED) from None


def canonical_parents(parents: Iterable[str | bytes | tuple[str, str | bytes]], namespace: str) -> tuple[bytes, ...]:
    """Return the references of parents, sorted and each once.

    Args:
        parents: Keys of the namespace, or a `Parent` or pair for a key of another.
        namespace: Of the entry that depends on them.

    Raises:
        InvalidDependencies: There are more than `MAX_PARENTS`, or they are not several, as in a list.
        InvalidKey: One is not a key.
        InvalidNamespace: One is of no namespace.
    """
    if isinstance(parents, (str, bytes, bytearray, memoryview, Parent)) or not isinstance(parents, Iterable):
        name = type(parents).__name__
        raise InvalidDependencies(f"depends_on: must be several keys, as in a list or set, not one {name}")
    found = sorted({_canonical(parent, namespace or DEFAULT_NAMESPACE) for parent in parents})
    if len(found) > MAX_PARENTS:
        raise InvalidDependencies(f"depends_on: {len(found):,} keys exceed the limit of {MAX_PARENTS}")
    return tuple(found)


def _canonical(parent: object, namespace: str) -> bytes:
    if isinstance(parent, tuple):
        if len(parent) != 2:
            raise InvalidDependencies("depends_on: a tuple must be a namespace and a key")
        namespace, parent = check_namespace(parent[0]), parent[1]
    return reference_of(namespace, canonical_key(parent))  # type: ignore[arg-type]  # says itself what it may be


def pack_references(references: Sequence[bytes]) -> bytes:
    """Return the block of references."""
    return b"".join([_LENGTH.pack(len(reference)) + reference for reference in references])


def split_references(block: bytes, limit: int = MAX_ANCESTORS) -> tuple[bytes, ...]:
    """Return the references of a block.

    Raises:
        InvalidDependencies: It is not well formed, or holds more than the limit.
    """
    found = []
    at = 0
    while at < len(block):
        start = at + _LENGTH.size
        if start > len(block):
            raise InvalidDependencies(_MALFORMED)
        at = start + _LENGTH.unpack_from(block, start - _LENGTH.size)[0]
        if at > len(block):
            raise InvalidDependencies(_MALFORMED)
        parent_of(block[start:at])
        found.append(block[start:at])
    if len(found) > limit:
        raise InvalidDependencies(f"depends_on: {len(found):,} keys exceed the limit of {limit}")
    return tuple(found)
