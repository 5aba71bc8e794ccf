"""Who may do what: tokens and certificates, the roles that they give, and the namespaces that they are for.

Tokens are kept as their SHA-256 alone: who reads the file cannot use it. A token is found by its hash, so how long that
takes says nothing about tokens that exist; it is random and long, so the hash needs no salt and no stretching.

A certificate is known by its alternative names (SAN): DNS names, addresses, or URIs such as SPIFFE's. What a pattern of
names means is as narrow as in TLS: a star stands for one whole label of a DNS name, the first, or for one whole segment
of a URI's path, never for a part of one and never for several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Grant", "Grants", "Role", "check_pattern", "hash_of", "name_fits"]


class Role(IntEnum):
    """What a token or certificate lets its bearer do; each role may do what those before it may."""

    READ = 1
    WRITE = 2
    ADMIN = 3
    PEER = 4


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token or certificate gives.

    Attributes:
        name: Whose it is, for logs.
        role: The most that it allows.
        namespaces: The only ones that it is for; empty for all.
        keys_per_s: How many keys a second its bearers may ask a node for, all together; 0 for what others may.
    """

    name: str
    role: Role
    namespaces: frozenset[str] = frozenset()
    keys_per_s: float = 0.0

    def allows(self, role: Role, namespace: str | None) -> bool:
        """Return True if something may be done that takes a role, in a namespace; None is for all of them at once."""
        if self.role < role:
            return False
        return not self.namespaces or namespace in self.namespaces


class Grants:
    """The grants of a cluster.

    Args:
        grants: Each with the hash of its token, as `hash_of` gives it.
        certificates: Each with the pattern of the names that it is for; the first that fits counts.
    """

    __slots__ = ("_by_hash", "_by_name")

    def __init__(self, grants: Iterable[tuple[str, Grant]], certificates: Iterable[tuple[str, Grant]] = ()) -> None:
        self._by_hash = dict(grants)
        self._by_name = tuple(certificates)

    def of(self, token: str) -> Grant | None:
        """Return what a token gives; None if it is none."""
        return self._by_hash.get(hash_of(token))

    def of_names(self, names: Collection[str]) -> Grant | None:
        """Return what a certificate with these names gives; None if it is known by none of them."""
        for pattern, grant in self._by_name:
            if any(name_fits(pattern, name) for name in names):
                return grant
        return None

    @property
    def certificates(self) -> int:
        """How many patterns of certificates' names there are."""
        return len(self._by_name)

    def __len__(self) -> int:
        return len(self._by_hash) + len(self._by_name)

    def __repr__(self) -> str:
        return f"<Grants of {len(self._by_hash)} tokens and {len(self._by_name)} certificates>"


def check_pattern(pattern: str) -> str:
    """Return what is wrong with a pattern of names, empty if nothing."""
    uri = "://" in pattern
    parts = pattern.split("/" if uri else ".")
    if not pattern or not pattern.isprintable() or " " in pattern:
        return "must be a DNS name, an address or a URI"
    if any("*" in part and part != "*" for part in parts):
        return "a * must stand for a whole label of a name, or a whole segment of a path"
    if "*" in (parts[:3] if uri else parts[1:]) or pattern == "*":
        return "a * may only be the first label of a DNS name, or in the path of a URI"
    if not uri and parts[0] == "*" and len(parts) < 3:
        return "a * must be followed by a domain of at least two labels"
    return ""


def name_fits(pattern: str, name: str) -> bool:
    """Return True if a pattern, which `check_pattern` has nothing against, stands for a name."""
    uri = "://" in pattern
    if uri is not ("://" in name):
        return False
    if not uri:
        pattern, name = pattern.lower(), name.lower()
    wanted, parts = (text.split("/" if uri else ".") for text in (pattern, name))
    if len(wanted) != len(parts):
        return False
    return all(part if want == "*" else want == part for want, part in zip(wanted, parts, strict=True))


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()
