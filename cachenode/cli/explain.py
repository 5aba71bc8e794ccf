"""``explain``: where a key's value is, and why a read finds what it finds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Key
from cachenode.cli.options import Address, Format, Namespace, Output, Timeout
from cachenode.cli.output import console, count, new_table, print_json, seconds, shown, size, version

if TYPE_CHECKING:
    from cachenode.cli.admin import Asked
    from cachenode.findings.explained import Answers
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["explain"]


@reports
def explain(
    key: Key,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show where a key's value is, and why a read finds what it finds; never the value itself.

    Every node is asked: whether it acts for the key, what its memory holds, what it makes of L2, what was invalidated,
    who may hold copies, and what is being loaded or written just now. Versions are those of `get --meta`, as
    epoch:write.
    """
    from cachenode.cli.admin import ask_explanations
    from cachenode.findings.explained import document
    from cachenode_client._checks import checked_key, checked_namespace

    raw = checked_key(key)
    asked, answers = asyncio.run(ask_explanations(address, checked_namespace(namespace), raw, timeout))
    if output is Format.JSON:
        print_json(document(key, raw, namespace, asked.view, answers))
    else:
        _print(key, namespace, asked, answers)


def _print(key: str, namespace: str, asked: Asked, answers: Answers) -> None:
    from cachenode.findings.explained import notes, owner_of

    screen = console()
    owner = owner_of(asked.view, key.encode())
    text = f"{shown(key.encode())} in namespace {namespace} belongs to {owner} (view {asked.view.epoch})."
    screen.print(text, markup=False, soft_wrap=True)
    table = new_table()
    for heading in ("node", "role", "memory (L1)", "L2", "near copies"):
        table.add_column(heading, justify="right" if heading == "near copies" else "left", no_wrap=heading == "node")
    for name, answer in answers.items():
        if answer is None:
            table.add_row(name, "[red]does not answer[/]")
            continue
        copies = count(answer.near_holders) if answer.near_holders else "-"
        table.add_row(name, _role(name, answer), _l1(answer), _l2(answer), copies)
    screen.print(table)
    for line in notes(key, asked.view, answers):
        screen.print(line, markup=False, soft_wrap=True)


def _role(name: str, answer: pb.ExplainResponse) -> str:
    if not answer.ready:
        return "[yellow]not in the view: refuses calls[/]"
    if answer.fenced:
        return "[red]lease over: keeps and writes nothing[/]"
    if answer.gained:
        return "[yellow]owner, not settled: reads go to L2, writes wait[/]"
    return "[green]owner[/]" if answer.owner == name else f"passes on to {answer.owner}"


def _entry(entry: pb.HeldEntry) -> str:
    life = f"{seconds(entry.ttl_ms / 1_000)} left" if entry.HasField("ttl_ms") else "never expires"
    return f"version {version(entry.version)}, {life}, {size(entry.size)}"


def _l1(answer: pb.ExplainResponse) -> str:
    from cachenode.findings.explained import NOT_SERVED, STALE

    if not answer.HasField("l1"):
        return "-"
    why = STALE if answer.l1_state == "stale" else NOT_SERVED.get(answer.l1_state)
    return f"{_entry(answer.l1)}; [yellow]{why}[/]" if why else _entry(answer.l1)


def _l2(answer: pb.ExplainResponse) -> str:
    from cachenode.findings.explained import NOT_BELIEVED, STALE

    why = STALE if answer.l2_state == "stale" else NOT_BELIEVED.get(answer.l2_state, "")
    if answer.l2_state in {"absent", "off"}:
        return f"[dim]{why}[/]"
    if not answer.HasField("l2"):
        return f"[yellow]{why}[/]"
    return f"{_entry(answer.l2)}; [yellow]{why}[/]" if why else _entry(answer.l2)
