"""What one invalidation may cover."""

from __future__ import annotations

import pytest

from cachenode.core.limits import Limits
from cachenode_api.errors import InvalidSelector
from cachenode_api.selectors import SelectorKind, make_selector

SMALL = Limits(selectors=3, pattern_bytes=10, pattern_stars=1)
GLOB, PREFIX = SelectorKind.GLOB, SelectorKind.PREFIX


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([(PREFIX, b"p")] * 4, "selectors: 4 in one invalidation exceed the limit of 3"),
        ([(PREFIX, b"p"), (GLOB, b"a" * 11)], "pattern: 11 bytes exceed the limit of 10 bytes"),
        ([(GLOB, b"a*b*c")], r"pattern: 2 \* exceed the limit of 1"),
    ],
)
def test_what_is_too_much(texts: list[tuple[SelectorKind, bytes]], said: str) -> None:
    """The error names the field, the limit and the size, and nothing of the text."""
    with pytest.raises(InvalidSelector, match=said):
        SMALL.check([make_selector(kind, text) for kind, text in texts])


def test_what_is_just_enough() -> None:
    """Limits may be reached; those of patterns are not for prefixes, and neighbouring stars are one."""
    SMALL.check([make_selector(*each) for each in ((PREFIX, b"p" * 11), (GLOB, b"a" * 10), (GLOB, b"a**b"))])
