"""Fill tokens: the right to store in L1 what was read elsewhere, destroyed by any write of the key in between.

Why: a read of L2 takes a moment. If a write of the same key happens in that moment, the value read may be older than
the write, and storing it would bring the old value back (the stale fill that leases at Facebook and fill tokens here
exist to stop).

Interleavings, each forced by a test of the same name:

1. ``write_during_fill``: begin(k) → void(k) (a write) → settle(k) is refused, so the older value is not stored.
2. ``two_fills_share_a_token``: begin(k), begin(k) → the first settle stores, the second is refused: one copy is enough.
3. ``fill_after_write``: begin(k) → void(k) → begin(k) gives another token; the first settle is refused, the second
   allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FillTokens"]


class FillTokens:
    """The live fill tokens of one namespace."""

    __slots__ = ("_by_key", "_last")

    def __init__(self) -> None:
        self._by_key: dict[bytes, int] = {}
        self._last = 0

    def begin(self, keys: Sequence[bytes]) -> list[int]:
        """Return a token per key. Every token must be settled."""
        tokens = []
        for key in keys:
            token = self._by_key.get(key)
            if token is None:
                self._last += 1
                token = self._by_key[key] = self._last
            tokens.append(token)
        return tokens

    def settle(self, key: bytes, token: int) -> bool:
        """End a fill. Return True if what was read may be stored."""
        if self._by_key.get(key) != token:
            return False
        del self._by_key[key]
        return True

    def live(self, key: bytes) -> bool:
        """Return True if the key is being read elsewhere, by somebody who may store it."""
        return key in self._by_key

    def void(self, key: bytes) -> None:
        """Destroy the key's token, if there is one: the key is written or dropped."""
        self._by_key.pop(key, None)

    def void_all(self) -> None:
        """Destroy all tokens: ownership may have moved."""
        self._by_key.clear()

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"<FillTokens {len(self._by_key)} live>"
