"""The page of limits lists every limit with its default."""

from __future__ import annotations

from cachenode.cli.docs import pages
from cachenode.config.show import fields_help


def test_page_has_every_limit() -> None:
    """A row each, in the order of the settings, with the default that is in force."""
    rows = [line.split(" | ")[:2] for line in pages()["limits"].text.splitlines() if line.startswith("| `limits.")]
    expected = [[f"| `{item.path}`", f"`{item.default}`"] for item in fields_help() if item.path.startswith("limits.")]
    assert rows == expected
