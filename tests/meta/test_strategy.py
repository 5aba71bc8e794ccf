"""The table of the strategy: every section has all five of feature, setting, metric and test, and what it names exists.

Settings, metrics, commands and links are checked with those of all pages (``test_pages.py``); here are the tests, and
that no cell is empty.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cachenode.cli.docs import pages
from tests.support.pages import NO_POLICIES

TOP = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in pages()["strategy"].text.splitlines()
    if line.startswith("| ") and not line.startswith("| Section")
]
_PATH = re.compile(r"`(tests/[a-z_/]+\.py)`\Z")
_LINK = re.compile(r"\]\(([a-z-]+)\.md\)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_is_whole(row: list[str]) -> None:
    """Five cells, none of them empty, and a file of tests that is there and has some."""
    assert len(row) == 5
    assert all(row)
    path = _PATH.match(row[4])
    assert path is not None
    assert "def test_" in (TOP / path[1]).read_text(encoding="utf-8")


def test_every_policy_has_a_row() -> None:
    """No page is left out of the table."""
    linked = {name for row in ROWS for name in _LINK.findall(row[1])}
    assert pages().keys() - linked - NO_POLICIES == set()
