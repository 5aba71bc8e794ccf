"""What a node may still take from the former owners of its keys: what nobody has touched since its view began.

A former owner hands over what it had. Meanwhile the new owner may already act: it writes, removes and reads from L2,
and some of what it does leaves nothing in memory that would say so when the older entry comes. So from the view on it
remembers every key that it has touched, and takes nothing for those; and it does so only for a while, because this
memory must have an end. What comes later, or for another view, is refused.

Cases, each with a test of the same name in ``tests/core/test_gains.py``:

1. ``removed_key_is_not_taken``: the new owner removes the key, and then its entry comes.
2. ``late_entry_is_not_taken``: it comes when the window is over, though nobody has touched the key.
3. ``new_view_begins_anew``: a key that was touched under the former view may come under this one, from whoever has
   owned it in between.
4. ``too_many_touched_close_the_window``: when there is no room for another key, nothing is taken any more.
"""

from __future__ import annotations

__all__ = ["Gains"]


class Gains:
    """The keys that this node has touched since its view began.

    Args:
        limit: Most keys remembered; with the next one the window closes.

    Attributes:
        open: True while entries may be taken; then every key that is touched must be told. Checked on the way of
            each write, so it is a plain attribute; `takes` looks at the time itself.
    """

    __slots__ = ("_limit", "_touched", "_until", "open")

    def __init__(self, *, limit: int = 100_000) -> None:
        self.open = False
        self._limit = limit
        self._until = 0.0
        self._touched: set[tuple[str, bytes]] = set()

    def begin(self, until: float) -> None:
        """Open the window for a new view: nothing is touched yet."""
        self.open = True
        self._until = until
        self._touched.clear()

    def close(self) -> None:
        """Take nothing any more."""
        self.open = False
        self._touched.clear()

    def tick(self, now: float) -> None:
        """Close the window if its time is over."""
        if self.open and now >= self._until:
            self.close()

    def touch(self, namespace: str, key: bytes) -> None:
        """Take note that a key is written, removed or answered from elsewhere."""
        if not self.open:
            return
        self._touched.add((namespace, key))
        if len(self._touched) > self._limit:
            self.close()

    def takes(self, namespace: str, key: bytes, now: float) -> bool:
        """Return True if what a former owner has may be taken for a key."""
        return self.open and now < self._until and (namespace, key) not in self._touched

    def __len__(self) -> int:
        return len(self._touched)

    def __repr__(self) -> str:
        return f"<Gains open={self.open} touched={len(self._touched)}>"
