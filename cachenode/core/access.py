"""Who may do what: tokens, the roles that they give, and the namespaces that they are for.

Tokens are kept as their SHA-256 alone: who reads the file cannot use it. A token is found by its hash, so how long that
takes says nothing about tokens that exist; it is random and long, so the hash needs no salt and no stretching.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Grant", "Grants", "Role", "hash_of"]


class Role(IntEnum):
    """What a token lets its bearer do; each role may do what those before it may."""

    READ = 1
    WRITE = 2
    ADMIN = 3
    PEER = 4


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token gives.

    Attributes:
        name: Whose it is, for logs.
        role: The most that it allows.
        namespaces: The only ones that it is for; empty for all.
    """

    name: str
    role: Role
    namespaces: frozenset[str] = frozenset()

    def allows(self, role: Role, namespace: str | None) -> bool:
        """Return True if something may be done that takes a role, in a namespace; None is for all of them at once."""
        if self.role < role:
            return False
        return not self.namespaces or namespace in self.namespaces


class Grants:
    """The grants of a cluster.

    Args:
        grants: Each with the hash of its token, as `hash_of` gives it.
    """

    __slots__ = ("_by_hash",)

    def __init__(self, grants: Iterable[tuple[str, Grant]]) -> None:
        self._by_hash = dict(grants)

    def of(self, token: str) -> Grant | None:
        """Return what a token gives; None if it is none."""
        return self._by_hash.get(hash_of(token))

    def __len__(self) -> int:
        return len(self._by_hash)

    def __repr__(self) -> str:
        return f"<Grants of {len(self._by_hash)} tokens>"


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()
