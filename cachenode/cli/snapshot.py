"""``snapshot``: which keys are in the nodes' memory, with what is known about their entries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS
from cachenode.cli.options import Address, Timeout
from cachenode.cli.output import console, count, jsonable

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["snapshot"]

_LONGEST_S = 3_600.0


@reports
def snapshot(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
    ] = "",
    node: Annotated[str, typer.Option("--node", metavar="ID", help="Only of this node; else of all.")] = "",
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with this.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Write there; without it on standard output.")
    ] = None,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="A key a line, as `warm --keys` takes them; takes --namespace.")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", min=1, max=10_000_000, help="Entries looked at a second and node.")
    ] = 50_000,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _LONGEST_S,
) -> None:
    """Write the keys in the nodes' memory, each a line of JSON with its size, life, version and heat; never a value.

    Nodes walk through their entries beside their other work. What is there all the time is written once; what comes
    meanwhile may be missing. A file takes its name when it is whole. Exit code 3: no member has this id; 1: a node did
    not answer to the end.
    """
    if keys_only and not namespace:
        raise CliError("--keys-only: say of which namespace, with -n", code=ExitCode.USAGE)
    from cachenode_api.v1 import admin_pb2 as pb

    request = pb.SnapshotRequest(namespace=namespace, prefix=prefix.encode(), rate_per_s=rate)
    with _opened(file) as out:
        written, skipped = asyncio.run(_write(out, address, node, request, timeout, keys_only=keys_only))
    screen = console(stderr=True)
    if skipped:
        screen.print(f"{count(skipped)} keys with line ends in them were left out.", markup=False)
    if file is not None:
        screen.print(f"{count(written)} keys written to {file}.", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _opened(file: Path | None) -> Iterator[BinaryIO]:
    """Open where the snapshot goes. A file gets its name at the end, so that nobody takes a part for the whole."""
    if file is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as out:
            part.chmod(0o600)  # keys may say much
            yield out
        part.replace(file)
    except OSError as error:
        raise CliError(f"--file: cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
    finally:
        part.unlink(missing_ok=True)


async def _write(
    out: BinaryIO, address: str, node: str, request: pb.SnapshotRequest, timeout_s: float, *, keys_only: bool
) -> tuple[int, int]:
    """Write what every node has, one node after the other; return how many keys were written and left out."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cachenode.cli.admin import first_view, snapshot, targets_of

    asked, _ = await first_view(address, min(timeout_s, 10.0))
    targets = targets_of(asked)
    if node and node not in targets:
        hint = "`cachenode view` shows the members."
        raise CliError(f"no member is called {node}", hint=hint, code=ExitCode.NOT_FOUND)
    written = skipped = 0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        for name in [node] if node else targets:
            shown = bar.add_task(name, total=None)
            async for part in snapshot(targets[name], request, timeout_s):
                for entry in part.entries:
                    if keys_only and (b"\n" in entry.key or b"\r" in entry.key):
                        skipped += 1
                        continue
                    out.write(entry.key + b"\n" if keys_only else _line(name, entry))
                    written += 1
                bar.update(shown, completed=part.passed, total=max(part.total, part.passed))
    return written, skipped


def _line(node: str, entry: pb.SnapshotEntry) -> bytes:
    document = {
        "node": node,
        "namespace": entry.namespace,
        "key": _text(entry.key),
        "size": entry.size,
        "ttl_s": entry.ttl_ms / 1_000 if entry.HasField("ttl_ms") else None,
        "version": entry.version,
        "stale": entry.stale,
        "heat": entry.heat,
    }
    return json.dumps(document, ensure_ascii=False, default=jsonable).encode() + b"\n"


def _text(key: bytes) -> str | bytes:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
