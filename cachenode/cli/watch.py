"""``watch``: what is written, removed and invalidated, as it happens."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.connection import client
from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import count, jsonable, shown

if TYPE_CHECKING:
    from cachenode_api.selectors import Selector
    from cachenode_client import Invalidated, Reset

__all__ = ["watch"]

_KINDS = {"PREFIX": "prefix", "GLOB": "pattern", "TAG": "tag", "NAMESPACE": "namespace"}
_MOST_KEYS = 10


@reports
def watch(
    namespace: Annotated[
        str,
        typer.Option("--namespace", "-n", metavar="NAME", help="Only this one; without it all.", show_default=False),
    ] = "*",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show what is written, removed and invalidated, as it happens, until Ctrl-C.

    One line an event; with -o json each line is a document. The owner of a key tells of it; prefixes, patterns, tags
    and namespaces are told by each node when it has done its part. A reset says that events of a node may have been
    missed. --timeout is for the beginning alone.
    """
    asyncio.run(_watch(address, namespace, timeout, output))


async def _watch(address: str, namespace: str, timeout_s: float, output: Format) -> None:
    async with (
        client(address, timeout_s=timeout_s) as watcher,
        watcher.watch(namespace=namespace) as events,
    ):
        nodes = "1 node" if events.members == 1 else f"{count(events.members)} nodes"
        where = "all namespaces" if namespace == "*" else f"namespace {namespace}"
        print(f"Watching {where} on {nodes}; Ctrl-C ends it.", file=sys.stderr, flush=True)  # noqa: T201 - for people
        async for event in events:
            line = _document(event) if output is Format.JSON else _line(event, datetime.now().astimezone())
            print(line, flush=True)  # noqa: T201 - the result


def _document(event: Invalidated | Reset) -> str:
    from cachenode_client import Reset

    document: dict[str, Any] = {"time": round(time.time(), 3), "node": event.node_id}
    if isinstance(event, Reset):
        document |= {"event": "reset"}
    else:
        document |= {
            "event": "invalidated",
            "sequence": event.sequence,
            "namespace": event.namespace,
            "keys": [_text(key) for key in event.keys],
            "selectors": [{"kind": _kind(each), "text": _text(each.text)} for each in event.selectors],
        }
    return json.dumps(document, ensure_ascii=False, default=jsonable)


def _line(event: Invalidated | Reset, now: datetime) -> str:
    from cachenode_client import Reset

    head = f"{now:%H:%M:%S}.{now.microsecond // 1_000:03}  {event.node_id or 'unknown':<10}"
    if isinstance(event, Reset):
        return f"{head}  reset: events may have been missed"
    parts = [shown(key) for key in event.keys[:_MOST_KEYS]]
    parts += [f"and {count(len(event.keys) - _MOST_KEYS)} more"] if len(event.keys) > _MOST_KEYS else []
    what = [f"{'key' if len(event.keys) == 1 else 'keys'} {', '.join(parts)}"] if parts else []
    what += ["everything" if _kind(each) == "namespace" else _selector(each) for each in event.selectors]
    return f"{head}  {event.namespace:<12}  {', '.join(what)}"


def _selector(selector: Selector) -> str:
    return f"{_kind(selector)} {shown(selector.text)}"


def _kind(selector: Selector) -> str:
    return _KINDS[selector.kind.name]


def _text(raw: bytes) -> str | bytes:
    """Return text as text, and bytes that are none as they are: JSON has them in base64."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
