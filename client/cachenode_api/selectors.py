"""Selectors: what an invalidation may cover besides single keys.

The numbers of the kinds are those of the wire enum ``cachenode.v1.Selector``; a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from cachenode_api.errors import InvalidSelector
from cachenode_api.globs import Glob
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.tags import MAX_TAG_BYTES

__all__ = ["EVERYTHING", "MAX_GLOB_BYTES", "Selector", "SelectorKind", "make_selector"]

MAX_GLOB_BYTES = 256
EVERYTHING = b"*"
"""The text of a selector of a whole namespace."""


class SelectorKind(IntEnum):
    """What a selector's text is."""

    PREFIX = 1
    GLOB = 2
    TAG = 3
    NAMESPACE = 4


_LIMITS = {SelectorKind.PREFIX: MAX_KEY_BYTES, SelectorKind.GLOB: MAX_GLOB_BYTES, SelectorKind.TAG: MAX_TAG_BYTES}


@dataclass(frozen=True, slots=True, repr=False)
class Selector:
    """What an invalidation covers. Made by `make_selector`; two of one kind and text are equal.

    Attributes:
        kind: What the text is.
        text: A beginning of keys, a pattern (`cachenode_api.globs`), a tag, or `EVERYTHING`.
    """

    kind: SelectorKind
    text: bytes
    _glob: Glob | None = field(default=None, compare=False)

    @property
    def stars(self) -> int:
        """Stars in its pattern, 0 if it is none."""
        return self._glob.stars if self._glob is not None else 0

    def covers(self, key: bytes, tags: Sequence[bytes]) -> bool:
        """Return True if an entry of this key and these tags is covered."""
        if self.kind is SelectorKind.TAG:
            return self.text in tags
        if self.kind is SelectorKind.PREFIX:
            return key.startswith(self.text)
        return self._glob is None or self._glob.matches(key)

    def __repr__(self) -> str:
        return f"<Selector {self.kind.name} {len(self.text)} bytes>"


def make_selector(kind: int, text: bytes) -> Selector:
    """Return the selector of a kind and text.

    Raises:
        InvalidSelector: There is no such kind, the text is empty or too long for it, or the pattern is not well formed.
    """
    try:
        kind = SelectorKind(kind)
    except ValueError:
        raise InvalidSelector(f"selector: kind must be {min(SelectorKind):d} to {max(SelectorKind):d}") from None
    if kind is SelectorKind.NAMESPACE:
        if text != EVERYTHING:
            raise InvalidSelector("namespace: the text of its selector must be a single *")
        return Selector(kind, text)
    name, limit = kind.name.lower(), _LIMITS[kind]
    if not text:
        raise InvalidSelector(f"{name}: must not be empty")
    if len(text) > limit:
        raise InvalidSelector(f"{name}: {len(text):,} bytes exceed the limit of {limit:,} bytes")
    return Selector(kind, text, Glob(text) if kind is SelectorKind.GLOB else None)
