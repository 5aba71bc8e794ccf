"""Views: the epoch-numbered member sets from which both ends build their rings."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachenode_api.errors import InvalidView

__all__ = ["MAX_SEED_BYTES", "RING_HASH", "VNODES", "Member", "View"]

RING_HASH = "blake2b-64"
VNODES = 160
MAX_SEED_BYTES = 64


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A node as seen in a view. Its identity is (id, incarnation, address)."""

    id: str
    incarnation: str
    address: str
    http_address: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class View:
    """A member set with its epoch. A higher epoch replaces a lower one.

    Members are sorted by id, whatever order they are given in.

    Raises:
        InvalidView: Two members share an id, a weight or the number of points is below 1, the seed is longer than 64
            bytes, or the ring hash is unknown.
    """

    epoch: int
    ring_seed: bytes
    members: tuple[Member, ...]
    ring_hash: str = RING_HASH
    vnodes: int = VNODES
    by_id: dict[str, Member] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(sorted(self.members)))
        object.__setattr__(self, "by_id", {member.id: member for member in self.members})
        if len(self.by_id) != len(self.members):
            raise InvalidView("view: two members share an id")
        if any(member.weight < 1 for member in self.members):
            raise InvalidView("view: a member's weight is below 1")
        if self.vnodes < 1:
            raise InvalidView("view: vnodes is below 1")
        if len(self.ring_seed) > MAX_SEED_BYTES:
            raise InvalidView(f"view: a ring seed of {len(self.ring_seed)} bytes exceeds {MAX_SEED_BYTES}")
        if self.ring_hash != RING_HASH:
            raise InvalidView(f"view: unknown ring hash (this side knows {RING_HASH})")
