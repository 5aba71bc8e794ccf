"""The ring: which member owns a key under a view.

Placement is uhashring's, with a keyed BLAKE2b over the key's bytes in place of its default hash: an avalanche hash
spreads short sequential keys (FNV-1 sent ``user:0`` to ``user:9`` to one of three nodes), and the key (the cluster's
seed) keeps strangers from choosing keys that all land on one node. A ring is built once per view and never changed:
uhashring's mutators have left stale points behind before. Look-ups go over the sorted points by bisection, the owner
names laid out beside them, which is what uhashring does less its bookkeeping per call.

Test vectors for other languages: ``tests/golden/ring_vectors.json``.
"""

from __future__ import annotations

from bisect import bisect
from hashlib import blake2b
from typing import TYPE_CHECKING

from uhashring import HashRing

if TYPE_CHECKING:
    from cachenode_api.view import View

__all__ = ["Ring"]


class Ring:
    """An immutable consistent hash ring.

    The hash of a key is the first 8 bytes, big-endian, of BLAKE2b with an 8-byte digest, keyed with the view's seed.
    The point number i of a member is the hash of ``"<id>-<i>"``, i from 0 to vnodes × weight - 1. A key belongs to
    the first point above its hash, wrapping around.

    Args:
        view: The members, weights, seed and number of points. May be empty: then nobody owns anything.
    """

    __slots__ = ("_hasher", "_owners", "_points", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self._hasher = blake2b(digest_size=8, key=view.ring_seed)
        nodes = {m.id: {"weight": m.weight, "vnodes": view.vnodes} for m in view.members}
        points = HashRing(nodes=nodes, hash_fn=self._hash_point).get_points() if nodes else []
        self._points = [point for point, _ in points]
        self._owners: list[str] = [owner for _, owner in points]

    def hash(self, key: bytes) -> int:
        """Return the position of a key on the ring, 0 to 2**64 - 1."""
        hasher = self._hasher.copy()
        hasher.update(key)
        return int.from_bytes(hasher.digest(), "big")

    def _hash_point(self, label: str) -> int:
        return self.hash(label.encode())

    def owner(self, key: bytes) -> str | None:
        """Return the id of the key's owner, or None on an empty ring."""
        owners = self._owners
        if not owners:
            return None
        hasher = self._hasher.copy()
        hasher.update(key)
        at = bisect(self._points, int.from_bytes(hasher.digest(), "big"))
        return owners[at] if at < len(owners) else owners[0]

    def owners(self, key: bytes, count: int) -> list[str]:
        """Return the owner and the distinct members that follow it on the ring, at most `count`."""
        found: list[str] = []
        size = len(self._owners)
        at = bisect(self._points, self.hash(key))
        for step in range(size if count > 0 else 0):
            member = self._owners[(at + step) % size]
            if member not in found:
                found.append(member)
                if len(found) >= min(count, len(self.view.members)):
                    break
        return found

    def shares(self) -> dict[str, float]:
        """Return the part of the ring that each member owns; the parts add up to 1."""
        total = dict.fromkeys(self.view.by_id, 0)
        before = self._points[-1] - (1 << 64) if self._points else 0
        for point, owner in zip(self._points, self._owners, strict=True):
            total[owner] += point - before
            before = point
        return {member: part / (1 << 64) for member, part in total.items()}

    def segments(self, count: int) -> list[str]:
        """Return who owns each of so many equal parts of the ring, judged by its middle: for pictures."""
        if not self._owners:
            return []
        step, size = (1 << 64) // count, len(self._owners)
        return [self._owners[bisect(self._points, part * step + step // 2) % size] for part in range(count)]

    def __repr__(self) -> str:
        return f"<Ring epoch={self.view.epoch} members={len(self.view.members)} points={len(self._points)}>"
