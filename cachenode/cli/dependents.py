"""``dependents``: what becomes untrue when a key changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import typer

from cachenode.cli.errors import CliError, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Key
from cachenode.cli.options import Address, Namespace, Timeout
from cachenode.cli.output import console, new_table, print_json, seconds, shown

__all__ = ["dependents"]

_KEYS_AT_ONCE = 1_000

Name = tuple[str, bytes]


class GraphFormat(StrEnum):
    """How a graph is written."""

    TABLE = "table"
    JSON = "json"
    DOT = "dot"


@dataclass(frozen=True, slots=True)
class Edge:
    """A key that names another as its parent; `ttl_s` is the longest that it may still live, None without end."""

    parent: Name
    dependent: Name
    depth: int
    ttl_s: float | None


@dataclass(slots=True)
class Graph:
    """What depends on a key; `silent` nodes did not answer, and `more` says that not all is shown."""

    root: Name
    edges: list[Edge] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    more: bool = False


@reports
def dependents(
    key: Key,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    depth: Annotated[
        int, typer.Option("--depth", metavar="N", min=1, max=128, help="How far to go: 1 for those that name the key.")
    ] = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Annotated[
        GraphFormat,
        typer.Option("--output", "-o", help="For people (table), for programs (json), or for graphviz (dot)."),
    ] = GraphFormat.TABLE,
) -> None:
    """Show what depends on a key, and what depends on that: all that goes when the key changes.

    Every node is asked for what it knows of its keys. An entry that was evicted or has expired is shown until its life
    would have ended at the latest.
    """
    from cachenode_client._checks import checked_key, checked_namespace

    root = (checked_namespace(namespace), checked_key(key))
    graph = asyncio.run(_walk(root, address, depth, timeout))
    if output is GraphFormat.JSON:
        print_json(_document(graph))
    elif output is GraphFormat.DOT:
        typer.echo("\n".join(_dot(graph)))
    else:
        _print(graph)
    if graph.silent:
        names = ", ".join(sorted(graph.silent))
        raise CliError(f"no answer from {names}; what depends on their keys is missing", hint="Look again later.")


async def _walk(root: Name, address: str, depth: int, timeout_s: float) -> Graph:
    """Ask for what depends on a key, then for what depends on that, and so on."""
    from cachenode.cli.admin import ask_dependents, first_view

    asked, _ = await first_view(address, timeout_s)
    graph, known, layer = Graph(root), {root}, [root]
    for at in range(1, depth + 1):
        found: list[Edge] = []
        for first in range(0, len(layer), _KEYS_AT_ONCE):
            answers = await ask_dependents(asked, layer[first : first + _KEYS_AT_ONCE], timeout_s)
            for name, answer in answers.items():
                if answer is None:
                    graph.silent.add(name)
                    continue
                graph.more = graph.more or answer.more
                found += [_edge(each, at) for each in answer.dependencies if each.direct]
        graph.edges += found
        layer = list(dict.fromkeys(edge.dependent for edge in found if edge.dependent not in known))
        known.update(layer)
        if not layer:
            break
    return graph


def _edge(found: Any, depth: int) -> Edge:  # noqa: ANN401 - a message, which is imported late
    parent, dependent = found.parent, found.dependent
    ttl_s = found.ttl_ms / 1_000 if found.HasField("ttl_ms") else None
    return Edge((parent.namespace, parent.key), (dependent.namespace, dependent.key), depth, ttl_s)


def _label(name: Name) -> str:
    return f"{name[0]}/{shown(name[1])}"


def _document(graph: Graph) -> dict[str, Any]:
    namespace, key = graph.root
    return {
        "namespace": namespace,
        "key": shown(key),
        "dependents": [
            {
                "namespace": edge.dependent[0],
                "key": shown(edge.dependent[1]),
                "parent": {"namespace": edge.parent[0], "key": shown(edge.parent[1])},
                "depth": edge.depth,
                "ttl_s": edge.ttl_s,
            }
            for edge in graph.edges
        ],
        "more": graph.more,
        "silent": sorted(graph.silent),
    }


def _dot(graph: Graph) -> Iterator[str]:
    yield "digraph dependents {"
    yield "  rankdir=LR;"
    yield f"  {_quoted(graph.root)} [shape=box];"
    for edge in graph.edges:
        yield f"  {_quoted(edge.parent)} -> {_quoted(edge.dependent)};"
    yield "}"


def _quoted(name: Name) -> str:
    text = _label(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _print(graph: Graph) -> None:
    screen = console()
    if not graph.edges:
        screen.print(f"Nothing depends on {_label(graph.root)}.", markup=False, soft_wrap=True)
        return
    table = new_table()
    for heading in ("depth", "dependent", "depends on", "ends in"):
        table.add_column(heading, justify="right" if heading in {"depth", "ends in"} else "left")
    for row in _rows(graph.edges):
        table.add_row(*row)
    screen.print(table)
    if graph.more:
        screen.print("There are more than can be shown.")


def _rows(edges: Sequence[Edge]) -> Iterator[tuple[str, str, str, str]]:
    from rich.markup import escape

    for edge in edges:
        ends = "never" if edge.ttl_s is None else seconds(edge.ttl_s)
        yield str(edge.depth), escape(_label(edge.dependent)), escape(_label(edge.parent)), ends
