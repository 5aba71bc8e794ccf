"""``cachenode docs``, and the pages themselves."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cachenode.cli.docs import pages
from cachenode.cli.main import app
from tests.support.pages import NO_POLICIES

PARTS = (
    "**When to use** ",
    "**When not to** ",
    "## Configure",
    "## What it promises, and what not",
    "## Metrics",
    "## Where the usual snippet goes wrong",
    "## Try it",
)
"""What the page of a policy says, in this order."""
POLICIES = sorted(set(pages()) - NO_POLICIES)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["docs", *arguments])
    return result.exit_code, result.output


def test_pages_are_listed() -> None:
    """Without a name each page is a row, with when to use what it is about."""
    code, text = run()
    assert code == 0
    assert all(name in text for name in pages())
    listed = json.loads(run("-o", "json")[1])["pages"]
    assert [page["name"] for page in listed] == sorted(pages())


def test_page_is_shown() -> None:
    """In a pipe a page is the Markdown that it is; for programs it comes with its parts."""
    page = pages()["read-through"]
    assert run("read-through") == (0, page.text)
    assert json.loads(run("read-through", "-o", "json")[1]) == page._asdict()


def test_unknown_page() -> None:
    """A name that is nearly right is put right; the exit code says that there is none."""
    code, text = run("read-trough")
    assert code == 3
    assert "Did you mean read-through?" in text
    assert "`cachenode docs` lists them." in run("zzz")[1]


@pytest.mark.parametrize("name", POLICIES)
def test_page_has_all_parts(name: str) -> None:
    """Each page of a policy has the same parts in the same order, and one sentence before them."""
    text = pages()[name].text
    assert text.startswith("# ")
    assert text.splitlines()[2].strip(), "what it does, in a sentence"
    at = [text.find(f"\n{part}") for part in PARTS]
    assert -1 not in at, [part for part, where in zip(PARTS, at, strict=True) if where < 0]
    assert at == sorted(at)
