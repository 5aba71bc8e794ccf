"""How much one entry, one invalidation and one session may be or hold, whoever sends it.

The contract has limits of its own (`cachenode_api`), which every client keeps; a node may be told to take less than
that, never more. Peers are not asked again for what the node that took the call has looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachenode_api.dependencies import MAX_PARENTS
from cachenode_api.errors import InvalidSelector
from cachenode_api.globs import MAX_STARS
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.selectors import MAX_GLOB_BYTES, Selector, SelectorKind
from cachenode_api.tags import MAX_TAGS

__all__ = ["Limits"]


class Limits(NamedTuple):
    """The limits of one node.

    Attributes:
        key_bytes: Longest key that is written, removed or loaded.
        tags: Most tags of one entry.
        parents: Most keys that one entry may be said to depend on.
        selectors: Most prefixes, patterns and tags in one invalidation.
        pattern_bytes: Longest pattern.
        pattern_stars: Most stars in one pattern.
        leases: Most loads that one session may have open.
    """

    key_bytes: int = MAX_KEY_BYTES
    tags: int = MAX_TAGS
    parents: int = MAX_PARENTS
    selectors: int = 1_000
    pattern_bytes: int = MAX_GLOB_BYTES
    pattern_stars: int = MAX_STARS
    leases: int = 10_000

    def check(self, selectors: Sequence[Selector]) -> None:
        """Look at what an invalidation covers.

        Raises:
            InvalidSelector: It is more than is taken.
        """
        if len(selectors) > self.selectors:
            text = f"selectors: {len(selectors):,} in one invalidation exceed the limit of {self.selectors:,}"
            raise InvalidSelector(text)
        for selector in selectors:
            if selector.kind is not SelectorKind.GLOB:
                continue
            if len(selector.text) > self.pattern_bytes:
                text = f"pattern: {len(selector.text):,} bytes exceed the limit of {self.pattern_bytes:,} bytes"
                raise InvalidSelector(text)
            if selector.stars > self.pattern_stars:
                raise InvalidSelector(f"pattern: {selector.stars} * exceed the limit of {self.pattern_stars}")
