"""``get``, ``set`` and ``delete``: one key, through the client that applications use."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cachenode.cli.connection import client
from cachenode.cli.errors import CliError, ExitCode, not_found, reports
from cachenode.cli.options import Address, Format, Namespace, Output, Timeout, parse_duration
from cachenode.cli.output import console, new_table, print_json, seconds, write_value

if TYPE_CHECKING:
    from cachenode_client import CacheClient, Lookup

__all__ = ["DEFAULT_ADDRESS", "DEFAULT_TIMEOUT_S", "Key", "call", "delete", "get", "put"]

T = TypeVar("T")

Key = Annotated[str, typer.Argument(metavar="KEY", help="1 to 1,024 bytes.", show_default=False)]
DEFAULT_ADDRESS = "127.0.0.1:7401"
DEFAULT_TIMEOUT_S = 2.0


def call(function: Callable[[CacheClient], Awaitable[T]], *, address: str, namespace: str, timeout_s: float) -> T:
    """Return what a function gets from a client that is closed afterwards, and that keeps no copies meanwhile."""

    async def run() -> T:
        async with client(address, namespace=namespace, timeout_s=timeout_s) as connected:
            return await function(connected)

    return asyncio.run(run())


@reports
def get(
    key: Key,
    meta: Annotated[bool, typer.Option("--meta", help="Also show version, remaining life and layer.")] = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show the value of a key.

    Text is written as it is and other values as JSON; bytes go to a pipe or a file unchanged. The exit code is 3 if
    there is no such key.
    """
    found = call(lambda client: client.lookup(key), address=address, namespace=namespace, timeout_s=timeout)
    if output is Format.JSON:
        print_json(_described(key, namespace, found))
        if not found.found:
            raise typer.Exit(ExitCode.NOT_FOUND)
        return
    if not found.found:
        raise not_found()
    if meta:
        _print_meta(found)
    write_value(found.value)


def _described(key: str, namespace: str, found: Lookup) -> dict[str, Any]:
    document: dict[str, Any] = {"key": key, "namespace": namespace, "found": found.found}
    if found.found:
        document |= {
            "value": found.value,
            "type": type(found.value).__name__,
            "version": found.version,
            "ttl_s": None if found.ttl_s is None else round(found.ttl_s, 3),
            "layer": found.layer,
            "stale": found.stale,
        }
    return document


def _print_meta(found: Lookup) -> None:
    """Write what is known about a value on standard error, so that standard output is the value alone."""
    from cachenode_api.version import epoch_of, sequence_of

    table = new_table()
    table.show_header = False
    version = f"{found.version} (epoch {epoch_of(found.version)}, write {sequence_of(found.version):,})"
    table.add_row("version", version)
    table.add_row("ttl", "never expires" if found.ttl_s is None else seconds(found.ttl_s))
    table.add_row("layer", {"l1": "L1, a node's memory", "l2": "L2, Redis"}.get(found.layer, found.layer))
    table.add_row("type", type(found.value).__name__)
    if found.stale:
        table.add_row("stale", "yes: it has expired and its namespace allows this")
    console(stderr=True).print(table)


@reports
def put(
    key: Key,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="Text, or JSON with --json.", show_default=False)
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", metavar="DURATION", help="30s, 5m, 2h, 1d or never; without it the namespace's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The value is JSON: store what it stands for.")] = False,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Take the value from a file, as bytes; - is the input."),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="File the value under a tag for `invalidate --tag`; repeatable."),
    ] = None,
    depends_on: Annotated[
        list[str] | None,
        typer.Option("--depends-on", metavar="KEY", help="Remove the value when this key changes; repeatable."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Store a value under a key.

    The value is text unless --json or --file say otherwise.
    """
    content = _content(value, as_json=as_json, file=file)
    ttl_s = None if ttl is None else parse_duration(ttl)
    version = call(
        lambda client: client.set(key, content, ttl_s=ttl_s, tags=tags or None, depends_on=depends_on or None),
        address=address,
        namespace=namespace,
        timeout_s=timeout,
    )
    if output is Format.JSON:
        shown = None if ttl_s is None or math.isinf(ttl_s) else ttl_s
        print_json({"key": key, "namespace": namespace, "version": version, "ttl_s": shown, "tags": tags or []})
    else:
        console().print(f"Stored, version {version}.")


def _content(value: str | None, *, as_json: bool, file: str | None) -> object:
    if (value is None) == (file is None):
        raise CliError(
            "give either a VALUE or --file", hint="`cachenode set --help` has examples.", code=ExitCode.USAGE
        )
    raw: str | bytes
    if file is not None:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    else:
        assert value is not None
        raw = value
    if not as_json:
        return raw
    try:
        return json.loads(raw)
    except ValueError as error:
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        text = f"the value is not valid JSON{place}"
        hint = """Text needs quotes in JSON: '"text"'; or leave --json out."""
        raise CliError(text, hint=hint, code=ExitCode.USAGE) from None


@reports
def delete(
    key: Key,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Remove a key and its value.

    Removing what is not there is no failure.
    """
    deleted = call(lambda client: client.delete(key), address=address, namespace=namespace, timeout_s=timeout)
    if output is Format.JSON:
        print_json({"key": key, "namespace": namespace, "deleted": deleted})
    else:
        console().print("Deleted." if deleted else "There was no such key.")
