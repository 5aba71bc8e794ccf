"""``invalidate``: declare values untrue, by key, prefix, pattern, tag or namespace."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, call
from cachenode.cli.options import Address, Format, Namespace, Output, Timeout
from cachenode.cli.output import console, count, print_json, shown

__all__ = ["invalidate"]

_TIMEOUT_S = 5.0
"""A client that is frozen holds up an acknowledged invalidation for 2.2 seconds."""


class _Ack(StrEnum):
    """What is waited for."""

    ALL = "all"
    OWNER = "owner"


@reports
def invalidate(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEYS]...", help="Single keys.", show_default=False)
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="All keys that begin so.", show_default=False)
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern", metavar="GLOB", help="All keys that match: * ? [abc] [a-z] [!a].", show_default=False
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="All that was stored with this tag; repeatable.", show_default=False),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="The whole namespace. Asks first on a terminal.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    expire: Annotated[
        bool,
        typer.Option("--expire", help="Where the namespace has a stale_s, serve it for so long, marked stale."),
    ] = False,
    ack: Annotated[
        _Ack, typer.Option("--ack", help="Wait until nobody serves a copy (all), or for the nodes alone (owner).")
    ] = _Ack.ALL,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = _TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Declare values untrue: they go from every node, from L2 and from all near caches.

    When the command has ended, nobody reads them any more; with --ack owner clients may serve their copies for up to
    two seconds. With --expire values are marked stale instead, and end after the namespace's stale_s; where it has none
    they go. Keys, prefix, pattern and tags can be given together. After an error part may have been done: repeat
    the command.
    """
    _check(keys, prefix, pattern, tags, whole=whole)
    if whole and not yes and sys.stdin.isatty():
        typer.confirm(f"Invalidate everything in namespace {namespace}?", abort=True)
    found = call(
        lambda client: client.invalidate(
            keys or None,
            prefix=prefix,
            pattern=pattern,
            tags=tags or None,
            namespace=namespace if whole else None,
            mode="expire" if expire else "remove",
            ack=ack.value,
        ),
        address=address,
        namespace=namespace,
        timeout_s=timeout,
    )
    if output is Format.JSON:
        document = {"namespace": namespace, "keys": keys or [], "found": found, "prefix": prefix, "pattern": pattern}
        print_json(document | {"tags": tags or [], "all": whole, "expire": expire, "ack": ack.value})
        return
    screen = console()
    what = _described(keys or [], prefix, pattern, tags or [], whole=whole, found=found)
    screen.print(
        f"{'Expired' if expire else 'Invalidated'} {what} in namespace {namespace}.", markup=False, soft_wrap=True
    )
    if ack is _Ack.OWNER:
        screen.print("Clients may serve copies of it for up to two seconds.")


def _check(
    keys: list[str] | None, prefix: str | None, pattern: str | None, tags: list[str] | None, *, whole: bool
) -> None:
    named = bool(keys or tags) or prefix is not None or pattern is not None
    if whole and named:
        text = "--all is everything in the namespace: leave keys, --prefix, --pattern and --tag out"
        raise CliError(text, code=ExitCode.USAGE)
    if not whole and not named:
        text = "name what is untrue: KEYS, --prefix, --pattern, --tag or --all"
        raise CliError(text, hint="`cachenode invalidate --help` has examples.", code=ExitCode.USAGE)


def _described(
    keys: list[str], prefix: str | None, pattern: str | None, tags: list[str], *, whole: bool, found: int
) -> str:
    if whole:
        return "everything"
    unique = len(set(keys))
    parts = [f"{count(unique)} {'key' if unique == 1 else 'keys'} ({count(found)} had a value)"] if keys else []
    parts += [f"all with prefix {_text(prefix)}"] if prefix is not None else []
    parts += [f"all that match {_text(pattern)}"] if pattern is not None else []
    parts += [f"all with tag {_text(tag)}" for tag in tags]
    return ", ".join(parts)


def _text(argument: str) -> str:
    return shown(argument.encode(errors="surrogateescape"))
