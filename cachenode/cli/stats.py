"""``stats``: what every node has counted, by node and by namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import bar, console, count, new_table, percent, print_json, seconds, size

if TYPE_CHECKING:
    from rich.console import Console

    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["stats"]

_COUNTERS = (
    "entries",
    "used_bytes",
    "l1_hits",
    "l2_hits",
    "misses",
    "sets",
    "deletes",
    "invalidations",
    "evictions",
    "expirations",
    "loads",
    "negative_hits",
    "load_waits",
    "load_failures",
    "stand_in_loads",
    "renewals",
    "expired",
    "adaptive_ttls",
    "adaptive_ttl_s",
    "slides",
    "warmed",
    "warm_failures",
    "cascades",
    "cascaded_entries",
    "dependents",
    "bloom_absences",
    "bloom_passed",
    "bloom_false_positives",
    "bloom_bytes",
    "quota_evictions",
    "quota_refusals",
    "admitted",
    "not_admitted",
)
_L2_STATES = {
    "off": "none",
    "closed": "[green]healthy[/]",
    "open": "[red]not used[/]",
    "half_open": "[yellow]being tried[/]",
    "catching_up": "[yellow]catching up[/]",
}

_BREAKERS = {
    "closed": "[green]healthy[/]",
    "open": "[red]left alone[/]",
    "half_open": "[yellow]being tried[/]",
}

_WIDE = 120
"""Columns of a terminal from which on everything is shown; what is essential fits 80."""
_ESSENTIAL_OF_NODE = 7
_BAR = 8
_ESSENTIAL_OF_NAMESPACE = 6
_LEFT = frozenset({"node", "namespace", "memory", "L2", "in use"})

Answers = Mapping[str, "pb.GetStatsResponse | None"]


@reports
def stats(
    address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """Show what the nodes have counted since they started: memory, hits, misses, evictions.

    Near is how many clients may hold copies in a near cache, waits how many writes waited for such clients, swept how
    many entries prefixes, patterns, tags and namespaces removed from memory; absent how many reads were told at once
    that the origin has nothing. Of each origin: the calls of its loader, those that failed or were made again, what is
    under way, and whether it is left alone because it kept failing.
    """
    from cachenode.cli.admin import ask_stats

    asked, answers = asyncio.run(ask_stats(address, timeout))
    if output is Format.JSON:
        nodes = [_document(name, answer) for name, answer in answers.items()]
        print_json({"epoch": asked.view.epoch, "nodes": nodes})
        return
    screen = console()
    _print_nodes(screen, answers)
    _print_namespaces(screen, answers)
    if any(answer.origins for answer in answers.values() if answer is not None):
        _print_origins(screen, answers)
    if any(_writes(origin) for answer in answers.values() if answer is not None for origin in answer.origins):
        _print_sinks(screen, answers)


def _document(name: str, answer: pb.GetStatsResponse | None) -> dict[str, Any]:
    if answer is None:
        return {"id": name, "answers": False}
    return {
        "id": name,
        "answers": True,
        "incarnation": answer.incarnation,
        "version": answer.version,
        "uptime_s": round(answer.uptime_s, 3),
        "max_bytes": answer.max_bytes,
        "used_bytes": answer.used_bytes,
        "sessions": answer.sessions,
        "l2_state": answer.l2_state,
        "l2_errors": answer.l2_errors,
        "forwarded": answer.forwarded,
        "near_holders": answer.near_holders,
        "invalidation_waits": answer.invalidation_waits,
        "swept": answer.swept,
        "shed": dict(answer.shed),
        "pressure": round(answer.pressure, 4),
        "event_invalidations": answer.event_invalidations,
        "events": [{"source": each.source, "outcome": each.outcome, "count": each.count} for each in answer.events],
        "namespaces": [_of_namespace(space) for space in answer.namespaces],
        "origins": [_of_origin(origin) for origin in answer.origins],
    }


def _of_namespace(space: pb.NamespaceStats) -> dict[str, Any]:
    hits, reads = _reads(space)
    counters = {name: getattr(space, name) for name in _COUNTERS}
    return {"name": space.name, **counters, "hit_ratio": round(hits / reads, 6) if reads else None}


def _of_origin(origin: pb.OriginStats) -> dict[str, Any]:
    return {field.name: getattr(origin, field.name) for field in origin.DESCRIPTOR.fields}


def _reads(*spaces: pb.NamespaceStats) -> tuple[int, int]:
    """Return hits and reads."""
    hits = sum(space.l1_hits + space.l2_hits for space in spaces)
    return hits, hits + sum(space.misses for space in spaces)


def _print_nodes(screen: Console, answers: Answers) -> None:
    essential = ("node", "up", "memory", "keys", "hit ratio", "clients", "L2")
    headings = (*essential, "near", "waits", "swept", "forwarded", "L2 errors", "in use")
    shown = len(headings) if screen.width >= _WIDE else _ESSENTIAL_OF_NODE
    table = new_table()
    for heading in headings[:shown]:
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for name, answer in answers.items():
        if answer is None:
            table.add_row(name, "-", "[red]does not answer[/]")
            continue
        cells = (
            name,
            seconds(answer.uptime_s),
            f"{size(answer.used_bytes)} of {size(answer.max_bytes)}",
            count(sum(space.entries for space in answer.namespaces)),
            percent(*_reads(*answer.namespaces)),
            count(answer.sessions),
            _L2_STATES.get(answer.l2_state, answer.l2_state),
            count(answer.near_holders),
            count(answer.invalidation_waits),
            count(answer.swept),
            count(answer.forwarded),
            count(answer.l2_errors),
            bar(answer.used_bytes, answer.max_bytes, _BAR, ascii_only=screen.options.ascii_only),
        )
        table.add_row(*cells[:shown])
    screen.print(table)


def _print_namespaces(screen: Console, answers: Answers) -> None:
    spaces: dict[str, dict[str, pb.NamespaceStats]] = {}
    for node, answer in answers.items():
        for space in answer.namespaces if answer is not None else ():
            spaces.setdefault(space.name, {})[node] = space
    essential = ("namespace", "node", "keys", "size", "L1 hits", "L2 hits", "misses", "hit ratio")
    headings = (*essential, "sets", "deletes", "invalid", "evicted", "expired", "loads", "absent")
    cells = len(headings) - 2 if screen.width >= _WIDE else _ESSENTIAL_OF_NAMESPACE
    table = new_table()
    for heading in headings[: cells + 2]:
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for name, nodes in sorted(spaces.items()):
        several = len(nodes) > 1
        for at, (node, space) in enumerate(nodes.items()):
            last = at == len(nodes) - 1
            table.add_row(name if at == 0 else "", node, *_cells([space])[:cells], end_section=last and not several)
        if several:
            table.add_row(
                "", "[bold]all[/]", *(f"[bold]{cell}[/]" for cell in _cells(nodes.values())[:cells]), end_section=True
            )
    screen.print(table)
    if screen.width < _WIDE:
        screen.print(
            "A wider terminal, or -o json, also shows writes, invalidations, evictions and what nodes wait for."
        )


def _print_origins(screen: Console, answers: Answers) -> None:
    table = new_table()
    for heading in ("origin", "node", "calls", "keys", "failed", "again", "mean", "busy", "waiting", "breaker"):
        left = heading in {"origin", "node", "breaker"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    rows = [(origin, node) for node, answer in answers.items() if answer is not None for origin in answer.origins]
    former = ""
    for origin, node in sorted(rows, key=lambda row: row[0].name):
        mean = f"{origin.seconds / origin.calls * 1_000:,.1f} ms" if origin.calls else "-"
        numbers = (origin.calls, origin.keys, origin.failures, origin.retries)
        name, former = origin.name if origin.name != former else "", origin.name
        state = _BREAKERS.get(origin.state, origin.state)
        table.add_row(name, node, *map(count, numbers), mean, count(origin.busy), count(origin.waiting), state)
    screen.print(table)


def _writes(origin: pb.OriginStats) -> int:
    return origin.written + origin.write_failures + origin.uncertain_writes + origin.writes_waiting


def _print_sinks(screen: Console, answers: Answers) -> None:
    table = new_table()
    for heading in ("sink", "node", "written", "failed", "uncertain", "calls", "again", "mean", "waiting", "breaker"):
        left = heading in {"sink", "node", "breaker"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    rows = [(origin, node) for node, answer in answers.items() if answer is not None for origin in answer.origins]
    former = ""
    for origin, node in sorted(rows, key=lambda row: row[0].name):
        if not _writes(origin):
            continue
        mean = f"{origin.write_seconds / origin.write_calls * 1_000:,.1f} ms" if origin.write_calls else "-"
        ends = (origin.written, origin.write_failures, origin.uncertain_writes, origin.write_calls)
        name, former = origin.name if origin.name != former else "", origin.name
        state = _BREAKERS.get(origin.write_state, origin.write_state)
        numbers = map(count, (*ends, origin.write_retries))
        table.add_row(name, node, *numbers, mean, count(origin.writes_waiting), state)
    screen.print(table)


def _cells(spaces: Iterable[pb.NamespaceStats]) -> list[str]:
    spaces = list(spaces)
    sums = {name: sum(getattr(space, name) for space in spaces) for name in _COUNTERS}
    cells = [size(sums[name]) if name == "used_bytes" else count(sums[name]) for name in _COUNTERS]
    return [*cells[:5], percent(*_reads(*spaces)), *cells[5:]]
