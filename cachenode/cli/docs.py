"""``docs``: the pages that come with the package, so that they are of the version that runs."""

from __future__ import annotations

import difflib
import sys
from importlib import resources
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.options import Format, Output
from cachenode.cli.output import console, new_table, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Page", "docs", "pages"]

_USE = "**When to use** "


class Page(NamedTuple):
    """One page.

    Attributes:
        name: What it is asked for by.
        title: Its heading.
        use: When to use what it is about; empty if it is about no policy.
        text: All of it, as Markdown.
    """

    name: str
    title: str
    use: str
    text: str


def pages() -> dict[str, Page]:
    """Return all pages by name."""
    return {page.name: page for page in _read()}


def _read() -> Iterator[Page]:
    files = [file for file in resources.files("cachenode.docs").iterdir() if file.name.endswith(".md")]
    for file in sorted(files, key=lambda file: file.name):
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        use = next((line.removeprefix(_USE).strip() for line in lines if line.startswith(_USE)), "")
        yield Page(file.name.removesuffix(".md"), lines[0].removeprefix("# "), use, text)


@reports
def docs(
    page: Annotated[str, typer.Argument(metavar="[PAGE]", help="Name of a page; without it they are listed.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Read about a policy: when to use it, how to set it, what it promises and what it does not."""
    found = pages()
    if not page:
        _list(list(found.values()), output)
        return
    if page not in found:
        near = difflib.get_close_matches(page, found, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`cachenode docs` lists them."
        raise CliError("there is no such page", hint=hint, code=ExitCode.NOT_FOUND)
    if output is Format.JSON:
        print_json(found[page]._asdict())
    elif sys.stdout.isatty():
        from rich.markdown import Markdown

        console().print(Markdown(found[page].text))
    else:
        print(found[page].text, end="")  # noqa: T201 - the result


def _list(found: list[Page], output: Format) -> None:
    if output is Format.JSON:
        print_json({"pages": [{"name": page.name, "title": page.title, "use": page.use} for page in found]})
        return
    table = new_table()
    table.add_column("page", no_wrap=True, style="bold")
    table.add_column("when to use")
    for page in found:
        table.add_row(page.name, page.use or page.title)
    screen = console()
    screen.print(table, markup=False)
    screen.print("Read one with `cachenode docs PAGE`.", markup=False)
