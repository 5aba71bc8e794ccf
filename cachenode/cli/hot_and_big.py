"""``hotkeys`` and ``bigkeys``: the keys that are read most, and the largest values, over all nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import console, count, new_table, print_json, seconds, shown, size

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["bigkeys", "hotkeys"]

_WALK_TIMEOUT_S = 10.0

OneNamespace = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100, help="How many keys to show.")]


@reports
def hotkeys(
    namespace: OneNamespace = "",
    limit: Limit = 20,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _WALK_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show the keys that are read most, as their owners have seen it in the last minute or so.

    From samples of the reads: a key with a hundredth of its node's reads is there, its rate is right to a few parts in
    a hundred, and near caches and copies of hot keys answer without the owner. Share is of the reads of its node.
    """
    from cachenode.cli.admin import ask_hot_keys

    asked, answers = asyncio.run(ask_hot_keys(address, namespace, limit, timeout))
    rows = [(name, each) for name, answer in answers.items() if answer is not None for each in answer.keys]
    rows = sorted(rows, key=lambda row: -row[1].reads_per_s)[:limit]
    if output is Format.JSON:
        keys = [
            {
                "key": shown(each.key),
                "namespace": each.namespace,
                "node": name,
                "reads_per_s": round(each.reads_per_s, 3),
                "share": round(each.share, 6),
                "error": round(each.error, 6),
            }
            for name, each in rows
        ]
        print_json({"epoch": asked.view.epoch, "nodes": _nodes(answers), "keys": keys})
        return
    table = new_table()
    for heading in ("key", "namespace", "node"):
        table.add_column(heading, no_wrap=heading != "key")
    for heading in ("reads/s", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in rows:
        rate = f"{each.reads_per_s:,.0f}" if each.reads_per_s >= 10 else f"{each.reads_per_s:.1f}"
        table.add_row(_cell(each.key), each.namespace, name, rate, f"{each.share:.1%}")
    _show(table, answers, empty="No key was read lately.", some=bool(rows))


@reports
def bigkeys(
    namespace: OneNamespace = "",
    limit: Limit = 20,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _WALK_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show the largest values in the memory of the nodes.

    Each node walks through its entries, beside its other work: about a second for a million.
    """
    from cachenode.cli.admin import ask_big_keys

    asked, answers = asyncio.run(ask_big_keys(address, namespace, limit, timeout))
    rows = [(name, each) for name, answer in answers.items() if answer is not None for each in answer.keys]
    rows = sorted(rows, key=lambda row: -row[1].size)[:limit]
    if output is Format.JSON:
        keys = [
            {
                "key": shown(each.key),
                "namespace": each.namespace,
                "node": name,
                "size": each.size,
                "ttl_s": each.ttl_ms / 1_000 if each.HasField("ttl_ms") else None,
            }
            for name, each in rows
        ]
        print_json({"epoch": asked.view.epoch, "nodes": _nodes(answers), "keys": keys})
        return
    table = new_table()
    for heading in ("key", "namespace", "node"):
        table.add_column(heading, no_wrap=heading != "key")
    for heading in ("size", "bytes", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in rows:
        left = seconds(each.ttl_ms / 1_000) if each.HasField("ttl_ms") else "never expires"
        table.add_row(_cell(each.key), each.namespace, name, size(each.size), count(each.size), left)
    _show(table, answers, empty="The nodes hold no entries.", some=bool(rows))


def _cell(key: bytes) -> Any:  # noqa: ANN401 - rich's text, whose import costs time
    from rich.text import Text

    return Text(shown(key))  # a key may look like markup


def _nodes(answers: Mapping[str, pb.HotKeysResponse | pb.BigKeysResponse | None]) -> list[dict[str, Any]]:
    return [{"id": name, "answers": answer is not None} for name, answer in answers.items()]


def _show(
    table: Any,  # noqa: ANN401 - rich's table
    answers: Mapping[str, pb.HotKeysResponse | pb.BigKeysResponse | None],
    *,
    empty: str,
    some: bool,
) -> None:
    screen = console()
    if some:
        screen.print(table)
    else:
        screen.print(empty)
    for name, answer in answers.items():
        if answer is None:
            screen.print(f"{name} does not answer: its keys are missing here.", style="red")
