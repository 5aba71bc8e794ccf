"""The registry in memory, for tests and simulations: the contract of the Redis one, on an injected clock."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from cachenode.errors import RegistryError
from cachenode.ports import LOST_HISTORY_STRIDE, Clock, Renewal
from cachenode_api.view import Member, View

__all__ = ["SEED_BYTES", "MemoryRegistry", "identity", "new_seed", "twin_text"]

SEED_BYTES = 16
"""How far the epoch jumps when history was lost: above the epochs that existed and that the caller had not seen."""


def new_seed() -> bytes:
    """Return a ring seed that nobody can guess."""
    return secrets.token_bytes(SEED_BYTES)


def identity(member: Member) -> tuple[str, str, str, int]:
    """Return what of a member counts as a change of the set: not its HTTP address, which no ring is built from."""
    return (member.id, member.incarnation, member.address, member.weight)


class MemoryRegistry:
    """A `Registry` in memory.

    Args:
        clock: For leases.
        lease_s: A member that does not renew for so long leaves when anybody renews.
        seed: Makes the ring seed of a new cluster.

    Attributes:
        down: While True every call raises `RegistryError`.
    """

    def __init__(self, clock: Clock, *, lease_s: float = 4.0, seed: Callable[[], bytes] = new_seed) -> None:
        self.down = False
        self._clock = clock
        self._lease_s = lease_s
        self._new_seed = seed
        self._epoch = 0
        self._seed = b""
        self._members: dict[str, Member] = {}
        self._leases: dict[str, float] = {}

    async def renew(self, member: Member, known: View | None) -> Renewal:
        """Join, or renew the member's lease, and return the view in force.

        Raises:
            RegistryError: `down` is set, or the member has a twin.
        """
        self._check()
        now = self._clock.now()
        before = self._identities()
        floor = 0
        if known is not None and self._lost(known):
            floor = known.epoch + LOST_HISTORY_STRIDE - 1
            self._seed = known.ring_seed
            for other in known.members:
                if other.id not in self._members and other.id != member.id:
                    self._admit(other, now)
        for name in [name for name, deadline in self._leases.items() if deadline <= now]:
            self._remove(name)
        twin = self._members.get(member.id)
        replaced = twin is not None and twin.incarnation != member.incarnation
        refused = replaced and twin is not None and twin.address != member.address
        if not refused:
            self._seed = self._seed or (known.ring_seed if known else self._new_seed())
            self._admit(member, now)
        if floor or self._identities() != before:
            self._epoch = max(self._epoch, floor) + 1
        if refused and twin is not None:
            raise RegistryError(twin_text(member.id, twin.address))
        return Renewal(View(self._epoch, self._seed, tuple(self._members.values())), replaced=replaced)

    async def leave(self, member: Member) -> View | None:
        """End the member's lease now, and return the view without it.

        Does nothing, and returns None, if it has none or another incarnation took its place.

        Raises:
            RegistryError: `down` is set.
        """
        self._check()
        present = self._members.get(member.id)
        if present is None or present.incarnation != member.incarnation:
            return None
        self._remove(member.id)
        self._epoch += 1
        return View(self._epoch, self._seed, tuple(self._members.values()))

    async def close(self) -> None:
        """Keep everything: other users of this object go on."""

    def _check(self) -> None:
        if self.down:
            raise RegistryError("the registry cannot be reached: it was switched off")

    def _lost(self, known: View) -> bool:
        if known.epoch != self._epoch:
            return known.epoch > self._epoch
        return {identity(member) for member in known.members} != self._identities()

    def _identities(self) -> set[tuple[str, str, str, int]]:
        return {identity(member) for member in self._members.values()}

    def _admit(self, member: Member, now: float) -> None:
        self._members[member.id] = member
        self._leases[member.id] = now + self._lease_s

    def _remove(self, name: str) -> None:
        del self._members[name], self._leases[name]


def twin_text(name: str, address: str) -> str:
    """Return what to tell a node whose id is taken."""
    return (
        f"another node with the id {name!r} is alive at {address}: give each node an id of its own, or stop that one "
        "and try again when its lease has ended"
    )
